"""One batch of the European feeder as bare arrays: written here, solved again on another processor, compared.

Run as `python -m benchmarks.arm_case write FILE`, and on the other side `python benchmarks/arm_case.py check FILE`,
which needs NumPy and the compiled module of the wheel under test, and nothing else.
"""

import platform
import sys
from pathlib import Path

import numpy as np


def write(path: Path) -> None:
    """The reduced tree, draws, inverters and a damper-free batch, and this machine's voltages."""
    from dcu.grid.feeder import solve  # noqa: PLC0415 not on the other side
    from dcu.grid.injections import Draw, Injections, Inverter, prepare, q_of_u_cei_0_21  # noqa: PLC0415
    from dcu.grid.sweep import element_arrays, plan_arrays  # noqa: PLC0415
    from dcu.grid.tests.golden import day, feeder  # noqa: PLC0415

    p, q, _ = day()
    whole = feeder("eulv")
    found = {}
    inverters = [Inverter(k, 5e3, q_of_u=q_of_u_cei_0_21()) for k in range(20)]
    draws = [Draw(k, 0.2, 0.3, 0.5) for k in range(55)]
    sun = np.full((40, 20), -4e3)
    for name, batch in (
        ("plain", Injections.of(p[540:580], q[540:580])),
        (
            "rules",
            Injections.of(
                np.concatenate([p[540:580], sun], axis=1),
                np.concatenate([q[540:580], 0 * sun], axis=1),
                [*draws, *inverters],
            ),
        ),
    ):
        prepared = prepare(batch, whole.u_nominal_v)
        for key, value in element_arrays(prepared.law).items():
            found[f"{name} element {key}"] = np.asarray(value)
        found[f"{name} p"], found[f"{name} q"] = prepared.p_w, prepared.q_var
        found[f"{name} k"] = np.zeros((0, 0)) if prepared.k_var is None else prepared.k_var
        found[f"{name} u"] = solve(whole, batch, "sweep", tolerance_pu=1e-12)["port_u_v"]
    for key, value in plan_arrays(whole.tree).items():
        found[f"plan {key}"] = np.asarray(value)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **found)


def check(path: Path) -> None:
    """Solve with the module that is installed here; exit 1 if any voltage differs by more than 1e-9 of nominal."""
    import importlib.util  # noqa: PLC0415

    where = next(Path(entry) / "dcu" / "grid" for entry in sys.path if (Path(entry) / "dcu" / "grid").is_dir())
    (file,) = where.glob("_sweep*.so")
    spec = importlib.util.spec_from_file_location("_sweep", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with np.load(path) as content:
        data = {name: content[name] for name in content.files}

    def part(prefix: str) -> dict[str, object]:
        found = {}
        for name, value in data.items():
            if name.startswith(prefix):
                found[name[len(prefix) :]] = value.item() if value.ndim == 0 else value
        return found

    plan = module.Plan(**part("plan "))
    for name in ("plain", "rules"):
        p, k = data[f"{name} p"], data[f"{name} k"]
        states, ports = data[f"{name} u"].shape
        u = np.empty((states, ports, 2))
        error, ratio, steps = np.empty(states), np.empty(states), np.empty(states, dtype=np.int32)
        for single, limit in ((False, 1e-9), (True, 1e-6)):
            module.solve(
                plan,
                module.Elements(**part(f"{name} element ")),
                p,
                data[f"{name} q"],
                k if k.size else None,
                3e-7 if single else 1e-12,
                60,
                1,
                "",
                single,
                error,
                ratio,
                steps,
                u,
                None,
                None,
                None,
            )
            off = np.abs(u.view(np.complex128)[:, :, 0] - data[f"{name} u"]).max() / 230
            kind = "float32" if single else "double"
            print(f"{platform.machine()} {module.available()} {name} {kind}: off by {off:.2g} pu")
            if not off <= limit:
                sys.exit(1)


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2]))
