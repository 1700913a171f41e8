// Verifies a receipt (C2SP tlog-proof) with nothing but this browser's own cryptography: the entry's place in the tree of the
// head (RFC 6962), the log's Ed25519 signature under the head, and the opened parts under the root the entry keeps of them.
// Written from the published formats (c2sp.org/tlog-proof, signed-note, tlog-checkpoint, tlog-cosignature; RFC 6962 2.1.1).

const MAGIC = "c2sp.org/tlog-proof@v1";
const LOG_KEY = 1, WITNESS_KEY = 4;
const text = new TextEncoder();

class Wrong extends Error {}

function need(fact, words) {
  if (!fact) throw new Wrong(words);
}

function unbase64(given) {
  need(/^[A-Za-z0-9+/]*={0,2}$/.test(given), "characters that are no base64");
  let raw;
  try {
    raw = atob(given);
  } catch {
    throw new Wrong("a text that is no base64");
  }
  const bytes = Uint8Array.from(raw, (c) => c.charCodeAt(0));
  need(btoa(raw) === given, "base64 in another than its one form");
  return bytes;
}

const join = (...parts) => {
  const all = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
};
const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", join(...parts)));
const equal = (a, b) => a.length === b.length && a.every((byte, k) => byte === b[k]);
const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** The root that a leaf's bytes and a path of sibling hashes lead to (RFC 9162 2.1.3.2, the same trees as RFC 6962). */
async function rootOf(leaf, index, size, path) {
  need(index < size, `number ${index} lies beyond a tree of ${size}`);
  let fn = index, sn = size - 1n;
  let hash = await sha256(Uint8Array.of(0), leaf);
  for (const sibling of path) {
    need(sn > 0n, "the path is too long");
    if (fn % 2n === 1n || fn === sn) {
      hash = await sha256(Uint8Array.of(1), sibling, hash);
      while (fn % 2n === 0n && fn !== 0n) [fn, sn] = [fn / 2n, sn / 2n];
    } else hash = await sha256(Uint8Array.of(1), hash, sibling);
    [fn, sn] = [fn / 2n, sn / 2n];
  }
  need(sn === 0n, "the path is too short");
  return hash;
}

/** Keys in a text: words of the form name+id+key, as they stand in policies. */
async function keysIn(given) {
  const found = [];
  for (const word of given.split(/\s+/)) {
    const parts = /^([^+\s]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)$/.exec(word);
    if (!parts) continue;
    const bytes = unbase64(parts[3]);
    need(bytes.length === 33, `key ${parts[1]}: ${bytes.length} bytes, expected 33`);
    const id = (await sha256(text.encode(`${parts[1]}\n`), bytes)).slice(0, 4);
    need(hex(id) === parts[2], `key ${parts[1]}: its number should be ${hex(id)}`);
    found.push({ name: parts[1], id, kind: bytes[0], raw: bytes.slice(1) });
  }
  return found;
}

async function signs(key, signature, message) {
  const open = await crypto.subtle.importKey("raw", key.raw, { name: "Ed25519" }, false, ["verify"]);
  return crypto.subtle.verify({ name: "Ed25519" }, open, signature, message);
}

function parseReceipt(given) {
  const cut = given.indexOf("\n\n");
  need(cut > 0, "no empty line between proof and head");
  const lines = given.slice(0, cut).split("\n");
  need(lines.shift() === MAGIC, `the first line is not ${MAGIC}`);
  need(lines[0]?.startsWith("extra "), "no entry in it");
  const extra = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(unbase64(lines.shift().slice(6))));
  const index = /^index (0|[1-9][0-9]{0,18})$/.exec(lines.shift() ?? "");
  need(index, "no index");
  need(extra.form === "headroom-receipt/1" && typeof extra.entry === "string" && Array.isArray(extra.opened), "an entry of another form");
  return { extra, index: BigInt(index[1]), path: lines.map(unbase64), note: given.slice(cut + 2) };
}

