// Who was granted what and when, as a timeline and as a list with reasons.

import { $, clock, date, el, keyed, power, svg } from "./format.js";
import { fetchReceipt } from "./ledger.js";

const SPAN_S = 900;
const ROWS_MAX = 400;
const ENDS = new Set(["revoke", "release", "expired"]);
let body = null;
let drawn = "";
let drawnAt = 0;

export function start(world) {
  const titles = ["Time [UTC]", "Customer", "What", "In words", "Decision", "Ledger entry"];
  body = el("tbody");
  $("decision-table").append(
    el("caption", { class: "unseen" }, "Decisions, newest first"),
    el("thead", {}, el("tr", {}, ...titles.map((title) => el("th", { scope: "col" }, title)))),
    body,
  );
  for (const id of ["kind", "of"]) $(id).addEventListener("change", () => draw(world, true));
}

export function show() {
  drawn = "";
}

export function draw(world, now = false) {
  const rows = [...world.decisions.values()];
  const newest = rows.at(-1)?.key ?? "";
  const key = `${rows.length} ${newest} ${rows.at(-1)?.position}`;
  if (performance.now() - drawnAt > 5000 || key !== drawn || now) {
    drawnAt = performance.now();
    timeline(rows, world.look);
  }
  if (key === drawn && !now) return;
  drawn = key;
  options($("kind"), [...new Map(rows.map((r) => [r.kind, r.headline]))]);
  options($("of"), [...new Set(rows.map((r) => r.meter).filter((m) => m !== null))].sort(natural).map((m) => [m, m]));
  const wanted = rows.filter((r) => (!$("kind").value || r.kind === $("kind").value) && (!$("of").value || r.meter === $("of").value));
  const shown = wanted.slice(-ROWS_MAX).reverse();
  if (!shown.length) {
    keyed(body, ["none"], (x) => x, () => el("tr", {}, el("td", { colspan: 6, class: "empty" }, "No decision of this kind is known here; the ledger has them all.")));
    return;
  }
  keyed(body, shown, (r) => `${r.key} ${r.position}`, make);
}

const natural = (a, b) => a.localeCompare(b, "en", { numeric: true });

function options(select, pairs) {
  const have = new Set([...select.options].map((o) => o.value));
  for (const [value, text] of pairs) if (!have.has(value)) select.append(el("option", { value }, text));
}

function make(r) {
  const receipt = el("td", { "data-label": "Ledger entry" });
  if (r.position !== null) {
    const link = el("a", { href: "#/ledger", title: "Its receipt, verified in this browser" }, `${r.position}`);
    link.setAttribute("aria-label", `Receipt of entry ${r.position}`);
    link.addEventListener("click", () => fetchReceipt(r.position, r.meter));
    receipt.append(link);
  }
  return el("tr", {},
    el("td", { "data-label": "" }, el("time", { datetime: new Date(1000 * r.utc_s).toISOString(), title: date(r.utc_s) }, clock(r.utc_s))),
    el("td", { "data-label": "" }, el("b", {}, r.meter ?? "")),
    el("td", { "data-label": "" }, el("span", { class: `kind ${r.kind}` }, r.headline)),
    el("td", { class: "why" }, r.words),
    el("td", { "data-label": "Decision" }, r.decision ?? ""),
    receipt);
}

/** Spans of grants by customer from the decisions that are known, and from what is live now. */
function spans(rows, look, from) {
  const found = new Map();
  const open = new Map();
  const close = (meter, to, end) => {
    const span = open.get(meter);
    open.delete(meter);
    if (span && to > from) {
      if (!found.has(meter)) found.set(meter, []);
      found.get(meter).push({ ...span, to, end });
    }
  };
  for (const r of rows) {
    if (r.kind === "start") for (const meter of [...open.keys()]) close(meter, r.utc_s, "start");
    if (r.meter === null) continue;
    if (r.kind === "grant" || r.kind === "lowered") {
      close(r.meter, r.utc_s, null);
      open.set(r.meter, { from: r.utc_s, limit_w: r.limit_w });
    } else if (ENDS.has(r.kind)) close(r.meter, r.utc_s, r.kind);
  }
  for (const c of look.customers) {
    if (c.granted_w === null) continue;
    const span = open.get(c.id) ?? { from, limit_w: c.granted_w };
    open.set(c.id, span);
  }
  for (const meter of [...open.keys()]) close(meter, look.utc_s, null);
  return found;
}

function timeline(rows, look) {
  if (look.utc_s === null) return;
  const to = look.utc_s, from = to - SPAN_S;
  const found = spans(rows, look, from);
  const contract = new Map(look.customers.map((c) => [c.id, c.contract_w]));
  const names = [...found.keys()].sort(natural);
  if (!names.length) {
    $("timeline").replaceChildren(el("p", { class: "quiet" }, "Nobody had a grant."));
    return;
  }
  const width = Math.max(320, $("timeline").clientWidth || 1000), left = 76, right = 8, step = 17, top = 4;
  const height = top + step * names.length + 22;
  const x = (t) => left + ((width - left - right) * (Math.max(t, from) - from)) / SPAN_S;
  const words = `${names.length} customers had a grant; ${look.granted} have one now. The list below has every change.`;
  const box = svg("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", height, role: "img", "aria-label": words });
  for (let m = 0; m <= 15; m += 5) {
    const at = x(to - 60 * m);
    box.append(svg("line", { class: "axis", x1: at, x2: at, y1: top, y2: height - 18 }), text(m ? at : at - 2, height - 5, m ? `−${m} min` : "now", m === 15 ? "start" : m ? "middle" : "end"));
  }
  names.forEach((name, k) => {
    const y = top + step * k;
    box.append(text(left - 8, y + 12, name, "end", "strong"), svg("line", { class: "axis", x1: left, x2: width - right, y1: y + step - 1.5, y2: y + step - 1.5 }));
    for (const span of found.get(name)) {
      const high = 13 * Math.min(1, (span.limit_w ?? 0) / (contract.get(name) || 1));
      const bar = svg("rect", { class: "gauge-limit", x: x(span.from).toFixed(1), y: (y + 15 - high).toFixed(1), width: Math.max(1.5, x(span.to) - x(span.from) - 0.5).toFixed(1), height: high.toFixed(1) });
      const title = svg("title");
      title.append(`${name}: ${power(span.limit_w)} from ${clock(span.from)} to ${clock(span.to)}${span.end ? `, ${span.end}` : ""}`);
      bar.append(title);
      box.append(bar);
      if (span.end === "revoke") box.append(text(x(span.to) + 1, y + 12, "✕", "start", "strong"));
    }
  });
  $("timeline").replaceChildren(box, el("p", { class: "quiet" }, el("small", {}, "Height: share of the contract. Limits between a grant and its next change by decision; renewals may have changed them a little. ✕ revoked.")));
}

function text(x, y, inside, anchor, kind = "") {
  const made = svg("text", { x, y, "text-anchor": anchor, class: kind });
  made.append(inside);
  return made;
}
