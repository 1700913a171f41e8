"""`headroom-grid`: import, check, compile, info, solve, calibrate."""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dcu.grid.files import write_whole
from dcu.grid.port_model import PortModel, load_model, save_model
from shared.cli import EXIT_FAILED, EXIT_OK, run_cli
from shared.errors import ConfigError, Fault

if TYPE_CHECKING:
    from dcu.grid.flow_result import FlowResult
    from dcu.grid.helm import HelmResult
    from dcu.grid.importers.imported import Imported
    from dcu.grid.injections import Injections
    from dcu.grid.network import Network

EXAMPLE: Final = """examples:
  headroom-grid import opendss Master.dss -o feeder.json
  headroom-grid import tables my_feeder/ -o feeder.json
  headroom-grid check feeder.json --meters dcu.toml
  headroom-grid info feeder.json --svg feeder.svg
  headroom-grid solve feeder.json --loads loads.csv --json
  headroom-grid compile feeder.json -o feeder.npz
  headroom-grid calibrate feeder.json --readings readings.csv
"""
MODEL_SUFFIX: Final = ".npz"
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the console script; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="headroom-grid",
        description="Feeders: read them, check them, compile them for the DCU, solve them.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _import_parser(commands)
    check = commands.add_parser("check", help="say everything that is wrong with a network file")
    check.add_argument("feeder", type=Path)
    check.add_argument("--meters", type=Path, help="a DCU's configuration: meters and connection points must agree")
    check.add_argument("--radial", action="store_true", help="refuse loops even if the file allows them")
    check.set_defaults(command=_check)
    compile_ = commands.add_parser("compile", help="reduce a network to the port model that the DCU loads")
    compile_.add_argument("feeder", type=Path)
    compile_.add_argument("-o", "--output", type=Path, required=True)
    compile_.add_argument("--observe", choices=("auto", "all", "ports"), default="auto")
    compile_.set_defaults(command=_compile)
    info = commands.add_parser("info", help="what is in a feeder; as a picture too")
    info.add_argument("feeder", type=Path)
    info.add_argument("--svg", type=Path, help="write the picture there")
    info.add_argument("--json", action="store_true")
    info.set_defaults(command=_info)
    solve = commands.add_parser("solve", help="power flow of one state")
    solve.add_argument("feeder", type=Path, help="a network file or a compiled port model (.npz)")
    solve.add_argument("--loads", type=Path, help="CSV with port, p_w, q_var; ports not named draw nothing")
    solve.add_argument("--engine", choices=("auto", "port", "sweep", "helm"), default="auto")
    solve.add_argument("--tolerance", type=float, default=1e-10, help="estimated error [share of nominal]")
    solve.add_argument("--json", action="store_true")
    solve.set_defaults(command=_solve)
    calibrate = commands.add_parser("calibrate", help="say what looks wrong between a network file and its meters")
    calibrate.add_argument("feeder", type=Path)
    calibrate.add_argument("--readings", type=Path, required=True, help="CSV: time_utc_s,meter,phase,u_v,p_w,q_var")
    calibrate.add_argument("--busbar", help="bus of the meter `substation`; default: the transformer's secondary bus")
    calibrate.add_argument("--step", type=float, default=60.0, help="readings within so many seconds are one set [s]")
    calibrate.add_argument("--json", action="store_true")
    calibrate.set_defaults(command=_calibrate)
    schema = commands.add_parser("schema", help="print the JSON Schema of the network file")
    schema.set_defaults(command=_schema)
    options = parser.parse_args(arguments)
    return run_cli(lambda: int(options.command(options)))


FORMS: Final = {
    "case": "the neutral JSON of reference cases, three-phase-feeder/1",
    "opendss": "an OpenDSS master file (extra headroom[opendss])",
    "pandapower": "a pandapower net as JSON (extra headroom[pandapower])",
    "power-grid-model": "power-grid-model's input JSON (extra headroom[powergridmodel])",
    "tables": "a folder of CSV tables, see dcu/grid/README.md",
}


