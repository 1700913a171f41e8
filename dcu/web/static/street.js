// The feeder, key figures, alarms, latest decisions, and one customer in full.

import { $, CLASSES, clock, date, duration, el, get, keyed, limitBar, phases, power, put, svg, volts } from "./format.js";
import { Diagram } from "./diagram.js";
import { draw as chart } from "./chart.js";
import { choose } from "./main.js";

const LATEST = 7;
const TRACE_MAX = 900;
const FORMS = ["tree", "profile", "map"];
let diagram = null;
let traces = null;
let asked = null;
let names = "";
let hours = 0;
let past = null;
let parts = null;

export function start(world) {
  for (const name of FORMS) $(`as-${name}`).addEventListener("click", () => form(name));
  $("pick").addEventListener("change", () => choose($("pick").value));
  addEventListener("resize", () => {
    diagram?.fit();
    if (world.look) charts(world);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => world.look && charts(world));
}

function form(name) {
  for (const other of FORMS) $(`as-${other}`).setAttribute("aria-pressed", String(other === name));
  diagram?.setForm(name);
}

export function draw(world) {
  const look = world.look;
  const now = look.customers.map((c) => c.id).join("\n");
  if (now !== names) {
    names = now;
    renewNames(world);
  }
  figures(look);
  diagram?.draw(look, world.chosen);
  alarms(look);
  latest(world);
  customer(world);
}

/** Other customers than before: another drawing. */
function renewNames(world) {
  const found = world.look.customers;
  $("pick").replaceChildren(...found.map((c) => el("option", { value: c.id }, c.id)));
  if (!found.some((c) => c.id === world.chosen)) world.chosen = (found.find((c) => c.contract_w > c.nominal_w) ?? found[0])?.id ?? null;
  get("/api/feeder").then((feeder) => {
    diagram = new Diagram($("diagram"), feeder, choose);
    legend(world.look);
    $("as-map").hidden = feeder.map === null;
    $("as-profile").hidden = feeder.longest_ohm === null;
    $("as-tree").parentElement.hidden = feeder.longest_ohm === null;
    put($("h-feeder"), feeder.name ? `Feeder ${feeder.name}` : "Feeder");
    diagram.draw(world.look, world.chosen);
  });
  chosen(world);
}

// ---- key figures -------------------------------------------------------------------------------------------------------

function figure(title) {
  const value = el("span"), unit = el("span", { class: "unit" }), more = el("div", { class: "more" });
  const box = el("div", {}, el("dt", {}, title), el("dd", {}, value, " ", unit, more));
  $("figures").append(box);
  return { box, value, unit, more };
}

function tell(box, value, unit, more, bad = false) {
  put(box.value, value);
  put(box.unit, unit);
  put(box.more, more);
  box.box.classList.toggle("bad", bad);
}

let shown = null;

function figures(look) {
  if (shown === null) {
    $("figures").classList.add("live");
    shown = ["Highest voltage", "Lowest voltage", "Exported", "Granted beyond nominal", "Live grants", "Ledger"].map(figure);
  }
  const points = look.customers.flatMap((c) => (c.quality === "good" ? c.u_v.map((u, k) => [u, `${c.id} ${c.phases[k]}`]) : [])).filter(([u]) => u !== null);
  const [highest, lowest, exported, increase, grants, ledger] = shown;
  const top = points.reduce((a, b) => (b[0] > a[0] ? b : a), [-Infinity, ""]);
  const low = points.reduce((a, b) => (b[0] < a[0] ? b : a), [Infinity, ""]);
  const band = look.band_v;
  if (!points.length || !band) for (const one of [highest, lowest]) tell(one, "–", "", "no good reading");
  else {
    const gap = (u) => `${Math.abs(u).toFixed(1)} V ${u >= 0 ? "to the limit" : "BEYOND the limit"}`;
    tell(highest, volts(top[0]), "V", `${top[1]}, ${gap(band[1] - top[0])}`, top[0] > band[1]);
    tell(lowest, volts(low[0]), "V", `${low[1]}, ${gap(low[0] - band[0])}`, low[0] < band[0]);
  }
  const known = look.customers.filter((c) => c.quality === "good").length;
  tell(exported, look.export_w === null ? "–" : (look.export_w / 1000).toFixed(1), "kW", `${known} of ${look.customers.length} meters known`);
  tell(increase, (look.increase_w / 1000).toFixed(1), "kW", look.policy ? `shared: ${look.policy.replace("_", " ")}` : "");
  tell(grants, String(look.granted), "", look.grants_max === null ? "" : `of ${look.grants_max} the line can renew`);
  tell(ledger, look.ledger_entries === null ? "–" : look.ledger_entries.toLocaleString("en"), "entries", look.ledger_head ? `root ${look.ledger_head.slice(0, 12)}…` : "");
}

// ---- legend, alarms, latest -----------------------------------------------------------------------------------------

function mark(shape) {
  const box = svg("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" });
  box.append(svg("path", { d: shape, fill: "none", stroke: "currentColor" }));
  return box;
}

