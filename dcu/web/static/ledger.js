// The log's head, and receipts that this browser verifies by itself.

import { $, el, get } from "./format.js";
import { verify } from "./verify.js";

const EVERY_MS = 15000;
let at = -EVERY_MS;
let keysTouched = false;

export function start() {
  $("fetch-receipt").addEventListener("submit", (event) => {
    event.preventDefault();
    fetchReceipt(Number($("position").value), null);
  });
  $("file").addEventListener("change", async () => {
    const file = $("file").files[0];
    if (file && file.size < 1 << 24) fill(await file.text());
  });
  $("keys").addEventListener("input", () => (keysTouched = true));
  $("verify").addEventListener("click", check);
  $("receipt").addEventListener("input", () => $("verdict").replaceChildren());
}

export function show() {
  at = -EVERY_MS;
}

export function draw() {
  if (performance.now() - at < EVERY_MS) return;
  at = performance.now();
  get("/api/ledger").then(render, () => {});
}

function render(told) {
  if (!told.known) {
    $("head-body").replaceChildren(el("p", { class: "quiet" }, `Not known: ${told.why}.`));
    return;
  }
  if (told.key && !keysTouched && !$("keys").value) $("keys").value = told.key;
  const facts = [
    ["Log", told.origin],
    ["Entries", told.size.toLocaleString("en")],
    ["Root", told.root],
    ["Key", told.key ?? "not known to this page; it comes with the contract"],
    ["Signed by", told.signatures.map((s) => `${s.name} (${s.key_id})`).join(", ")],
    ["Witnessed", told.cosigned_size === null ? "no witness has signed a head here" : `${told.cosigned_size.toLocaleString("en")} entries`],
  ];
  $("head-body").replaceChildren(
    el("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, ["Root", "Key"].includes(name) ? el("code", {}, value) : value)])),
    el("p", { class: "quiet" }, "Whoever keeps a head can show later that nothing under it was changed or taken away. Keep some."),
    el("details", {}, el("summary", {}, "The signed note"), el("pre", { tabindex: "0" }, told.note)),
  );
}

/** Fetches the receipt of an entry, with what belongs to a customer where this server may open it, and verifies it. */
export async function fetchReceipt(position, meter) {
  $("position").value = position;
  $("verdict").replaceChildren();
  try {
    const told = await get("/api/ledger");
    render(told);
    fill(await get(`/api/receipts/${position}${meter ? `?meter=${encodeURIComponent(meter)}` : ""}`));
    await check();
  } catch (error) {
    $("verdict").replaceChildren(el("p", { class: "verdict bad" }, error.message));
  }
}

function fill(text) {
  $("receipt").value = text;
  $("verdict").replaceChildren();
  const link = $("save");
  if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = `receipt-${$("position").value || "file"}.tlog-proof`;
  link.hidden = false;
}

async function check() {
  const found = await verify($("receipt").value, $("keys").value);
  const list = el("ul", { class: "steps-list" }, ...found.steps.map((step) => el("li", {}, el("span", { class: step.good === true ? "ok" : step.good === false ? "bad" : "quiet", "aria-hidden": "true" }, step.good === true ? "✓" : step.good === false ? "✕" : "–"), el("span", {}, step.words))));
  const shown = [el("p", { class: found.good ? "verdict" : "verdict bad" }, found.good ? "It verifies: this entry is in the log, as its key has signed." : "It does NOT verify."), list];
  if (found.entry !== null) {
    const title = found.good ? "The entry" : "What the receipt claims the entry to be";
    shown.push(el("details", found.good ? { open: "" } : {}, el("summary", {}, title), el("pre", { tabindex: "0" }, JSON.stringify(found.entry, null, 1))));
  }
  $("verdict").replaceChildren(...shown);
}