def _import_parser(commands: Any) -> None:
    importing = commands.add_parser("import", help="read somebody else's feeder")
    forms = importing.add_subparsers(required=True, metavar="form")
    for form, text in FORMS.items():
        one = forms.add_parser(form, help=text)
        one.add_argument("source", type=Path)
        one.add_argument("-o", "--output", type=Path, required=True, help="the network file to write")
        one.set_defaults(command=_import, form=form)


def _importer(form: str) -> Callable[[Path], Imported]:
    from dcu.grid.importers import case, opendss, pandapower, power_grid_model, tables  # noqa: PLC0415 SciPy, pydantic

    return {
        "case": case.import_case,
        "opendss": opendss.import_opendss,
        "pandapower": pandapower.import_pandapower,
        "power-grid-model": power_grid_model.import_power_grid_model,
        "tables": tables.import_tables,
    }[form]


def _import(options: argparse.Namespace) -> int:
    from dcu.grid.network_file import network_json, parse_network, save_network  # noqa: PLC0415

    _keep(options.source, options.output)
    found = _importer(options.form)(options.source)
    parse_network(str(options.source), json.loads(network_json(found.network)))  # what is written can be read
    save_network(found.network, options.output)
    for line in found.account.lines():
        print(line)
    print(f"wrote {options.output}")
    if found.profiles is not None:
        profiles = options.output.with_suffix(".profiles.npz")
        arrays = {
            "ports": np.array(found.profiles.ports),
            "step_s": np.array(found.profiles.step_s),
            "p_w": found.profiles.p_w,
            "q_var": found.profiles.q_var,
        }
        write_whole(profiles, lambda file: np.savez(file, allow_pickle=False, **arrays))
        print(f"wrote {profiles}: {len(found.profiles.p_w)} steps of {found.profiles.step_s:g} s")
    return EXIT_OK


def _keep(source: Path, output: Path) -> None:
    """A result never takes the place of what it was made from."""
    if source.resolve() == output.resolve():
        raise ConfigError(str(output), [Fault("output", "the same file as the input", "another file")])


def _network(path: Path, meters: frozenset[str] | None = None) -> Network:
    from dcu.grid.network_file import load_network  # noqa: PLC0415

    return load_network(path, meters)


def _check(options: argparse.Namespace) -> int:
    from dataclasses import replace  # noqa: PLC0415

    from dcu.grid.check import find_faults  # noqa: PLC0415
    from dcu.grid.network_file import limited  # noqa: PLC0415

    meters = None if options.meters is None else _meters(options.meters)
    network = _network(options.feeder, None if meters is None else frozenset(meters))
    faults = find_faults(replace(network, radial=True, memo={})) if options.radial else []
    if meters is not None:
        at = {p.meter: p for p in network.connection_points if p.meter}
        for meter, bus in meters.items():
            if meter not in at:
                faults.append(Fault(f"{options.meters}: meter {meter!r}", "at no connection point", "at one"))
            elif at[meter].bus != bus:
                seen = f"bus {bus!r}, but {at[meter].bus!r} in the network"
                faults.append(Fault(f"{options.meters}: meter {meter!r}", seen, "the same bus"))
    if faults:
        raise ConfigError(str(options.feeder), limited(faults))
    counts = f"{len(network.buses)} buses, {len(network.branches)} branches, {len(network.connection_points)} customers"
    print(f"{options.feeder}: good; {network.name}, {counts}")
    return EXIT_OK