function legend(look) {
  const band = look.band_v ?? [0, 0];
  const steps = el("span", { class: "steps" }, ...CLASSES.map((name) => el("i", { class: name })));
  const used = new Set(look.customers.map(phases));
  const shapes = Object.entries(Diagram.SHAPES).filter(([name]) => used.has(name));
  $("legend").replaceChildren(
    el("span", { class: "scale" }, `${band[0].toFixed(1)} V`, steps, `${band[1].toFixed(1)} V band`),
    ...shapes.map(([name, d]) => el("span", {}, mark(d), ` ${name}`)),
    el("span", {}, mark("M0-6A6 6 0 1 1 0 6A6 6 0 1 1 0-6M0-3.6A3.6 3.6 0 1 1 0 3.6A3.6 3.6 0 1 1 0-3.6"), " live grant"),
    el("span", {}, "bar: limit of contract, tick: nominal"),
  );
}

const SIGNS = { alarm: "■", warning: "▲", note: "○" };

function alarms(look) {
  if (!look.alarms.length) {
    keyed($("alarms"), ["none"], (x) => x, () => el("li", { class: "none" }, "None. Every meter is heard and inside the band."));
    return;
  }
  const rows = look.alarms.slice(0, 12);
  if (look.alarms.length > rows.length) rows.push({ level: "note", who: "", what: `and ${look.alarms.length - rows.length} more`, since_utc_s: null });
  keyed(
    $("alarms"),
    rows,
    (a) => `${a.level} ${a.who} ${a.what}`,
    (a) => {
      const since = a.since_utc_s === null ? null : el("time", { datetime: new Date(1000 * a.since_utc_s).toISOString(), title: "since, UTC" }, clock(a.since_utc_s));
      return el("li", {}, el("span", { class: `level ${a.level}`, title: a.level }, SIGNS[a.level]), el("span", {}, el("span", { class: "unseen" }, `${a.level}: `), el("b", {}, a.who), " ", a.what), since);
    },
  );
}

/** Decisions of one moment that say the same stand in one line. */
function latest(world) {
  const groups = new Map();
  for (const r of [...world.decisions.values()].slice(-200)) {
    const key = `${Math.round(r.utc_s)} ${r.kind} ${r.words}`;
    const group = groups.get(key) ?? { ...r, key, meters: [] };
    if (r.meter !== null) group.meters.push(r.meter);
    groups.set(key, group);
  }
  const rows = [...groups.values()].slice(-LATEST).reverse();
  if (!rows.length) {
    keyed($("latest"), ["none"], (x) => x, () => el("li", {}, el("span", { class: "quiet what" }, "None yet.")));
    return;
  }
  keyed($("latest"), rows, (r) => `${r.key} ${r.meters.length}`, (r) =>
    el("li", {}, el("time", { class: "quiet", datetime: new Date(1000 * r.utc_s).toISOString(), title: date(r.utc_s) }, clock(r.utc_s)), el("span", { class: `kind ${r.kind}` }, r.headline),
      el("span", { class: "what" }, el("span", { class: "who" }, `${r.meters.join(", ")} `), r.words)));
}

// ---- one customer --------------------------------------------------------------------------------------------------------

export function chosen(world) {
  const name = world.chosen;
  traces = null;
  asked = name;
  if (parts !== null) span(world, hours);
  if (name === null) return;
  $("pick").value = name;
  get(`/api/traces?meter=${encodeURIComponent(name)}`).then(
    (found) => {
      if (asked !== name) return;
      traces = found;
      charts(world);
    },
    () => {},
  );
}

const BIN_S = 300;

