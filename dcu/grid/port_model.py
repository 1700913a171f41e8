"""The compiled feeder: a multiport Thévenin equivalent in one file, read with NumPy alone.

    u = u_open + Z i        ports: one for each connection of a customer
    y = y_open + H i        observables: voltages of nodes, currents of branches, transformers and the source

`i` is the current injected at the ports [A], so that a customer who draws injects a negative one.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dcu.grid.files import write_whole
from dcu.grid.tree_model import TreeModel
from shared.errors import ConfigError, Fault

FORMAT: Final = "headroom-port-model/1"
FILE_BYTES_MAX: Final = 4 << 30
HEADER_BYTES_MAX: Final = 64 << 20
TREE_AGREES: Final = 1e-9
"""Share of the largest voltage up to which Z and the tree may differ: rounding, and nothing that a decision sees."""

Complexes = NDArray[np.complex128]
Reals = NDArray[np.float64]


class NodeName(NamedTuple):
    """A conductor of a bus."""

    bus: str
    conductor: str


class CurrentName(NamedTuple):
    """Where a current is measured: `kind` branch, transformer or source; positive from first to second end."""

    kind: str
    id: str
    end: str
    conductor: str


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Structure of a large Z: ports of different outgoing lines meet only at one busbar.

    `Z[a, b] = part[g][a, b] (a, b in line g, else 0) + (T Zb T^T)[a, b]`, exactly. `ports[g]` are the ports of line g,
    `parts[g]` its matrix [ohm], `transfer` T (n_port, n_conductor), `z_busbar_ohm` Zb.
    """

    ports: tuple[NDArray[np.int64], ...]
    parts: tuple[Complexes, ...]
    transfer: Complexes
    z_busbar_ohm: Complexes

    def times(self, i_a: Complexes) -> Complexes:
        """Z i (n) [V]."""
        found: Complexes = self.transfer @ (self.z_busbar_ohm @ (self.transfer.T @ i_a))
        for at, part in zip(self.ports, self.parts, strict=True):
            found[at] += part @ i_a[at]
        return found

    def dense(self) -> Complexes:
        """The whole Z (n_port, n_port) [ohm]."""
        z = self.transfer @ self.z_busbar_ohm @ self.transfer.T
        for at, part in zip(self.ports, self.parts, strict=True):
            z[np.ix_(at, at)] += part
        return z


@dataclass(frozen=True, slots=True, eq=False)
class PortModel:
    """A compiled feeder with n ports, m observed nodes, k observed currents, s source conductors."""

    name: str
    network_sha256: str
    ports: tuple[str, ...]
    port_buses: tuple[str, ...]
    port_labels: tuple[str, ...]
    """`L1` for phase to neutral or earth, `L1L2` between phases."""
    port_meters: tuple[str | None, ...]
    """The meter that measures each port, where the network names one."""
    u_nominal_v: Reals
    """[V] (n) across each port."""
    u_open_v: Complexes
    """[V] (n) with no current at any port."""
    z: Complexes | Lines
    """[ohm] (n, n), dense or by lines."""
    base_p_w: Reals
    base_q_var: Reals
    base_zip: Reals
    """(n, 3) shares of constant impedance, current, power of the base case's draws."""
    nodes: tuple[NodeName, ...]
    node_nominal_v: Reals
    node_open_v: Complexes
    node_h_ohm: Complexes
    """[ohm] (m, n)"""
    currents: tuple[CurrentName, ...]
    rating_a: Reals
    """[A] (k), infinite where not known."""
    current_open_a: Complexes
    current_h: Complexes
    """(k, n)"""
    source_u_open_v: Complexes
    source_h_ohm: Complexes
    """[ohm] (s, n) voltages at the source's terminals."""
    source_i_open_a: Complexes
    source_h: Complexes
    """(s, n) currents out of the source."""
    notes: tuple[str, ...] = ()
    tree: TreeModel | None = None
    """The same Z as a tree, where the feeder is radial."""
    memo: dict[str, Any] = field(default_factory=dict, repr=False)
    """What engines derive from the arrays and keep."""

    @property
    def z_ohm(self) -> Complexes:
        """The dense Z [ohm] (n, n)."""
        if isinstance(self.z, Lines):
            if "z" not in self.memo:
                self.memo["z"] = self.z.dense()
            z: Complexes = self.memo["z"]
            return z
        return self.z

    def three_phase_buses(self) -> list[tuple[str, tuple[int, int, int], int | None]]:
        """Bus, rows of its L1 L2 L3 and of its N (if it has one) among the nodes, where all three phases are there."""
        rows: dict[str, dict[str, int]] = {}
        for k, (bus, conductor) in enumerate(self.nodes):
            rows.setdefault(bus, {})[conductor] = k
        return [
            (bus, (at["L1"], at["L2"], at["L3"]), at.get("N"))
            for bus, at in rows.items()
            if {"L1", "L2", "L3"} <= at.keys()
        ]