def _meters(path: Path) -> dict[str, str]:
    """Meter ids and buses of a DCU's configuration."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        found = [(str(m["id"]), str(m["bus"])) for m in content["meters"]]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ConfigError(str(path), [Fault("meters", f"{error}"[:80], "a DCU configuration with meters")]) from error
    names = [name for name, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(str(path), [Fault(f"meters: {name!r}", "twice", "every meter once") for name in twice])
    return dict(found)


def _compile(options: argparse.Namespace) -> int:
    from dcu.grid.compiler import compile_network  # noqa: PLC0415

    _keep(options.feeder, options.output)
    if options.output.suffix != MODEL_SUFFIX:
        raise ConfigError(str(options.output), [Fault("output", f"ending {options.output.suffix!r}", MODEL_SUFFIX)])
    observe = {"auto": None, "all": True, "ports": False}[options.observe]
    model = compile_network(_network(options.feeder), observe=observe)
    save_model(model, options.output)
    print(f"wrote {options.output}: {_sizes(model)}, network {model.network_sha256[:16]}")
    for note in model.notes:
        print(f"note: {note}")
    return EXIT_OK


def _sizes(model: PortModel) -> str:
    return f"{len(model.ports)} ports, {len(model.nodes)} voltages and {len(model.currents)} currents observed"


def _info(options: argparse.Namespace) -> int:
    from dcu.grid.picture import feeder_svg  # noqa: PLC0415

    network = _network(options.feeder)
    facts = _facts(network)
    if options.svg is not None:
        _keep(options.feeder, options.svg)
        drawing = feeder_svg(network).encode()
        write_whole(options.svg, lambda file: file.write(drawing))
        facts["picture"] = str(options.svg)
    if options.json:
        print(json.dumps(facts, indent=1))
    else:
        width = max(map(len, facts))
        for key, value in facts.items():
            print(f"{key.replace('_', ' '):{width}}  {value}")
    return EXIT_OK


def _facts(network: Network) -> dict[str, Any]:
    from dcu.grid.compiler import network_sha256  # noqa: PLC0415

    phases: dict[str, int] = {}
    for port in network.ports():
        phases[port.connection.label] = phases.get(port.connection.label, 0) + 1
    rated = [min(b.rating_a) for b in network.branches if b.rating_a]
    return {
        "name": network.name,
        "description": network.description,
        "buses": len(network.buses),
        "branches": len(network.branches),
        "transformers": "; ".join(
            f"{t.id} {t.vector_group} {t.rating_va / 1e3:g} kVA".replace(" inf kVA", "") for t in network.transformers
        ),
        "switches": len(network.switches),
        "customers": len(network.connection_points),
        "ports_by_phase": ", ".join(f"{k} {v}" for k, v in sorted(phases.items())),
        "base_load_w": sum(p.connection.p_w for p in network.ports()),
        "rated_branches": f"{len(rated)}, {min(rated):g} .. {max(rated):g} A" if rated else "none",
        "meters": sum(p.meter is not None for p in network.connection_points),
        "network_sha256": network_sha256(network),
    }


def _solve(options: argparse.Namespace) -> int:
    from dcu.grid.feeder import Feeder, solve  # noqa: PLC0415
    from dcu.grid.injections import base_injections  # noqa: PLC0415

    if options.feeder.suffix == MODEL_SUFFIX:
        model = load_model(options.feeder)
        whole: Feeder | PortModel = model
        network = None
    else:
        network = _network(options.feeder)
        whole = Feeder(network)
        model = whole.model
    injections = base_injections(model) if options.loads is None else _loads(options.loads, model)
    if options.engine == "helm":
        return _show(options, model, _by_helm(model, injections), network)
    names = ("port_u_v", "bus_u_v", "current_a", "vuf", "loss_w", "source_s_va")
    result = solve(whole, injections, options.engine, results=names, tolerance_pu=options.tolerance)
    return _show(options, model, result, network)


def _by_helm(model: PortModel, injections: Injections) -> FlowResult:
    from dcu.grid.helm import helm  # noqa: PLC0415

    found = helm(model, injections)
    with np.errstate(all="ignore"):  # without solution there is nothing to observe
        return _observed_by_helm(model, injections, found)


def _observed_by_helm(model: PortModel, injections: Injections, found: HelmResult) -> FlowResult:
    from dcu.grid.flow_result import FlowResult  # noqa: PLC0415
    from dcu.grid.observe import observed  # noqa: PLC0415

    i = -np.conj((injections.p_w + 1j * injections.q_var) / found.u_v)
    values = observed(model, found.u_v, i, ("port_u_v", "bus_u_v", "current_a", "vuf", "loss_w", "source_s_va"))
    notes = tuple(f"nose at {share:.6g} of this load" for share in found.nose_share if math.isfinite(share))
    return FlowResult("helm", found.status, np.full(1, np.nan), found.restarts, found.error_pu, values, notes)


def _loads(path: Path, model: PortModel) -> Injections:
    """One state out of a CSV with the columns `port` (or `load`, `customer`), `p_w`, `q_var`; others are labels."""
    from dataclasses import replace  # noqa: PLC0415

    from dcu.grid.injections import base_injections  # noqa: PLC0415

    base = base_injections(model)
    p, q = np.zeros(base.p_w.shape), np.zeros(base.p_w.shape)
    place = {name: k for k, name in enumerate(model.ports)}
    faults: list[Fault] = []
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            key = next((c for c in ("port", "load", "customer") if c in columns), None)
            if key is None or not {"p_w", "q_var"} <= set(columns) or len(set(columns)) < len(columns):
                expected = "port, p_w, q_var, separated by commas, each once"
                raise ConfigError(str(path), [Fault("line 1", ", ".join(columns) or "nothing", expected)])
            for row in rows:
                where, name = f"line {rows.line_num}", row[key]
                if None in row or None in row.values():
                    cells = "too many cells" if None in row else "too few cells"
                    faults.append(Fault(where, cells, f"{len(columns)}; decimals have a point"))
                elif name not in place:
                    faults.append(Fault(where, f"port {name!r}", "a port of this feeder"))
                elif name in seen:
                    faults.append(Fault(where, f"port {name!r} again", "every port once"))
                else:
                    seen.add(name)
                    p[0, place[name]] = _number(where, "p_w", row["p_w"], faults)
                    q[0, place[name]] = _number(where, "q_var", row["q_var"], faults)
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Fault(f"byte {error.start}", "no UTF-8", "text in UTF-8")]) from error
    except csv.Error as error:
        raise ConfigError(str(path), [Fault("file", str(error), "comma-separated values")]) from error
    if faults:
        raise ConfigError(str(path), faults[:200])
    return replace(base, p_w=p, q_var=q)


def _number(where: str, key: str, text: str | None, faults: list[Fault]) -> float:
    value = float(text or "") if _NUMBER.fullmatch((text or "").strip()) else math.nan
    if not math.isfinite(value):
        faults.append(Fault(f"{where} {key}", repr(text), "a number, with a decimal point and no unit"))
        return 0.0
    return value


def _show(options: argparse.Namespace, model: PortModel, result: FlowResult, network: Network | None) -> int:
    ok = bool(result.converged[0])
    found = _as_json(model, result) if ok else {}
    if ok and network is not None:
        found["losses"] = _losses(network, model, result)
    head = {
        "feeder": model.name,
        "engine": result.engine,
        "notes": list(result.notes),
        "status": "converged" if ok else "no solution",
        "iterations": int(result.iterations[0]),
        "contraction": _finite(float(result.contraction[0])),
        "error_pu": _finite(float(result.error_pu[0])),
    }
    if options.json:
        print(json.dumps(head | found, indent=1))
    else:
        print("\n".join(_as_table(head, found, model)))
    return EXIT_OK if ok else EXIT_FAILED


def _losses(network: Network, model: PortModel, result: FlowResult) -> list[dict[str, Any]]:
    """What each branch and transformer turns into heat [W]: power into its first end less power out of its second."""
    u = {(n.bus, n.conductor): volts for n, volts in zip(model.nodes, result["bus_u_v"][0], strict=True)}
    i = {tuple(c): amps for c, amps in zip(model.currents, result["current_a"][0], strict=True)}
    found = []
    for b in network.branches:
        loss = 0.0
        for a, c in zip(b.from_end.conductors, b.to_end.conductors, strict=True):
            into = i["branch", b.id, "from", a]
            out = i.get(("branch", b.id, "to", c), into)
            loss += (u[b.from_end.bus, a] * np.conj(into) - u[b.to_end.bus, c] * np.conj(out)).real
        found.append({"kind": "branch", "id": b.id, "loss_w": float(loss)})
    for t in network.transformers:
        ends = [("primary", t.primary_bus, 1.0), ("secondary", t.secondary_bus, -1.0)]
        loss = sum(
            sign * (u[bus, name.conductor] * np.conj(current)).real
            for side, bus, sign in ends
            for name, current in zip(model.currents, i.values(), strict=True)
            if (name.kind, name.id, name.end) == ("transformer", t.id, side)
        )
        found.append({"kind": "transformer", "id": t.id, "loss_w": float(loss)})
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _as_json(model: PortModel, result: FlowResult) -> dict[str, Any]:
    power = complex(result["source_s_va"][0])
    return {
        "source_p_w": power.real,
        "source_q_var": power.imag,
        "loss_w": float(result["loss_w"][0]),
        "voltages": [
            {"bus": n.bus, "conductor": n.conductor, "re_v": u.real, "im_v": u.imag}
            for n, u in zip(model.nodes, result["bus_u_v"][0].tolist(), strict=True)
        ],
        "unbalance": [
            {"bus": bus, "vuf": vuf}
            for (bus, _, _), vuf in zip(model.three_phase_buses(), result["vuf"][0].tolist(), strict=True)
        ],
        "currents": [
            {
                "kind": c.kind,
                "id": c.id,
                "end": c.end,
                "conductor": c.conductor,
                "re_a": i.real,
                "im_a": i.imag,
                "rating_a": _finite(float(rating)),
            }
            for c, i, rating in zip(model.currents, result["current_a"][0].tolist(), model.rating_a, strict=True)
        ],
    }


def _as_table(head: dict[str, Any], found: dict[str, Any], model: PortModel) -> list[str]:
    lines = [f"{key}: {value}" for key, value in head.items() if value not in (None, [])]
    if not found:
        return lines
    lines.append(
        f"source: {found['source_p_w']:.1f} W, {found['source_q_var']:.1f} var; losses {found['loss_w']:.2f} W"
    )
    nominal = {n: float(u) for n, u in zip(model.nodes, model.node_nominal_v, strict=True)}
    lines += ["", f"{'bus':20} {'':2} {'U [V]':>12} {'angle':>9} {'U/Un':>8}"]
    for node, row in zip(model.nodes, found["voltages"], strict=True):
        u = complex(row["re_v"], row["im_v"])
        angle = math.degrees(math.atan2(u.imag, u.real))
        lines.append(f"{node.bus:20} {node.conductor:2} {abs(u):12.4f} {angle:9.3f} {abs(u) / nominal[node]:8.5f}")
    lines += ["", f"{'current':32} {'end':9} {'':2} {'I [A]':>10} {'of rating':>9}"]
    for row in found["currents"]:
        i = abs(complex(row["re_a"], row["im_a"]))
        share = f"{100 * i / row['rating_a']:8.1f}%" if row["rating_a"] else ""
        lines.append(f"{row['kind'] + ' ' + row['id']:32} {row['end']:9} {row['conductor']:2} {i:10.3f} {share:>9}")
    if "losses" in found:
        lines += ["", f"{'loss':32} {'P [W]':>12}"]
        lines += [f"{row['kind'] + ' ' + row['id']:32} {row['loss_w']:12.3f}" for row in found["losses"]]
    return lines


def _calibrate(options: argparse.Namespace) -> int:
    from dcu.grid.calibrate import as_json, as_table, calibrate  # noqa: PLC0415
    from dcu.grid.network import PHASES  # noqa: PLC0415
    from dcu.grid.readings import read_readings  # noqa: PLC0415
    from dcu.grid.sections import busbar_of, places  # noqa: PLC0415

    if not (math.isfinite(options.step) and options.step > 0):
        raise ConfigError("calibrate", [Fault("--step", f"{options.step}", "seconds above 0")])
    network = _network(options.feeder)
    busbar = options.busbar or busbar_of(network)
    if busbar not in {bus.id for bus in network.buses}:
        raise ConfigError(str(options.feeder), [Fault("--busbar", repr(busbar), "a bus of this feeder")])
    phases = {str(phase): k for k, phase in enumerate(PHASES)}
    found = read_readings(options.readings, places(network), network.port_nominal_v(), phases, options.step)
    result = calibrate(network, found, busbar)
    if options.json:
        print(json.dumps(as_json(network, result, found), indent=1))
    else:
        print("\n".join(as_table(network, result, found, str(options.readings))))
    return EXIT_FAILED if result.findings else EXIT_OK


def _schema(_: argparse.Namespace) -> int:
    from dcu.grid.network_file import json_schema  # noqa: PLC0415

    print(json.dumps(json_schema(), indent=1))
    return EXIT_OK