/** The last day from the DCU's store, by bins of five minutes; null where it has none. */
async function day(name) {
  const rows = await get(`/api/readings?meter=${encodeURIComponent(name)}&hours=24`);
  if (!rows.length) return null;
  const count = 86400 / BIN_S, last = rows.at(-1).at_s;
  const empty = () => new Array(count).fill(null);
  const told = { step_s: BIN_S, u_v: empty(), u_low_v: empty(), export_w: empty(), limit_w: empty() };
  const sums = empty().map(() => [0, 0]);
  for (const r of rows) {
    const k = count - 1 - Math.floor((last - r.at_s) / BIN_S);
    const u = r.u_v.filter((v) => v !== null), p = r.p_w.filter((w) => w !== null);
    if (k < 0 || k >= count) continue;
    if (u.length) told.u_v[k] = Math.max(told.u_v[k] ?? -Infinity, ...u);
    if (u.length) told.u_low_v[k] = Math.min(told.u_low_v[k] ?? Infinity, ...u);
    if (p.length) sums[k] = [sums[k][0] - p.reduce((a, b) => a + b, 0), sums[k][1] + 1];
    if (p.length) told.export_w[k] = sums[k][0] / sums[k][1];
    if (r.limit_w !== null) told.limit_w[k] = r.limit_w;
  }
  return told;
}

function span(world, wanted) {
  hours = wanted;
  past = null;
  for (const [button, one] of parts.spans) button.setAttribute("aria-pressed", String(one === hours));
  put(parts.said, "");
  const name = world.chosen;
  if (hours === 0) charts(world);
  else
    day(name).then((found) => {
      if (world.chosen !== name || hours === 0) return;
      past = found;
      put(parts.said, found === null ? "The DCU's store has no readings of this customer, or this page may not read it." : "");
      charts(world);
    }, () => {});
}

function row(title) {
  const value = el("dd");
  return [el("dt", {}, title), value];
}

function build(world) {
  const titles = ["Place", "Voltage", "Export now", "Limit", "Could have now", "Asked for", "Not more because", "Lease", "Reading"];
  const rows = titles.map(row);
  const bar = limitBar({ contract_w: 1, limit_w: 0 });
  const u = el("canvas", { role: "img" }), p = el("canvas", { role: "img" });
  const table = el("table", { class: "tiny" });
  const spans = [["15 min", 0], ["24 h", 24]].map(([title, one]) => [el("button", { type: "button", "aria-pressed": String(one === hours) }, title), one]);
  for (const [button, one] of spans) button.addEventListener("click", () => span(world, one));
  const said = el("p", { class: "quiet" });
  $("detail").classList.add("live");
  $("detail").replaceChildren(
    el("dl", { class: "facts" }, ...rows.flat()),
    el("div", { class: "choice", role: "group", "aria-label": "Time that the curves show" }, ...spans.map(([button]) => button)), said,
    el("figure", {}, el("figcaption", {}, el("span", {}, "Voltage [V]"), el("span", { class: "band-words" })), u),
    el("figure", {}, el("figcaption", {}, el("span", {}, "Export and limit [kW]"), el("span", {}, "dashed: nominal")), p),
    el("details", {}, el("summary", {}, "These minutes as numbers"), table),
  );
  return { values: rows.map(([, value]) => value), bar, u, p, table, spans, said };
}

let bars = null;

function customer(world) {
  const look = world.look;
  const c = look.customers.find((one) => one.id === world.chosen);
  if (c === undefined) {
    put($("detail"), look.customers.length ? "" : "No customer is known yet.");
    parts = null;
    return;
  }
  if (parts === null) parts = build(world);
  put($("h-customer"), c.id);
  const good = c.quality === "good";
  const [place, voltage, exported, limit, headroom, wanted, why, lease, reading] = parts.values;
  put(place, `bus ${c.bus}, ${phases(c)}`);
  const band = look.band_v;
  put(voltage, good ? c.u_v.map((u, k) => `${volts(u)} V${c.phases.length > 1 ? ` (${c.phases[k]})` : ""}`).join(", ") + (band ? ` in ${band[0].toFixed(1)} to ${band[1].toFixed(1)} V` : "") : `unknown: reading ${c.quality}`);
  put(exported, good ? (c.export_w !== null && c.export_w < 0 ? `draws ${power(-c.export_w)}` : power(c.export_w)) : "unknown");
  if (bars === null || bars.id !== c.id) {
    const renew = limitBar(c);
    bars = { id: c.id, renew, words: el("div") };
    limit.replaceChildren(bars.words, renew(c));
  }
  bars.renew(c);
  put(bars.words, `${good && c.linked ? "" : "last told: "}${power(c.limit_w)} (${c.source}); nominal ${power(c.nominal_w)}, contract ${power(c.contract_w)}`);
  put(headroom, c.contract_w <= c.nominal_w ? "nothing beyond nominal: its contract allows none" : c.headroom_w === null ? "not known" : `${power(c.headroom_w)}, alone`);
  put(wanted, c.wanted_w === null ? "nothing" : power(c.wanted_w));
  put(why, c.why_not_more ?? (c.granted_w === null ? "it does not ask" : "it has what it asked for"));
  put(lease, c.granted_w === null ? "no grant" : `${duration(c.lease_left_s)} left of ${duration(look.lease_s)}, unless it is renewed`);
  put(reading, `${c.age_s === null ? "none" : `${duration(c.age_s)} old`}; ${c.linked ? "session up" : "no session"}; relay ${c.relay}`);
  if (traces !== null && look.state === "live" && look.number !== traces.seen) {
    traces.seen = look.number;
    const known = c.u_v.filter((u) => u !== null);
    const next = good && known.length ? [Math.max(...known), Math.min(...known), c.export_w, c.limit_w] : [null, null, null, c.limit_w];
    ["u_v", "u_low_v", "export_w", "limit_w"].forEach((name, k) => {
      traces[name].push(next[k]);
      if (traces[name].length > TRACE_MAX) traces[name].shift();
    });
    if (hours === 0) charts(world);
  }
}

