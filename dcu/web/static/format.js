// Numbers with their units, and small tools for the page. Text goes in as text only; nothing here makes HTML of it.

export const $ = (id) => document.getElementById(id);
const SPACE = "\u202f";

/** A new element; `set` are attributes, `inside` texts or elements. */
export function el(tag, set = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(set)) if (value !== undefined && value !== null) made.setAttribute(name, value);
  made.append(...inside.filter((one) => one !== null && one !== undefined));
  return made;
}

export function svg(tag, set = {}, ...inside) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(set)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

/** Sets a text only if it has changed: most of a street does not change from second to second. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function attr(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Makes the children of a list the given ones, keeping those that stand already (by key). */
export function keyed(parent, rows, keyOf, make, renew) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let at = parent.firstElementChild;
  for (const row of rows) {
    const key = String(keyOf(row));
    let node = known.get(key);
    if (node === undefined) {
      node = make(row);
      node.dataset.key = key;
    }
    known.delete(key);
    if (renew) renew(node, row);
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
  for (const node of known.values()) node.remove();
}

export const volts = (u) => (u === null || u === undefined ? "?" : u.toFixed(1));
export const kilowatts = (w) => (w === null || w === undefined ? "–" : (w / 1000).toFixed(2));
export const power = (w) => (w === null || w === undefined ? "unknown" : `${kilowatts(w)}${SPACE}kW`);
export const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)}${SPACE}%`);

export function duration(s) {
  if (s === null || s === undefined) return "–";
  if (s < 120) return `${Math.round(s)}${SPACE}s`;
  if (s < 7200) return `${Math.round(s / 60)}${SPACE}min`;
  if (s < 172800) return `${(s / 3600).toFixed(1)}${SPACE}h`;
  return `${Math.round(s / 86400)}${SPACE}d`;
}

/** Time of day in UTC, as the ledger has it. */
export const clock = (utc) => (utc === null || utc === undefined ? "–" : new Date(1000 * utc).toISOString().slice(11, 19));
export const date = (utc) => new Date(1000 * utc).toISOString().slice(0, 19).replace("T", " ") + " UTC";

const STEPS = [[-0.8, "vm3"], [-0.55, "vm2"], [-0.25, "vm1"], [0.25, "v0"], [0.55, "v1"], [0.8, "v2"], [1, "v3"]];
export const CLASSES = ["vm3", "vm2", "vm1", "v0", "v1", "v2", "v3"];

/** Where a voltage lies in the band: -1 its lower end, 1 its upper. */
export const inBand = (u, band) => (2 * u - band[0] - band[1]) / (band[1] - band[0]);

export function voltageClass(u, band) {
  if (u === null || u === undefined || !band) return "unknown";
  const x = inBand(u, band);
  if (x < -1) return "out-low";
  return STEPS.find(([end]) => x <= end)?.[1] ?? "out-high";
}

/** The voltage of a customer that lies farthest from the middle of the band. */
export function worst(customer, band) {
  if (customer.quality !== "good") return null;
  const known = customer.u_v.filter((u) => u !== null);
  if (!known.length) return null;
  if (!band) return Math.max(...known);
  return known.reduce((a, b) => (Math.abs(inBand(b, band)) > Math.abs(inBand(a, band)) ? b : a));
}

export const phases = (customer) => customer.phases.join(" ");

/** JSON of our own API; who is not logged in any more is sent to where he can be. */
export async function get(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Error(told.detail ?? `${answer.status} ${answer.statusText}`);
  }
  return answer.headers.get("content-type").startsWith("application/json") ? answer.json() : answer.text();
}

/** A bar with limit, nominal limit and contract, as a picture with words. */
export function limitBar(customer) {
  const most = Math.max(customer.contract_w, customer.limit_w, 1);
  const x = (w) => `${Math.max(0, Math.min(100, (100 * w) / most)).toFixed(1)}%`;
  const bar = svg("svg", { class: "meter-bar", role: "img" });
  bar.append(
    svg("rect", { class: "gauge-back", x: 0, y: 3, width: "100%", height: 10, rx: 2 }),
    svg("rect", { class: "gauge-limit", x: 0, y: 3, height: 10, rx: 2 }),
    svg("line", { class: "gauge-nominal", y1: 0, y2: 16 }),
    svg("rect", { class: "source", y: 6.5, height: 3 }),
  );
  return (c) => {
    const [, limit, nominal, exported] = bar.children;
    attr(bar, "visibility", c.contract_w > c.nominal_w ? "visible" : "hidden");
    attr(limit, "width", x(c.limit_w));
    attr(nominal, "x1", x(c.nominal_w));
    attr(nominal, "x2", x(c.nominal_w));
    attr(exported, "width", x(c.quality === "good" ? Math.max(0, c.export_w ?? 0) : 0));
    attr(bar, "aria-label", `limit ${power(c.limit_w)}, nominal ${power(c.nominal_w)}, contract ${power(c.contract_w)}`);
    return bar;
  };
}

// A view that looks at one address when it is opened and every so often while it stands open.
export function looking(path, everyMs, render) {
  let at = -everyMs;
  return {
    show() {
      at = -everyMs;
    },
    draw() {
      if (performance.now() - at < everyMs) return;
      at = performance.now();
      get(path).then(render, () => {});
    },
  };
}
