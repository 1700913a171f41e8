// The feeder as a diagram with a line for each customer, as its voltage profile, or as a map. Shapes are phases, colours
// voltages, a ring is a grant, bars are limits; every number that a colour stands for is written somewhere beside it.

import { attr, kilowatts, phases, power, put, svg, voltageClass, volts, worst } from "./format.js";

const R = 6, MAP_HIGH = 540, MARGIN = 30, STEP = 15;
const PAD = { left: 46, right: 20, top: 20, bottom: 38 };
const GAUGES_MAX = 25;

export class Diagram {
  static SHAPES = {
    L1: `M0-${R}A${R} ${R} 0 1 1 0 ${R}A${R} ${R} 0 1 1 0-${R}`,
    L2: "M-5.4-5.4H5.4V5.4H-5.4Z",
    L3: "M0-7.4L7.4 0L0 7.4L-7.4 0Z",
    "L1 L2 L3": "M-3.4-6H3.4L6.8 0L3.4 6H-3.4L-6.8 0Z",
  };

  constructor(box, feeder, choose) {
    this.box = box;
    this.feeder = feeder;
    this.choose = choose;
    this.form = "tree";
    this.houses = new Map();
    this.look = null;
    this.build();
  }

  setForm(form) {
    this.form = form;
    this.again();
  }

  /** After the window has changed. */
  fit() {
    if (Math.abs((this.box.clientWidth || this.wide) - this.wide) >= 12) this.again();
  }

  again() {
    this.range = null;
    this.build();
    if (this.look) this.draw(this.look, this.chosen);
  }

  build() {
    this.wide = this.box.clientWidth || 800;
    this.unit = 1;
    const makes = { tree: () => this.layTree(), profile: () => this.layProfile(), map: () => this.layMap() };
    const { width, height, parts, places } = makes[this.form]();
    this.width = width;
    const names = { tree: "Feeder diagram", profile: "Voltage profile of the feeder", map: "Feeder map" };
    this.svg = svg("svg", { viewBox: `0 0 ${width} ${height}`, height: Math.round(height / this.unit), role: "group", "aria-label": names[this.form] });
    this.axes = svg("g", { "aria-hidden": "true" });
    this.axes.append(...parts);
    this.order = places.map((place) => place.meter);
    this.list = svg("g", { role: "listbox", tabindex: "0", "aria-label": "Customers; arrow keys choose one" });
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.houses.clear();
    for (const place of places) this.list.append(this.house(place));
    this.name = svg("text", { class: "strong", "aria-hidden": "true" });
    this.svg.append(this.axes, this.list, this.name);
    this.box.replaceChildren(this.svg);
  }

  // ---- three layouts -------------------------------------------------------------------------------------------------

  layTree() {
    const tree = this.feeder.tree;
    const ROW = (this.row = Math.max(16, Math.min(30, 320 / Math.max(1, tree.places.length))));
    this.side = Math.min(330, Math.max(196, this.wide * 0.42));
    const room = this.wide - this.side - 2 * PAD.right;
    const x = (from) => PAD.right + (room * (from - MARGIN)) / Math.max(1, tree.width - 2 * MARGIN);
    const y = (from) => 22 + ROW / 2 + ((from - MARGIN) / STEP) * ROW;
    const runs = new Map();
    for (const e of tree.edges) {
      const d = `M${x(e.x0).toFixed(1)} ${y(e.y0).toFixed(1)}V${y(e.y1).toFixed(1)}H${x(e.x1).toFixed(1)}`;
      runs.set(e.wires, (runs.get(e.wires) ?? "") + d);
    }
    const parts = [...runs].map(([count, d]) => svg("path", { class: "wire", d, "stroke-width": 0.5 + 0.4 * count }));
    const [sx, sy] = [x(tree.source[0]), y(tree.source[1])];
    parts.push(svg("rect", { class: "source", x: sx - 7, y: sy - 7, width: 14, height: 14 }));
    const left = this.wide - this.side, end = this.side > 300 ? 124 : 118;
    parts.push(label(left + end, 12, "voltage", "end"), label(this.wide - 6, 12, this.side > 300 ? "limit / contract" : "limit", "end"));
    if (room > 200) parts.push(label(sx - 7, sy - 14, "substation", "start"));
    const places = tree.places.map((p) => ({ ...p, x: x(p.x), y: y(p.y) })).sort((a, b) => a.y - b.y);
    return { width: this.wide, height: y(tree.height - MARGIN) + 16, parts, places };
  }