function charts(world) {
  const shown = hours === 0 ? traces : past;
  if (shown === null || parts === null || $("street").hidden) return;
  const look = world.look;
  const c = look.customers.find((one) => one.id === world.chosen);
  if (c === undefined) return;
  const { step_s } = shown;
  const band = look.band_v;
  const marks = band ? [{ at: band[0], colour: "--bad" }, { at: band[1], colour: "--bad" }] : [];
  put($("detail").querySelector(".band-words"), band ? `dashed: band, ${band[0].toFixed(1)} to ${band[1].toFixed(1)} V` : "");
  const lines = [{ values: shown.u_v, colour: "--ink" }];
  if (c.phases.length > 1) lines.push({ values: shown.u_low_v, colour: "--quiet" });
  chart(parts.u, lines, { step_s, marks, span: 2 });
  const watts = [{ values: shown.limit_w, colour: "--granted", wide: 2, step: true }, { values: shown.export_w, colour: "--ink" }];
  chart(parts.p, watts, { step_s, scale: 1000, low: Math.min(0, ...shown.export_w.filter((w) => w !== null)), marks: [{ at: c.nominal_w, colour: "--quiet", always: true }] });
  words(shown);
}

/** The curves for those who do not see them: a sentence each, and every minute in a table. */
function words(told) {
  const ends = (values) => {
    const known = values.filter((v) => v !== null);
    return known.length ? [Math.min(...known), Math.max(...known), known.at(-1)] : null;
  };
  const u = ends(told.u_v), w = ends(told.export_w), l = ends(told.limit_w);
  const minutes = Math.round((told.u_v.length * told.step_s) / 60);
  const u_words = u ? `Voltage of the last ${minutes} minutes: ${volts(u[0])} to ${volts(u[1])} V` : "No voltage known";
  const p_words = w && l ? `Export of the last ${minutes} minutes: ${power(w[0])} to ${power(w[1])}; limit ${power(l[0])} to ${power(l[1])}` : "No export known";
  if (parts.u.getAttribute("aria-label") !== u_words) parts.u.setAttribute("aria-label", u_words);
  if (parts.p.getAttribute("aria-label") !== p_words) parts.p.setAttribute("aria-label", p_words);
  if (!parts.table.parentElement.open) return;
  const every = Math.max(1, Math.round((told.step_s > 60 ? 3600 : 60) / told.step_s));
  const rows = [];
  for (let k = told.u_v.length - 1; k >= 0; k -= every) rows.push(k);
  const cell = (v, f) => el("td", { class: "num" }, v === null ? "?" : f(v));
  parts.table.replaceChildren(
    el("thead", {}, el("tr", {}, ...["min ago", "V", "export kW", "limit kW"].map((t) => el("th", { scope: "col", class: "num" }, t)))),
    el("tbody", {}, ...rows.map((k) => el("tr", {}, el("td", { class: "num" }, String(Math.round(((told.u_v.length - 1 - k) * told.step_s) / 60))),
      cell(told.u_v[k], volts), cell(told.export_w[k], (w2) => (w2 / 1000).toFixed(2)), cell(told.limit_w[k], (w2) => (w2 / 1000).toFixed(2))))),
  );
}

