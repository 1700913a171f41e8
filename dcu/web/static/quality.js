// EN 50160: what share of 10-minute means lay within nominal plus and minus ten per cent.

import { $, date, el, looking, percent, svg, volts } from "./format.js";

export const { show, draw } = looking("/api/quality", 30000, render);

function render(told) {
  const rows = told.rows.filter((r) => r.intervals > 0);
  const bad = rows.filter((r) => r.inside < 0.95);
  const since = told.since_utc_s === null ? "" : ` Since ${date(told.since_utc_s)}.`;
  const sum = !rows.length
    ? "No 10-minute mean is complete yet; the first comes at the next full ten minutes of the clock."
    : bad.length
      ? `${bad.length} of ${rows.length} phases are outside the band for more than 5 % of the time.`
      : `All ${rows.length} phases are within ±10 % for at least 95 % of the means.`;
  const parts = [el("div", { class: "card" }, el("p", { class: bad.length ? "bad" : "" }, el("b", {}, sum)), el("p", { class: "quiet" }, `${told.source[0].toUpperCase()}${told.source.slice(1)}.${since} The standard asks for 95 % of a week's means (1008) within nominal ±10 %.`))];
  if (rows.length) {
    rows.sort((a, b) => a.inside - b.inside || b.u_max_v - a.u_max_v);
    const titles = [["Customer", ""], ["Phase", ""], ["Within ±10 %", "num"], ["Lowest mean [V]", "num"], ["97.5 % up to [V]", "num"], ["Highest mean [V]", "num"], ["Range in ±10 %", ""], ["Means", "num"], ["Missing", "num"]];
    const head = el("tr", {}, ...titles.map(([title, kind]) => el("th", { scope: "col", class: kind }, title)));
    const body = el("tbody", {}, ...rows.map((r) => {
      const cells = [r.phase, percent(r.inside), volts(r.u_min_v), volts(r.u_p95_v), volts(r.u_max_v), range(r, told.nominal_v), String(r.intervals), String(r.missing)];
      return el("tr", {}, el("th", { scope: "row" }, r.meter), ...cells.map((cell, k) => el("td", { class: `${titles[k + 1][1]}${k === 5 ? " wide" : ""}`, "data-label": titles[k + 1][0] }, cell)));
    }));
    parts.push(el("div", { class: "card flush" }, el("table", { class: "stack" }, el("caption", { class: "unseen" }, "EN 50160 statistics, worst first"), el("thead", {}, head), body)));
  }
  $("quality-body").replaceChildren(...parts);
}

function range(r, nominal) {
  const x = (u) => Math.max(0, Math.min(100, 50 + (100 * (u - nominal)) / (0.24 * nominal)));
  const bar = svg("svg", { class: "meter-bar", role: "img", "aria-label": `${volts(r.u_min_v)} to ${volts(r.u_max_v)} V` });
  bar.append(
    svg("line", { class: "axis", x1: "0", x2: "100%", y1: 8, y2: 8 }),
    ...[0.9, 1, 1.1].map((k) => svg("line", { class: k === 1 ? "axis" : "band", x1: `${x(k * nominal)}%`, x2: `${x(k * nominal)}%`, y1: 0, y2: 16 })),
    svg("rect", { class: "gauge-limit", x: `${x(r.u_min_v)}%`, width: `${Math.max(0.8, x(r.u_max_v) - x(r.u_min_v))}%`, y: 4.5, height: 7 }),
  );
  return bar;
}