  layProfile() {
    this.high = Math.min(470, Math.max(300, this.wide * 0.6));
    return { width: this.wide, height: this.high, parts: [], places: this.feeder.tree.places };
  }

  layMap() {
    const map = turned(this.feeder.map, this.wide);
    this.unit = Math.max(map.width / this.wide, map.height / MAP_HIGH);
    const runs = new Map();
    for (const e of map.edges) runs.set(e.wires, `${runs.get(e.wires) ?? ""}M${e.x0} ${e.y0}L${e.x1} ${e.y1}`);
    const parts = [...runs].map(([count, d]) => svg("path", { class: "wire", d, "stroke-width": ((0.5 + 0.4 * count) * this.unit).toFixed(2) }));
    const s = 7 * this.unit;
    parts.push(svg("rect", { class: "source", x: map.source[0] - s, y: map.source[1] - s, width: 2 * s, height: 2 * s }));
    return { width: map.width, height: map.height, parts, places: map.places };
  }

  // ---- customers --------------------------------------------------------------------------------------------------------

  house(place) {
    const group = svg("g", { class: "house", role: "option", "aria-selected": "false", id: `house-${place.meter}` });
    const body = svg("g", { transform: `translate(${place.x.toFixed(1)} ${place.y.toFixed(1)}) scale(${this.unit.toFixed(3)})` });
    const small = this.form === "tree";
    const mark = svg("path", { class: "mark" });
    if (small) mark.setAttribute("transform", "scale(.82)");
    body.append(svg("circle", { class: "halo", r: small ? 0 : 12 }), svg("circle", { class: "ring", r: small ? 7.4 : 9.2 }), mark);
    const title = svg("title");
    const gauge = svg("g", { "aria-hidden": "true" });
    const back = svg("rect", { class: "gauge-back" }), limit = svg("rect", { class: "gauge-limit" }), tick = svg("line", { class: "gauge-nominal" });
    gauge.append(back, limit, tick);
    const house = { group, body, mark, title, gauge, back, limit, tick, place, text: "", kind: "", at: [place.x, place.y] };
    if (small) group.append(title, ...this.rowOf(house), body);
    else {
      body.append(gauge);
      group.append(title, body);
    }
    group.addEventListener("click", () => this.choose(place.meter));
    this.houses.set(place.meter, house);
    return group;
  }

  /** In the diagram: name, phase, voltage, limit and a bar on the customer's own line. */
  rowOf(house) {
    const { x, y, meter } = house.place;
    const left = this.wide - this.side;
    const hit = svg("rect", { class: "row-hit", x: left - 4, y: y - this.row / 2, width: this.side + 4, height: this.row, rx: 3 });
    const lead = svg("line", { class: "lead", x1: x + 11, x2: left - 8, y1: y, y2: y });
    const cell = (at, anchor, kind) => svg("text", { x: left + at, y: y + 4, "text-anchor": anchor, class: kind });
    const wide = this.side > 300;
    house.cells = [cell(2, "start", "strong"), cell(wide ? 124 : 118, "end", "value"), cell(this.side - 6, "end", "value")];
    house.cells[0].append(meter.length > 10 ? `${meter.slice(0, 9)}…` : meter);
    house.bar = { x: left + (wide ? 136 : 0), y: y - 5, width: wide ? 82 : 0, height: 10 };
    for (const [name, value] of Object.entries(house.bar)) house.back.setAttribute(name, value);
    return [hit, lead, ...house.cells, house.gauge];
  }

