// Everybody in one table: what they have, what they could have, and what keeps them from more.

import { $, attr, duration, el, keyed, kilowatts, limitBar, phases, put, voltageClass, volts, worst } from "./format.js";
import { choose } from "./main.js";

const COLUMNS = [
  ["id", "Customer", ""],
  ["phase", "Phase", ""],
  ["u", "Voltage [V]", "num"],
  ["export", "Export [kW]", "num"],
  ["limit", "Limit [kW]", "num"],
  ["bar", "Limit of contract", ""],
  ["headroom", "Could have now [kW]", "num"],
  ["why", "Not more because", ""],
  ["lease", "Lease left", "num"],
  ["age", "Reading age", "num"],
];
const SORTS = {
  id: (c) => [c.id.replace(/\d+/g, (n) => n.padStart(9, "0"))],
  phase: (c) => [phases(c)],
  u: (c, band) => [worst(c, band) ?? -1],
  export: (c) => [c.export_w ?? -1e9],
  limit: (c) => [c.limit_w],
  headroom: (c) => [c.headroom_w ?? -1],
  why: (c) => [c.why_not_more ?? ""],
  lease: (c) => [c.lease_left_s ?? -1],
  age: (c) => [c.age_s ?? 1e9],
};
let sort = ["id", 1];
let body = null;

export function start(world) {
  const head = el("tr");
  for (const [key, title, kind] of COLUMNS) {
    const cell = el("th", { scope: "col", class: kind });
    if (SORTS[key]) {
      const button = el("button", { type: "button" }, title);
      button.addEventListener("click", () => {
        sort = [key, sort[0] === key ? -sort[1] : 1];
        mark(head);
        if (world.look) draw(world);
      });
      cell.append(button);
      cell.dataset.sort = key;
    } else cell.append(title);
    head.append(cell);
  }
  mark(head);
  body = el("tbody", { class: "live" });
  $("customer-table").append(el("caption", { class: "unseen" }, "Customers with voltage, export, limits and what binds them"), el("thead", {}, head), body);
  $("which").addEventListener("change", () => world.look && draw(world));
}

function mark(head) {
  for (const cell of head.children) {
    if (cell.dataset.sort === sort[0]) cell.setAttribute("aria-sort", sort[1] > 0 ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  }
}

const SHOWN = {
  all: () => true,
  granted: (c) => c.granted_w !== null,
  bound: (c) => c.why_not_more !== null,
  wrong: (c, look) => c.alarms.length > 0 || !c.linked || c.quality !== "good" || look.alarms.some((a) => a.who === c.id),
};

export function draw(world) {
  const look = world.look;
  const by = SORTS[sort[0]];
  const rows = look.customers.filter((c) => SHOWN[$("which").value](c, look));
  rows.sort((a, b) => {
    const [x, y] = [by(a, look.band_v)[0], by(b, look.band_v)[0]];
    return sort[1] * (x < y ? -1 : x > y ? 1 : 0);
  });
  if (!rows.length) {
    keyed(body, ["none"], (x) => x, () => el("tr", {}, el("td", { colspan: COLUMNS.length, class: "empty" }, "Nobody.")));
    return;
  }
  keyed(body, rows, (c) => c.id, make, (node, c) => renew(node, c, look));
}

function make(c) {
  const link = el("a", { href: "#/street" }, c.id);
  link.addEventListener("click", () => choose(c.id));
  const row = el("tr", {}, el("th", { scope: "row" }, link));
  for (const [key, title, kind] of COLUMNS.slice(1)) row.append(el("td", { class: key === "why" ? "why" : key === "bar" ? "wide" : kind, "data-label": key === "bar" ? "" : title }));
  const voltage = row.children[2];
  voltage.append(el("span", { class: "swatch", "aria-hidden": "true" }), el("span"));
  row.bar = limitBar(c);
  row.children[5].append(row.bar(c));
  return row;
}

function renew(row, c, look) {
  const cells = row.children;
  const u = worst(c, look.band_v);
  const good = c.quality === "good";
  put(cells[1], phases(c));
  attr(cells[2].firstChild, "class", `swatch s-${c.phases.length === 1 ? c.phases[0] : "all"} ${voltageClass(u, look.band_v)}`);
  put(cells[2].lastChild, good ? c.u_v.map(volts).join(" ") : c.quality);
  put(cells[3], good ? kilowatts(c.export_w) : "?");
  put(cells[4], kilowatts(c.limit_w));
  row.bar(c);
  cells[5].classList.toggle("none", c.contract_w <= c.nominal_w);
  put(cells[6], c.contract_w <= c.nominal_w ? "" : kilowatts(c.headroom_w));
  put(cells[7], [...c.alarms, ...(c.linked ? [] : ["no session"]), ...(c.why_not_more ? [c.why_not_more] : [])].join("; "));
  put(cells[8], c.lease_left_s === null ? "" : duration(c.lease_left_s));
  put(cells[9], c.age_s === null ? "none" : duration(c.age_s));
}
