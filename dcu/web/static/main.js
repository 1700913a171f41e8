// Listens to the stream, keeps the newest look, and lets the view that is shown draw it.

import { $, clock, date, put } from "./format.js";
import * as street from "./street.js";
import * as customers from "./customers.js";
import * as decisions from "./decisions.js";
import * as line from "./line.js";
import * as quality from "./quality.js";
import * as ledger from "./ledger.js";

const VIEWS = { street, customers, decisions, line, quality, ledger };
const SILENT_MS = 6000;

/** What all views share: the newest look, decisions by key, the chosen customer. */
export const world = { look: null, decisions: new Map(), chosen: null };
let shown = "";
let heard = 0;
let lost = false;
let saidAt = 0;
let alarmsSaid = new Set();

function route() {
  const wanted = location.hash.slice(2);
  const name = Object.hasOwn(VIEWS, wanted) ? wanted : "street";
  if (name === shown) return;
  const first = shown === "";
  shown = name;
  for (const other of Object.keys(VIEWS)) $(other).hidden = other !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${name}`) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else link.removeAttribute("aria-current");
  }
  document.title = `${document.querySelector(`nav a[href="#/${name}"]`).textContent} · Headroom`;
  scrollTo(0, 0);
  if (!first) $("content").focus({ preventScroll: true });
  VIEWS[name].show?.(world);
  draw();
}

function draw() {
  if (world.look !== null && !document.hidden) VIEWS[shown].draw(world);
}

/** For those who listen: what is new and matters, at most every ten seconds. */
function say(text) {
  if (performance.now() - saidAt < 10000 && saidAt > 0) return false;
  saidAt = performance.now();
  put($("said"), text);
  return true;
}

function head() {
  const look = world.look;
  const state = lost ? "down" : look.state;
  const words = lost
    ? "no connection to this page's server"
    : { live: look.quarantine ? "live, in quarantine" : "live", stale: "DCU answers slowly", down: "DCU does not answer" }[state];
  if (document.body.dataset.state !== state && document.body.dataset.state) say(words);
  document.body.dataset.state = $("state").dataset.state = state;
  put($("state-words"), words);
  put($("dcu"), look.dcu ?? "");
  put($("clock"), look.utc_s === null ? "" : `${state === "live" ? "" : "last heard "}${date(look.heard_utc_s)}`);
  const since = look.heard_utc_s === null ? "The DCU has not been heard yet" : `What you see is from ${clock(look.heard_utc_s)} UTC`;
  $("notice").hidden = state === "live" || state === "stale";
  put($("notice"), state === "down" ? `${since}. ${lost ? "This page's server cannot be reached; it is tried again." : sentence(look.why)}` : "");
  const fresh = look.alarms.filter((alarm) => alarm.level === "alarm" && !alarmsSaid.has(alarm.who + alarm.what));
  if (!fresh.length || say(`Alarm: ${fresh[0].who}, ${fresh[0].what}`)) alarmsSaid = new Set(look.alarms.map((alarm) => alarm.who + alarm.what));
}

const sentence = (words) => (words ? `${words[0].toUpperCase()}${words.slice(1)}.` : "");

function take(look) {
  heard = performance.now();
  lost = false;
  world.look = look;
  for (const row of look.news) world.decisions.set(row.key, row);
  head();
  draw();
}

function listen() {
  const stream = new EventSource("/api/stream");
  stream.addEventListener("street", (event) => take(JSON.parse(event.data)));
  stream.addEventListener("error", async () => {
    if (stream.readyState !== EventSource.CLOSED) return;
    const answer = await fetch("/api/street").catch(() => null);
    if (answer?.status === 401) location.assign("/login");
    else setTimeout(listen, 3000);
  });
}

export function choose(name) {
  world.chosen = name;
  street.chosen(world);
  draw();
}

addEventListener("hashchange", route);
document.addEventListener("visibilitychange", draw);
setInterval(() => {
  if (!lost && world.look !== null && performance.now() - heard > SILENT_MS) {
    lost = true;
    head();
  }
}, 1000);
route();
listen();
for (const view of Object.values(VIEWS)) view.start?.(world);
fetch("/api/decisions?count=500").then(async (answer) => {
  if (!answer.ok) return;
  const known = world.decisions;
  world.decisions = new Map((await answer.json()).map((row) => [row.key, row]));
  for (const [key, row] of known) world.decisions.set(key, row);
  draw();
});
