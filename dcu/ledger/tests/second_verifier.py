"""A second verifier, written from the published formats alone: RFC 6962, RFC 8032, C2SP signed-note, tlog-checkpoint,
tlog-tiles, tlog-cosignature and tlog-proof. It shares no line with the ledger and needs the standard library only.

Everything is done the slow, literal way: trees by the recursive definition, Ed25519 by the formulas of the RFC.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

# ---- RFC 6962 §2.1, by definition ------------------------------------------------------------------------------------


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def mth(hashes: list[bytes]) -> bytes:
    """MTH over leaf hashes."""
    n = len(hashes)
    if n == 0:
        return sha()
    if n == 1:
        return hashes[0]
    k = 1
    while k * 2 < n:
        k *= 2
    return sha(b"\x01", mth(hashes[:k]), mth(hashes[k:]))


def path_root(leaf: bytes, m: int, n: int, path: list[bytes]) -> bytes:
    """The root that PATH(m, D[n]) gives: the recursive definition, read backwards."""
    if n == 1:
        if path:
            raise ValueError("path too long")
        return leaf
    if not path:
        raise ValueError("path too short")
    k = 1
    while k * 2 < n:
        k *= 2
    *rest, top = path
    if m < k:
        return sha(b"\x01", path_root(leaf, m, k, rest), top)
    return sha(b"\x01", top, path_root(leaf, m - k, n - k, rest))


# ---- RFC 8032, Ed25519 ----------------------------------------------------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)


def recover_x(y: int, sign: int) -> int:
    if y >= P:
        raise ValueError("point")
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_1 % P
    if (x * x - square) % P or (x == 0 and sign):
        raise ValueError("point")
    return P - x if x & 1 != sign else x


def point(data: bytes) -> tuple[int, int, int, int]:
    whole = int.from_bytes(data, "little")
    y = whole & ((1 << 255) - 1)
    x = recover_x(y, whole >> 255)
    return x, y, 1, x * y % P


def add(p: tuple[int, int, int, int], q: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(factor: int, p: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    found = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            found = add(found, p)
        p = add(p, p)
        factor >>= 1
    return found


G_Y = 4 * pow(5, P - 2, P) % P
G = (recover_x(G_Y, 0), G_Y, 1, recover_x(G_Y, 0) * G_Y % P)


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    if len(signature) != 64:
        return False
    a, r = point(public), point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    left, right = times(s, G), add(r, times(k, a))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0


# ---- C2SP signed-note, tlog-checkpoint, tlog-cosignature -------------------------------------------------------------


def b64(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64")
    return data


def verify_note(note: bytes, vkey: str) -> str:
    """The text of a note signed by a key (``name+id+key``); kinds 1 (log) and 4 (witness)."""
    name, key_id, key_text = vkey.split("+", 2)
    key = b64(key_text)
    if sha(name.encode(), b"\n", key)[:4].hex() != key_id:
        raise ValueError("vkey")
    whole = note.decode()
    text, _, lines = whole.rpartition("\n\n")
    text += "\n"
    for line in lines.splitlines():
        dash, signer, blob_text = line.split(" ")
        if dash != "—":
            raise ValueError("signature line")
        blob = b64(blob_text)
        if signer == name and blob[:4].hex() == key_id:
            message, signature = text.encode(), blob[4:]
            if key[0] == 4:
                stamp, signature = int.from_bytes(blob[4:12], "big"), blob[12:]
                message = f"cosignature/v1\ntime {stamp}\n".encode() + message
            if ed25519_verify(key[1:], message, signature):
                return text
            raise ValueError("signature")
    raise ValueError("not signed")


def verify_head(note: bytes, vkey: str) -> tuple[int, bytes]:
    origin, size, root, rest = verify_note(note, vkey).split("\n")
    if origin != vkey.split("+", maxsplit=1)[0] or rest or str(int(size)) != size:
        raise ValueError("checkpoint")
    return int(size), b64(root)


# ---- C2SP tlog-tiles -------------------------------------------------------------------------------------------------


def tile_name(kind: str, n: int, width: int) -> str:
    parts = [f"{n % 1000:03d}"]
    while n >= 1000:
        n //= 1000
        parts.insert(0, f"x{n % 1000:03d}")
    return f"tile/{kind}/{'/'.join(parts)}" + ("" if width == 256 else f".p/{width}")


def read_log(directory: Path, vkey: str) -> tuple[int, bytes, list[bytes]]:
    """Size, root and entries of a published log, every tile compared with its definition."""
    size, root = verify_head((directory / "checkpoint").read_bytes(), vkey)
    entries: list[bytes] = []
    for n in range((size + 255) // 256):
        width = min(256, size - 256 * n)
        data = (directory / tile_name("entries", n, width)).read_bytes()
        for _ in range(width):
            length = int.from_bytes(data[:2], "big")
            if len(data) < 2 + length:
                raise ValueError("bundle")
            entries.append(data[2 : 2 + length])
            data = data[2 + length :]
        if data:
            raise ValueError("bundle")
    row = [sha(b"\x00", entry) for entry in entries]
    if mth(row) != root:
        raise ValueError("root")
    level = 0
    while row:
        for n in range((len(row) + 255) // 256):
            part = row[256 * n : 256 * n + 256]
            if (directory / tile_name(str(level), n, len(part))).read_bytes() != b"".join(part):
                raise ValueError("tile")
        row = [mth(row[256 * n : 256 * n + 256]) for n in range(len(row) // 256)]
        level += 1
    return size, root, entries


# ---- C2SP tlog-proof, and what a receipt adds ------------------------------------------------------------------------


def verify_proof(data: bytes, entry: bytes, vkeys: list[str]) -> int:
    """The index of an entry that a proof proves under a head that all keys have signed (the first is the log's)."""
    front, _, note = data.partition(b"\n\n")
    lines = front.decode().split("\n")
    if lines.pop(0) != "c2sp.org/tlog-proof@v1":
        raise ValueError("proof")
    if lines[0].startswith("extra "):
        lines.pop(0)
    word, _, index = lines.pop(0).partition(" ")
    if word != "index" or str(int(index)) != index:
        raise ValueError("proof")
    size, root = verify_head(note, vkeys[0])
    for vkey in vkeys[1:]:
        verify_note(note, vkey)
    if path_root(sha(b"\x00", entry), int(index), size, [b64(line) for line in lines]) != root:
        raise ValueError("proof")
    return int(index)


def read_receipt(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """A receipt's entry, and what it opens after checking that against the entry."""
    extra = json.loads(b64(data.decode().split("\n")[1].removeprefix("extra ")))
    entry = extra["entry"].encode()
    sealed = json.loads(entry).get("sealed")
    opened: dict[str, Any] = {}
    for item in extra["opened"]:
        leaf = sha(b"\x00", item["part"].encode())
        if path_root(leaf, item["index"], sealed["parts"], [b64(step) for step in item["path"]]) != b64(sealed["root"]):
            raise ValueError("part")
        _, owner, pieces = json.loads(item["part"])
        opened[owner] = pieces
    return entry, opened