function parseNote(note) {
  const cut = note.indexOf("\n\n");
  need(cut > 0, "the head has no signatures");
  const body = note.slice(0, cut + 1);
  const [origin, size, root, rest] = body.split("\n");
  need(rest === "" && /^(0|[1-9][0-9]{0,18})$/.test(size), "the head is no origin, size and root");
  const signatures = note.slice(cut + 2).split("\n").filter((line) => line).map((line) => {
    const parts = /^\u2014 (\S+) (\S+)$/.exec(line);
    need(parts, "a line under the head that is no signature");
    const bytes = unbase64(parts[2]);
    need(bytes.length > 4, "a signature that is too short");
    return { name: parts[1], id: bytes.slice(0, 4), data: bytes.slice(4) };
  });
  return { body, origin, size: BigInt(size), root: unbase64(root), signatures };
}

async function checkSignatures(head, keys, steps) {
  let byLog = false;
  for (const signature of head.signatures) {
    const key = keys.find((one) => one.name === signature.name && equal(one.id, signature.id));
    if (key === undefined) {
      steps.push({ good: null, words: `Signature of ${signature.name}: its key is not among those you trust; not looked at.` });
      continue;
    }
    if (key.kind === LOG_KEY) {
      const good = key.name === head.origin && (await signs(key, signature.data, text.encode(head.body)));
      byLog ||= good;
      steps.push({ good, words: good ? `Signature of the log ${key.name} under this head: right (Ed25519).` : `Signature of ${key.name}: WRONG.` });
    } else if (key.kind === WITNESS_KEY && signature.data.length === 72) {
      const at = new DataView(signature.data.buffer, signature.data.byteOffset).getBigUint64(0);
      const good = await signs(key, signature.data.slice(8), text.encode(`cosignature/v1\ntime ${at}\n${head.body}`));
      const when = new Date(Number(at) * 1000).toISOString();
      steps.push({ good, words: good ? `Witness ${key.name} saw this log only grow, at ${when}.` : `Signature of the witness ${key.name}: WRONG.` });
      need(good, `the signature of the witness ${key.name} is wrong`);
    }
  }
  need(byLog, "no signature of the log by a key you trust");
}

async function checkParts(extra, entry, steps) {
  const sealed = entry.sealed;
  for (const opened of extra.opened) {
    need(sealed && typeof sealed.root === "string", "it opens parts of an entry that keeps none");
    const root = await rootOf(text.encode(opened.part), BigInt(opened.index), BigInt(sealed.parts), opened.path.map(unbase64));
    need(equal(root, unbase64(sealed.root)), `part ${opened.index} is not of this entry`);
  }
  const shut = (sealed?.parts ?? 0) - extra.opened.length;
  if (extra.opened.length) steps.push({ good: true, words: `${extra.opened.length} sealed part(s) opened, each under the root the entry keeps.` });
  if (shut > 0) steps.push({ good: null, words: `${shut} part(s) stay sealed: values of customers, which only their own receipts open.` });
}

/** What of a receipt holds, step by step. `good` only if everything that was claimed was shown. */
export async function verify(receipt, trusted) {
  const steps = [];
  let entry = null;
  try {
    const keys = await keysIn(trusted);
    need(keys.some((key) => key.kind === LOG_KEY), "no key of a log among those you trust");
    const { extra, index, path, note } = parseReceipt(receipt);
    entry = JSON.parse(extra.entry);
    if (extra.opened.length) entry = { ...entry, "(opened)": extra.opened.map((opened) => JSON.parse(opened.part)[2]) };
    const head = parseNote(note);
    steps.push({ good: true, words: `Receipt of entry ${index} under the head of ${head.origin} with ${head.size} entries.` });
    const root = await rootOf(text.encode(extra.entry), index, head.size, path);
    need(equal(root, head.root), `the entry and its ${path.length} hashes lead to the root ${hex(root).slice(0, 16)}…, the head says ${hex(head.root).slice(0, 16)}…`);
    steps.push({ good: true, words: `The entry and ${path.length} hashes lead to the head's root ${hex(head.root).slice(0, 16)}… (SHA-256).` });
    await checkSignatures(head, keys, steps);
    await checkParts(extra, JSON.parse(extra.entry), steps);
    return { good: true, steps, entry };
  } catch (error) {
    const words = error instanceof Wrong ? error.message : error instanceof SyntaxError || error instanceof TypeError ? "it cannot be read" : String(error.message);
    steps.push({ good: false, words });
    return { good: false, steps, entry };
  }
}