  key(event) {
    const at = this.order.indexOf(this.chosen), last = this.order.length - 1;
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.choose(this.order[Math.max(0, Math.min(last, to))]);
  }

  draw(look, chosen) {
    this.look = look;
    this.chosen = chosen;
    if (this.form === "profile") this.drawAxes(look);
    for (const c of look.customers) {
      const house = this.houses.get(c.id);
      if (house) this.drawHouse(house, c, look, c.id === chosen);
    }
    attr(this.list, "aria-activedescendant", chosen && this.houses.has(chosen) ? `house-${chosen}` : "");
    this.drawName(chosen);
  }

  drawHouse(house, c, look, isChosen) {
    const u = worst(c, look.band_v);
    const colour = look.band_v ? voltageClass(u, look.band_v) : "unknown";
    const outside = colour === "out-high" || colour === "out-low";
    const kind = `house${c.granted_w !== null ? " granted" : ""}${u === null ? " unknown" : ""}${outside ? " outside" : ""}${isChosen ? " chosen" : ""}`;
    if (house.kind !== kind + colour) {
      house.kind = kind + colour;
      house.group.setAttribute("class", kind);
      house.mark.setAttribute("class", `mark ${colour}`);
      attr(house.group, "aria-selected", String(isChosen));
      attr(house.mark, "d", Diagram.SHAPES[phases(c)] ?? Diagram.SHAPES["L1 L2 L3"]);
      this.showGauge(house, c, isChosen);
    }
    const more = c.contract_w > c.nominal_w;
    const text = `${c.id}, ${phases(c)}: ${u === null ? `reading ${c.quality}` : `${volts(u)} V`}; limit ${power(c.limit_w)}${more ? ` of ${power(c.contract_w)}` : ""}`;
    if (house.text !== text) {
      house.text = text;
      house.title.textContent = text;
      house.group.setAttribute("aria-label", text);
      this.drawGauge(house, c);
      if (house.cells) {
        put(house.cells[1], u === null ? c.quality : `${volts(u)} V`);
        put(house.cells[2], more && this.side > 300 ? `${kilowatts(c.limit_w)} / ${kilowatts(c.contract_w)} kW` : `${kilowatts(c.limit_w)} kW`);
      }
    }
    if (this.form === "profile") this.placeOnProfile(house, u);
  }

  showGauge(house, c, isChosen) {
    const more = c.contract_w > c.nominal_w;
    const shown = more && (this.form === "tree" || isChosen || this.houses.size <= GAUGES_MAX);
    attr(house.gauge, "visibility", shown && !(this.form === "tree" && house.bar.width === 0) ? "visible" : "hidden");
  }

  drawGauge({ back, limit, tick, bar }, c) {
    const share = (w) => Math.max(0, Math.min(1, w / (c.contract_w || 1)));
    const set = (node, values) => Object.entries(values).forEach(([name, value]) => attr(node, name, String(value)));
    if (bar) {
      set(limit, { x: bar.x, y: bar.y, height: bar.height, width: (bar.width * share(c.limit_w)).toFixed(1) });
      const at = (bar.x + bar.width * share(c.nominal_w)).toFixed(1);
      set(tick, { x1: at, x2: at, y1: bar.y - 1.5, y2: bar.y + bar.height + 1.5 });
      return;
    }
    const high = 22 * share(c.limit_w), nominal = (11 - 22 * share(c.nominal_w)).toFixed(1);
    set(back, { x: 11, y: -11, width: 5, height: 22 });
    set(limit, { x: 11, y: (11 - high).toFixed(1), width: 5, height: high.toFixed(1) });
    set(tick, { x1: 9.5, x2: 17.5, y1: nominal, y2: nominal });
  }

