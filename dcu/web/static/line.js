// The tree of the power line, as the base node knows it; looked at every ten seconds.

import { $, duration, el, looking, percent } from "./format.js";

export const { show, draw } = looking("/api/line", 10000, render);

function render(line) {
  if (!line.known) {
    $("line-body").replaceChildren(el("div", { class: "card" }, el("p", { class: "quiet" }, "The DCU tells of no power line; it has just started, its modem is away, or this street has none.")));
    return;
  }
  const used = Object.values(line.airtime).reduce((a, b) => a + b, 0);
  const air = el("div", { class: "air", role: "img", "aria-label": `Line used ${percent(used)} of the time` });
  for (const [kind, share] of Object.entries(line.airtime)) {
    const part = el("i", { title: `${kind} ${percent(share)}` });
    part.style.width = `${Math.min(100, 100 * share)}%`;
    air.append(part);
  }
  const kinds = el("p", { class: "quiet" }, el("small", {}, Object.entries(line.airtime).map(([kind, share]) => `${kind} ${percent(share)}`).join(", ")));
  const below = new Map();
  for (const node of line.nodes) below.set(node.parent, [...(below.get(node.parent) ?? []), node]);
  const shown = new Set();
  const tree = branch(null, below, shown);
  const rest = line.nodes.filter((node) => !shown.has(node.eui48));
  for (const node of rest) tree.append(leaf(node));
  $("line-body").replaceChildren(
    el("section", { class: "card", "aria-label": "Use of the line" }, el("p", {}, line.headline), air, el("p", {}, `On air ${percent(used)} of ${duration(line.running_s)} at the base.`), kinds),
    el("section", { class: "card", "aria-label": "Tree" }, el("p", {}, el("b", {}, "Base node"), ` ${line.sna}`), tree,
      el("p", { class: "quiet" }, el("small", {}, "Signal as the base hears it: three bars from 19 dB, two from 9 dB, one below. A base measures its own children only; of nodes farther down it knows the keep-alives."))),
  );
}

function branch(above, below, shown) {
  const list = el("ul", above === null ? { class: "tree" } : {});
  for (const node of below.get(above) ?? []) {
    if (shown.has(node.eui48)) continue;
    shown.add(node.eui48);
    const item = leaf(node);
    if (node.switch && below.has(node.eui48)) item.append(branch(node.eui48, below, shown));
    list.append(item);
  }
  return list;
}

function leaf(node) {
  const parts = [];
  if (node.link) {
    const n = node.link.snr_db >= 19 ? 3 : node.link.snr_db >= 9 ? 2 : 1;
    parts.push(el("span", {}, el("span", { class: "bars", "data-n": n, "aria-hidden": "true" }, el("i"), el("i"), el("i")), ` ${node.link.snr_db.toFixed(0)} dB`), el("span", { class: "quiet" }, node.link.scheme));
    if (node.link.loss !== null) parts.push(el("span", { class: node.link.loss > 0.1 ? "bad" : "quiet" }, `lost ${percent(node.link.loss)}`));
  } else parts.push(el("span", { class: "quiet" }, "signal not measured at the base"));
  if (node.alive_asked > 0) parts.push(el("span", { class: "quiet" }, `keep-alives ${node.alive_answered} of ${node.alive_asked}`));
  if (!node.connected) parts.push(el("span", { class: "bad" }, "not connected"));
  const name = el("b", { title: node.eui48 }, node.meter ?? node.eui48);
  return el("li", {}, el("div", { class: "node" }, name, el("span", { class: "quiet" }, node.switch ? "switch" : "terminal"), ...parts));
}
