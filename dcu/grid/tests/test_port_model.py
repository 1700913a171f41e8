"""The compiled model must be the network, exactly; its file must be refused if a bit of it changed; and nothing but
NumPy may be needed to use it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dcu.grid.compiler import compile_network
from dcu.grid.feeder import solve
from dcu.grid.injections import Injections, base_injections, prepare
from dcu.grid.network import Network
from dcu.grid.port_engine import solve_ports
from dcu.grid.port_model import Lines, PortModel, load_model, save_model
from dcu.grid.tests.golden import MADE_UP, feeder, golden
from shared.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "feeder.npz"
    save_model(feeder("switched").model, path)
    return path


def test_the_file_reads_back_and_is_the_same_bytes_each_time(file: Path, tmp_path: Path) -> None:
    model, again = feeder("switched").model, load_model(file)
    assert again.ports == model.ports
    assert again.currents == model.currents
    assert (again.port_labels, again.port_meters, again.port_buses) == (
        model.port_labels,
        model.port_meters,
        model.port_buses,
    )
    assert (again.z_ohm == model.z_ohm).all()
    assert (again.rating_a == model.rating_a).all()
    save_model(again, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()


def _rewritten(path: Path, **changes: object) -> None:
    """Replace arrays, or keys of the header, without mending the digest."""
    with np.load(path) as content:
        arrays = {name: content[name] for name in content.files}
    header = json.loads(arrays["header"].tobytes())
    for name, value in changes.items():
        if name in arrays:
            arrays[name] = np.asarray(value)
        else:
            header[name] = value
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(path, **arrays)


def test_another_version_is_refused(file: Path) -> None:
    _rewritten(file, format="headroom-port-model/2")
    with pytest.raises(ConfigError, match="format: seen 'headroom-port-model/2', expected headroom-port-model/1"):
        load_model(file)


def test_a_changed_number_or_hash_is_refused(file: Path) -> None:
    _rewritten(file, z_ohm=feeder("switched").model.z_ohm * 1.001)
    with pytest.raises(ConfigError, match="content_sha256"):
        load_model(file)
    save_model(feeder("switched").model, file)
    _rewritten(file, network_sha256="0" * 64)
    with pytest.raises(ConfigError, match="content_sha256"):
        load_model(file)


def test_a_pickle_inside_is_never_opened(file: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("unpickled",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("trap.npy", buffer.getvalue())
    with pytest.raises(ConfigError, match="headroom-port-model/1 file"):
        load_model(file)


@pytest.mark.parametrize("cut", [0, 1, 100, 1000, -1])
def test_a_torn_file_is_refused(file: Path, cut: int) -> None:
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ConfigError):
        load_model(file)


def test_every_flipped_byte_is_found_or_harmless(file: Path) -> None:
    """Zip keeps a checksum of each array; what is not covered by it is padding and repeated headers."""
    good = load_model(file)
    whole = file.read_bytes()
    for at in range(0, len(whole), 97):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            model = load_model(file)
        except ConfigError:
            continue
        assert (model.z_ohm == good.z_ohm).all()
        assert model.ports == good.ports


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(ConfigError):
            load_model(path)


def test_a_network_without_customers_is_refused() -> None:
    network = MADE_UP["switched"]()
    empty = Network(
        network.name, network.source, network.buses, network.branches, network.transformers, network.switches
    )
    with pytest.raises(ConfigError, match="0 ports"):
        compile_network(empty)


@pytest.mark.parametrize("name", ["eulv", "switched", "ieee13"])
def test_a_model_by_lines_is_the_same_model(name: str, tmp_path: Path) -> None:
    whole = feeder(name)
    model = compile_network(whole.network, by_lines=True)
    if not isinstance(model.z, Lines):
        assert name == "switched"
        return
    assert np.abs(model.z_ohm - whole.model.z_ohm).max() < 1e-12 * np.abs(whole.model.z_ohm).max()
    save_model(model, tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    base = golden("eulv", "minute566").injections if name == "eulv" else base_injections(model)
    one = solve_ports(again, prepare(base, model.u_nominal_v), 1e-11)
    two = solve_ports(whole.model, prepare(base, model.u_nominal_v), 1e-11)
    assert np.abs(one.u_v - two.u_v).max() < 1e-9 * np.abs(two.u_v).max()


def test_z_is_symmetric_and_passive() -> None:
    for name in MADE_UP:
        z = feeder(name).model.z_ohm
        assert np.abs(z - z.T).max() == 0
        assert np.linalg.eigvalsh(z.real).min() > -1e-12 * np.abs(z).max()


def test_numpy_and_the_file_are_all_the_port_engine_needs(file: Path) -> None:
    """A process in which SciPy, pydantic and the compiled module cannot be imported loads the file, solves, and takes
    sensitivities."""
    code = f"""
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("scipy", "pydantic", "cupy") or name == "dcu.grid._sweep":
            raise ImportError("walled off: " + name)