  drawName(chosen) {
    const house = this.form === "tree" || chosen === null ? undefined : this.houses.get(chosen);
    if (house === undefined) {
      put(this.name, "");
      return;
    }
    const size = 14 * this.unit, [x, y] = house.at, right = x > this.width * 0.85;
    attr(this.name, "x", (x + (right ? -1.1 : 1.4) * size).toFixed(1));
    attr(this.name, "y", (y - 0.95 * size).toFixed(1));
    attr(this.name, "text-anchor", right ? "end" : "start");
    this.name.style.fontSize = `${size}px`;
    put(this.name, chosen);
  }

  // ---- voltage profile -------------------------------------------------------------------------------------------------

  drawAxes(look) {
    const known = look.customers.map((c) => worst(c, null)).filter((u) => u !== null);
    const busbar = (look.substation?.u_v ?? []).filter((u) => u !== null);
    const band = look.band_v ?? [207, 253];
    const all = [...known, ...busbar];
    const low = Math.floor((Math.min(...all, band[1]) - 1) / 2) * 2, high = Math.ceil((Math.max(...all, band[1]) + 1) / 2) * 2;
    const range = `${low} ${high} ${band}`;
    if (this.range === range) return;
    this.range = range;
    const [w, h] = [this.wide, this.high];
    const most = Math.max(this.feeder.longest_ohm ?? 0, 1e-6);
    this.x = (ohm) => PAD.left + ((w - PAD.left - PAD.right) * (ohm ?? 0)) / most;
    this.y = (u) => PAD.top + (h - PAD.top - PAD.bottom) * (1 - (u - low) / (high - low));
    const parts = [];
    const step = high - low > 24 ? 4 : high - low > 12 ? 2 : 1;
    for (let u = low; u <= high; u += step) {
      parts.push(svg("line", { class: "axis", x1: PAD.left, x2: w - PAD.right, y1: this.y(u), y2: this.y(u) }), label(PAD.left - 7, this.y(u) + 4, String(u), "end"));
    }
    for (const u of band) if (u >= low && u <= high) parts.push(svg("line", { class: "band", x1: PAD.left, x2: w - PAD.right, y1: this.y(u), y2: this.y(u) }), label(PAD.left + 5, this.y(u) - 5, `band ${u.toFixed(1)} V`, "start"));
    const tick = [5, 10, 20, 50, 100, 200, 500].find((m) => (1000 * most) / m <= Math.max(3, w / 90)) ?? 1000;
    for (let m = 0; m <= 1000 * most; m += tick) parts.push(label(this.x(m / 1000), h - PAD.bottom + 17, String(m), "middle"));
    parts.push(label((w + PAD.left) / 2, h - 4, "impedance from the transformer [mΩ]", "middle"), label(2, 12, "voltage [V]", "start"));
    this.axes.replaceChildren(...parts);
  }

  placeOnProfile(house, u) {
    house.at = [this.x(house.place.ohm), u === null ? this.high - PAD.bottom - 6 : this.y(u)];
    attr(house.body, "transform", `translate(${house.at[0].toFixed(1)} ${house.at[1].toFixed(1)})`);
  }
}

function label(x, y, text, anchor) {
  const made = svg("text", { x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor });
  made.append(text);
  return made;
}

/** A map that is high where the page is wide, or the other way round, by a quarter turn. */
function turned(f, wide) {
  const narrow = wide < 560;
  if (f.height > f.width ? narrow : !narrow) return f;
  const turn = (x, y) => [y, f.width - x];
  const edges = f.edges.map((e) => {
    const [[x0, y0], [x1, y1]] = [turn(e.x0, e.y0), turn(e.x1, e.y1)];
    return { x0, y0, x1, y1, wires: e.wires };
  });
  const places = f.places.map((p) => {
    const [x, y] = turn(p.x, p.y);
    return { ...p, x, y };
  });
  return { ...f, width: f.height, height: f.width, edges, places, source: turn(...f.source) };
}