_ARRAYS: Final = {
    "u_nominal_v": ("n",),
    "u_open_v": ("n",),
    "base_p_w": ("n",),
    "base_q_var": ("n",),
    "base_zip": ("n", "3"),
    "node_nominal_v": ("m",),
    "node_open_v": ("m",),
    "node_h_ohm": ("m", "n"),
    "rating_a": ("k",),
    "current_open_a": ("k",),
    "current_h": ("k", "n"),
    "source_u_open_v": ("s",),
    "source_h_ohm": ("s", "n"),
    "source_i_open_a": ("s",),
    "source_h": ("s", "n"),
}
_MAY_BE_INFINITE: Final = frozenset({"rating_a"})


def save_model(model: PortModel, path: Path) -> None:
    """Write the file whole or not at all; the same model gives the same bytes."""
    arrays = {name: getattr(model, name) for name in _ARRAYS} | _z_arrays(model.z)
    arrays |= {} if model.tree is None else model.tree.arrays()
    header: dict[str, Any] = {
        "format": FORMAT,
        "name": model.name,
        "network_sha256": model.network_sha256,
        "ports": list(model.ports),
        "port_buses": list(model.port_buses),
        "port_labels": list(model.port_labels),
        "port_meters": list(model.port_meters),
        "nodes": [list(n) for n in model.nodes],
        "currents": [list(c) for c in model.currents],
        "notes": list(model.notes),
    }
    header["content_sha256"] = _digest(header, arrays)
    text = np.frombuffer(json.dumps(header, ensure_ascii=False).encode(), dtype=np.uint8)
    write_whole(path, lambda file: np.savez(file, allow_pickle=False, header=text, **arrays))


def _z_arrays(z: Complexes | Lines) -> dict[str, NDArray[Any]]:
    if not isinstance(z, Lines):
        return {"z_ohm": z}
    arrays: dict[str, NDArray[Any]] = {"transfer": z.transfer, "z_busbar_ohm": z.z_busbar_ohm}
    for g, (at, block) in enumerate(zip(z.ports, z.parts, strict=True)):
        arrays |= {f"line{g}_ports": at, f"line{g}_z_ohm": block}
    return arrays