sys.meta_path.insert(0, Wall())
from pathlib import Path
import numpy
from dcu.grid.feeder import solve
from dcu.grid.injections import Draw, Injections, Inverter, base_injections, prepare, q_of_u_vde_4105
from dcu.grid.port_model import load_model
from dcu.grid.sensitivities import sensitivity
from dcu.grid.helm import helm
model = load_model(Path({str(file)!r}))
base = base_injections(model)
result = solve(model, base, results=("port_u_v", "bus_u_v", "vuf", "current_a", "loss_w"))
assert result.engine == "port" and result.converged.all()
sensitivity(model, prepare(base, model.u_nominal_v), 0, result["port_u_v"][0])
solve(model, Injections.of([[-1e3]], 0.0, [Inverter(0, 5e3, q_of_u=q_of_u_vde_4105())]))
assert helm(model, base).status[0] == 0
foreign = {{name.split(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names) - {{"numpy", "dcu", "shared"}}
print(sorted(name for name in foreign if not name.startswith("_")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not {"scipy", "pydantic", "pandas", "dss"} & set(json.loads(done.stdout.replace("'", '"')))


def test_a_model_without_observables_says_what_is_missing() -> None:
    model: PortModel = compile_network(feeder("switched").network, observe=False)
    assert not model.nodes
    with pytest.raises(ConfigError, match="--observe all"):
        solve(model, base_injections(model), results=("bus_u_v",))
    result = solve(model, base_injections(model), results=("loss_w", "source_s_va"))
    full = solve(feeder("switched").model, base_injections(model), results=("loss_w",))
    assert result["loss_w"][0] == pytest.approx(full["loss_w"][0], rel=1e-9)
    assert Injections.of([[0.0] * 3]).p_w.shape == (1, 3)


def _tree_in(path: Path) -> PortModel:
    save_model(feeder("eulv").model, path)
    return load_model(path)


def test_the_tree_is_the_same_feeder_before_and_after_the_file(tmp_path: Path) -> None:
    model = _tree_in(tmp_path / "eulv.npz")
    assert model.tree is not None
    i_a = np.random.default_rng(1).normal(size=2 * len(model.ports)).view(complex)
    assert model.tree.lift_v(i_a) == pytest.approx(model.z_ohm @ i_a, rel=1e-9)
    twice = model.tree.raised(2.0)
    assert (twice.u_open_v == 2 * model.u_open_v).all()


def _signed(path: Path, model: PortModel, **changes: object) -> None:
    """Save a model with other arrays of its tree, digest and all."""
    assert model.tree is not None
    save_model(replace(model, tree=replace(model.tree, memo={}, **changes)), path)  # type: ignore[arg-type]


@pytest.mark.parametrize("column", [0, 1, 2, 5, 6])
@pytest.mark.parametrize("value", [-2, 17, 1 << 30])
def test_a_tree_that_leads_nowhere_is_refused(column: int, value: int, tmp_path: Path) -> None:
    """Its indices are followed by compiled code."""
    path = tmp_path / "eulv.npz"
    model = _tree_in(path)
    assert model.tree is not None
    nodes = model.tree.nodes.copy()
    nodes[1 + int((nodes[1:, 6] > 0).argmax()), column] = value
    _signed(path, model, nodes=nodes)
    with pytest.raises(ConfigError, match="tree"):
        load_model(path)


@pytest.mark.parametrize("name", ["port_pos", "port_neg"])
@pytest.mark.parametrize("value", [-3, 1 << 20])
def test_a_port_of_the_tree_that_is_nowhere_is_refused(name: str, value: int, tmp_path: Path) -> None:
    path = tmp_path / "eulv.npz"
    model = _tree_in(path)
    ports = getattr(model.tree, name).copy()
    ports[5] = value
    _signed(path, model, **{name: ports})
    with pytest.raises(ConfigError, match="tree"):
        load_model(path)


def test_a_tree_of_another_feeder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "eulv.npz"
    model = _tree_in(path)
    assert model.tree is not None
    _signed(path, model, coefficients=1.001 * model.tree.coefficients)
    with pytest.raises(ConfigError, match="other voltages than by z_ohm"):
        load_model(path)
