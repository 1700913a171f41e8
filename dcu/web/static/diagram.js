// The feeder as a map, or as its voltage profile: shapes are phases, colours voltages, a ring is a grant, bars are limits.

import { attr, phases, power, svg, voltageClass, volts, worst } from "./format.js";

const R = 6, HIGH = 540;
const W = 1000, H = 430, PAD = { left: 56, right: 24, top: 22, bottom: 40 };

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
    this.form = "map";
    this.houses = new Map();
    this.look = null;
    this.build();
  }

  setForm(form) {
    this.form = form;
    this.band = null;
    this.build();
    if (this.look) this.draw(this.look, this.chosen);
  }

  build() {
    const map = this.form === "map";
    const wide = (this.wide = this.box.clientWidth || W);
    const f = (this.drawn = turned(this.feeder, wide));
    const [width, height] = map ? [f.width, f.height] : [W, H];
    this.scale = map ? Math.max(width / wide, height / HIGH) : 1;
    this.svg = svg("svg", { viewBox: `0 0 ${width} ${height}`, height: Math.round(map ? Math.min(HIGH, (height * wide) / width) : (H * wide) / W), role: "group", "aria-label": map ? "Feeder map" : "Voltage profile of the feeder" });
    this.axes = svg("g");
    const wires = svg("g", { "aria-hidden": "true" });
    this.svg.append(this.axes, wires);
    if (map) {
      const runs = new Map();
      for (const e of f.edges) {
        const d = f.kind === "tree" ? `M${e.x0} ${e.y0}V${e.y1}H${e.x1}` : `M${e.x0} ${e.y0}L${e.x1} ${e.y1}`;
        runs.set(e.wires, (runs.get(e.wires) ?? "") + d);
      }
      for (const [count, d] of runs) wires.append(svg("path", { class: "wire", d, "stroke-width": ((0.6 + 0.5 * count) * this.scale).toFixed(2) }));
      const s = 8 * this.scale;
      wires.append(svg("rect", { class: "source", x: f.source[0] - s, y: f.source[1] - s, width: 2 * s, height: 2 * s }));
      const text = svg("text", { x: f.source[0] + 14 * this.scale, y: f.source[1] + 5 * this.scale, "font-size": 13 * this.scale });
      text.style.fontSize = `${13 * this.scale}px`;
      text.append("substation");
      wires.append(text);
    }
    this.houses.clear();
    this.list = svg("g", { role: "listbox", tabindex: "0", "aria-label": "Customers; arrow keys choose one" });
    this.list.addEventListener("keydown", (event) => this.key(event));
    for (const place of f.places) this.list.append(this.house(place, map));
    this.svg.append(this.list);
    this.name = svg("text", { class: "strong", "aria-hidden": "true" });
    this.svg.append(this.name);
    this.box.replaceChildren(this.svg);
  }

  house(place, map) {
    const group = svg("g", { class: "house", role: "option", "aria-selected": "false", id: `house-${place.meter}` });
    const body = svg("g");
    const [halo, ring, mark] = [svg("circle", { class: "halo", r: 13 }), svg("circle", { class: "ring", r: 10 }), svg("path", { class: "mark" })];
    const title = svg("title");
    const gauge = svg("g", { "aria-hidden": "true" });
    gauge.append(
      svg("rect", { class: "gauge-back", x: 11, y: -11, width: 5, height: 22 }),
      svg("rect", { class: "gauge-limit", x: 11, width: 5 }),
      svg("line", { class: "gauge-nominal", x1: 9.5, x2: 17.5 }),
    );
    body.append(halo, ring, mark, gauge);
    group.append(title, body);
    group.addEventListener("click", () => this.choose(place.meter));
    const house = { group, body, mark, title, gauge, place, text: "", kind: "" };
    if (map) body.setAttribute("transform", `translate(${place.x} ${place.y}) scale(${this.scale})`);
    this.houses.set(place.meter, house);
    return group;
  }

  /** After the window has changed. */
  fit() {
    if (Math.abs((this.box.clientWidth || W) - this.wide) < 24) return;
    this.band = null;
    this.build();
    if (this.look) this.draw(this.look, this.chosen);
  }

  key(event) {
    const order = this.feeder.places.map((p) => p.meter);
    const at = order.indexOf(this.chosen);
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: order.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.choose(order[Math.max(0, Math.min(order.length - 1, to))]);
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
    }
    const more = c.contract_w > c.nominal_w;
    const text = `${c.id}, ${phases(c)}: ${u === null ? `reading ${c.quality}` : `${volts(u)} V`}; limit ${power(c.limit_w)}${more ? ` of ${power(c.contract_w)}` : ""}`;
    if (house.text !== text) {
      house.text = text;
      house.title.textContent = text;
      house.group.setAttribute("aria-label", text);
      this.drawGauge(house.gauge, c, more);
    }
    if (this.form === "profile") this.placeOnProfile(house, u);
  }

  drawGauge(gauge, c, more) {
    attr(gauge, "visibility", more ? "visible" : "hidden");
    if (!more) return;
    const high = 22 * Math.min(1, c.limit_w / c.contract_w);
    const nominal = 11 - (22 * c.nominal_w) / c.contract_w;
    const [, limit, tick] = gauge.children;
    attr(limit, "y", (11 - high).toFixed(1));
    attr(limit, "height", high.toFixed(1));
    attr(tick, "y1", nominal.toFixed(1));
    attr(tick, "y2", nominal.toFixed(1));
  }

  drawName(chosen) {
    const house = chosen === null ? undefined : this.houses.get(chosen);
    if (house === undefined) {
      this.name.textContent = "";
      return;
    }
    const [x, y] = this.form === "map" ? [house.place.x, house.place.y] : house.at ?? [-99, -99];
    const size = 14 * (this.form === "map" ? this.scale : 1);
    const right = x > (this.form === "map" ? this.drawn.width : W) * 0.85;
    attr(this.name, "x", (x + (right ? -1.2 : 1.5) * size).toFixed(1));
    attr(this.name, "y", (y - 1.05 * size).toFixed(1));
    attr(this.name, "text-anchor", right ? "end" : "start");
    this.name.style.fontSize = `${size}px`;
    if (this.name.textContent !== chosen) this.name.textContent = chosen;
  }

  // ---- voltage profile -------------------------------------------------------------------------------------------------

  drawAxes(look) {
    const known = look.customers.map((c) => worst(c, null)).filter((u) => u !== null);
    const busbar = (look.substation?.u_v ?? []).filter((u) => u !== null);
    const band = look.band_v ?? [207, 253];
    const all = [...known, ...busbar];
    const low = Math.floor((Math.min(...all, band[1]) - 1) / 2) * 2, high = Math.ceil((Math.max(...all, band[1]) + 1) / 2) * 2;
    const key = `${low} ${high} ${band}`;
    if (this.band === key) return;
    this.band = key;
    this.range = [low, high];
    const most = Math.max(...Object.values(this.feeder.bus_ohm), 1e-6);
    this.x = (ohm) => PAD.left + ((W - PAD.left - PAD.right) * (ohm ?? 0)) / most;
    this.y = (u) => PAD.top + (H - PAD.top - PAD.bottom) * (1 - (u - low) / (high - low));
    const parts = [];
    const step = high - low > 24 ? 4 : high - low > 12 ? 2 : 1;
    for (let u = low; u <= high; u += step) {
      parts.push(svg("line", { class: "axis", x1: PAD.left, x2: W - PAD.right, y1: this.y(u), y2: this.y(u) }), label(PAD.left - 8, this.y(u) + 4, String(u), "end"));
    }
    for (const u of band) if (u >= low && u <= high) parts.push(svg("line", { class: "band", x1: PAD.left, x2: W - PAD.right, y1: this.y(u), y2: this.y(u) }), label(W - PAD.right, this.y(u) - 5, `band ${u.toFixed(1)} V`, "end"));
    for (let k = 0; k <= 4; k++) {
      const ohm = (most * k) / 4;
      parts.push(label(this.x(ohm), H - PAD.bottom + 18, `${(1000 * ohm).toFixed(0)}`, "middle"));
    }
    parts.push(label((W + PAD.left) / 2, H - 4, "impedance from the transformer [mΩ]", "middle"), label(4, 12, "V", "start"));
    this.axes.replaceChildren(...parts);
  }

  placeOnProfile(house, u) {
    const at = [this.x(house.place.ohm), u === null ? H - PAD.bottom - 4 : this.y(u)];
    house.at = at;
    attr(house.body, "transform", `translate(${at[0].toFixed(1)} ${at[1].toFixed(1)})`);
  }
}

function label(x, y, text, anchor) {
  const made = svg("text", { x, y, "text-anchor": anchor });
  made.append(text);
  return made;
}

/** A map that is high where the page is wide, or the other way round, by a quarter turn. */
function turned(f, wide) {
  if (f.kind !== "map" || f.height > f.width === wide < 560) return f;
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