def _digest(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(header, ensure_ascii=False, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def load_model(path: Path) -> PortModel:
    """The model in a file; nothing in it is executed, everything is checked.

    Raises:
        ConfigError: missing, damaged, of another version, changed since it was written, or inconsistent.
    """
    file = str(path)
    try:
        header, arrays = _read(path)
    except OSError as error:
        raise ConfigError(file, [Fault("file", error.strerror or str(error), "a readable file")]) from error
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(file, [Fault("file", _short(error), f"a {FORMAT} file")]) from error
    if header.get("format") != FORMAT:
        raise ConfigError(file, [Fault("format", repr(header.get("format"))[:60], FORMAT)])
    seen = header.pop("content_sha256", None)
    wanted = _digest(header, arrays)
    if seen != wanted:
        raise ConfigError(file, [Fault("content_sha256", str(seen)[:16], f"{wanted[:16]}, the content's own")])
    try:
        faults = _inconsistencies(header, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(file, [Fault("header", _short(error), f"a {FORMAT} header")]) from error
    if faults:
        raise ConfigError(file, faults)
    known: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
    z, ports = _read_z(arrays), tuple(header["ports"])
    return PortModel(
        name=header["name"],
        network_sha256=header["network_sha256"],
        ports=ports,
        port_buses=tuple(header["port_buses"]),
        port_labels=tuple(header["port_labels"]),
        port_meters=tuple(header["port_meters"]),
        nodes=tuple(NodeName(*n) for n in header["nodes"]),
        currents=tuple(CurrentName(*c) for c in header["currents"]),
        notes=tuple(header["notes"]),
        z=z,
        tree=_read_tree(file, arrays, z, ports),
        **known,
    )


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:100] if str(error) else type(error).__name__


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with zipfile.ZipFile(path) as archive:  # sizes first: a small file may unpack to a large one
        if sum(item.file_size for item in archive.infolist()) > FILE_BYTES_MAX:
            raise ValueError(f"more than {FILE_BYTES_MAX} bytes unpacked")
        if archive.getinfo("header.npy").file_size > HEADER_BYTES_MAX:
            raise ValueError(f"a header of more than {HEADER_BYTES_MAX} bytes")
    with np.load(path, allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    header = json.load(io.BytesIO(arrays.pop("header").astype(np.uint8).tobytes()))
    if not isinstance(header, dict):
        raise ValueError("a header that is no object")  # noqa: TRY004 caught as a damaged file
    return header, arrays


def _inconsistencies(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> list[Fault]:
    sizes = {"n": len(header["ports"]), "m": len(header["nodes"]), "k": len(header["currents"]), "3": 3}
    sizes["s"] = len(arrays.get("source_i_open_a", ()))
    faults = [
        Fault(name, f"{len(header[name])} entries", f"{sizes['n']}, one for each port")
        for name in ("port_buses", "port_labels", "port_meters")
        if len(header[name]) != sizes["n"]
    ]
    for name, shape in _ARRAYS.items():
        wanted = tuple(sizes[s] for s in shape)
        if name not in arrays:
            faults.append(Fault(name, "nothing", f"an array {wanted}"))
        elif arrays[name].shape != wanted:
            faults.append(Fault(name, f"shape {arrays[name].shape}", f"{wanted}"))
        elif not (np.isfinite(arrays[name]).all() or name in _MAY_BE_INFINITE):
            faults.append(Fault(name, "NaN or infinity", "finite numbers"))
    for name, array in arrays.items():
        if array.dtype.kind not in "fci" or (name not in _MAY_BE_INFINITE and not np.isfinite(array).all()):
            faults.append(Fault(name, f"{array.dtype} or a number that is not finite", "finite numbers"))
    if "z_ohm" in arrays:
        if arrays["z_ohm"].shape != (sizes["n"], sizes["n"]):
            faults.append(Fault("z_ohm", f"shape {arrays['z_ohm'].shape}", f"({sizes['n']}, {sizes['n']})"))
    elif "transfer" not in arrays or sorted(
        int(p) for name, at in arrays.items() if name.endswith("_ports") for p in at
    ) != list(range(sizes["n"])):
        faults.append(Fault("z_ohm", "nothing", "a matrix, or lines that hold every port once"))
    return faults


def _read_z(arrays: Mapping[str, NDArray[Any]]) -> Complexes | Lines:
    if "z_ohm" in arrays:
        return arrays["z_ohm"]
    count = sum(name.endswith("_z_ohm") for name in arrays)
    return Lines(
        tuple(arrays[f"line{g}_ports"] for g in range(count)),
        tuple(arrays[f"line{g}_z_ohm"] for g in range(count)),
        arrays["transfer"],
        arrays["z_busbar_ohm"],
    )


def _read_tree(
    file: str, arrays: Mapping[str, NDArray[Any]], z: Complexes | Lines, ports: tuple[str, ...]
) -> TreeModel | None:
    """The tree, which must be another form of the same Z."""
    try:
        tree = TreeModel.of(arrays, arrays["u_open_v"], arrays["u_nominal_v"], ports)
    except (KeyError, ValueError, OverflowError) as error:
        wanted = "nodes, each after its parent, and their ports"
        raise ConfigError(file, [Fault("tree", _short(error), wanted)]) from error
    if tree is not None and not agrees(tree, z):
        raise ConfigError(file, [Fault("tree", "other voltages than by z_ohm", "the same feeder as a tree")])
    return tree


def agrees(tree: TreeModel, z: Complexes | Lines) -> bool:
    """Whether a tree answers a current at every port as Z does."""
    i_a = np.exp(1j * np.arange(len(tree.ports)) ** 2)  # no two alike
    by_z = z.times(i_a) if isinstance(z, Lines) else z @ i_a
    return bool(np.abs(tree.lift_v(i_a) - by_z).max() <= TREE_AGREES * np.abs(by_z).max())
