"""A study with everything it names, read and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from dcu.grid.network import Network
from dcu.grid.network_file import load_network
from dcu.planning import adapters
from dcu.planning.history import DAYS_ENOUGH, history
from dcu.planning.locate import rebalanced
from dcu.planning.meter_data import MeterTable, read_meter_data
from dcu.planning.profiles import profiles
from dcu.planning.reference import Reference, reference
from dcu.planning.settings import ProbabilisticStudy
from dcu.planning.study.outcome import file_sha256
from dcu.planning.unmeasured import settled
from dcu.planning.world import Inputs, Plan, World, build
from shared.errors import ConfigError, Fault

REBALANCED: Final = " re-balanced"


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A study with its inputs; `files` as the study names them, and where they are."""

    study: ProbabilisticStudy
    folder: Path
    inputs: Inputs
    world: World
    files: dict[str, Path]
    notes: tuple[str, ...]


def read_study(study: ProbabilisticStudy, folder: Path, now_s: float | None = None) -> Read:
    """Everything a study names, read and checked.

    Args:
        study: as it was loaded.
        folder: where its files are named from.
        now_s: as in `read_meter_data`; None reads the same at any time.

    Raises:
        ConfigError: a file that is refused, or a study that does not fit its feeder.
    """
    study = _with_files(study, folder)
    files = {name: folder / name for name in _names(study)}
    _check_hashes(study, files)
    network = load_network(folder / study.network.file)
    existing = study.existing_units({p.id: p.bus for p in network.connection_points})
    _check_zone(study.meter_data.timezone)
    table = _by_point(adapters.read(study.meter_data, folder, now_s), network)
    units, recordings = _reference(study, folder, table, now_s)
    table, told = settled(table, existing, units, recordings)
    past = history(table, study.meter_data.timezone)
    known = profiles(past, study.sampling.pool, units, table.source)
    plans = [Plan(s.name, study.units(s), study.control(s)) for s in study.scenarios]
    pool = study.sampling.pool
    inputs = Inputs(
        network, past, known, units, existing, tuple(plans), study.criteria, study.draw_model, study.seed, pool
    )
    world = build(inputs)
    if study.extras.rebalance:
        own = next(p for p in plans if p.name == study.extras.rebalance)
        more = Plan(own.name + REBALANCED, rebalanced(world, own.name), own.control)
        inputs = replace(inputs, plans=(*plans, more))
        world = build(inputs)
    notes = (
        *table.notes,
        *(recordings.notes if units.elsewhere else ()),
        *told,
        *_of_days(past.days, units),
        *_sequential_note(study),
    )
    return Read(study, folder, inputs, world, files, tuple(notes))


def _names(study: ProbabilisticStudy) -> Iterator[str]:
    """Files of a study, the network first."""
    yield study.network.file
    yield from study.meter_data.files
    if study.meter_data.mapping:
        yield study.meter_data.mapping
    yield from study.reference.files or ()


def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        fault = Fault("meter_data.timezone", repr(name), "a time zone as Europe/Brussels")
        raise ConfigError("study", [fault]) from error


def _reference(
    study: ProbabilisticStudy, folder: Path, table: MeterTable, now_s: float | None
) -> tuple[Reference, MeterTable]:
    """What new units give, and the table that says so: the study's own, or that of units elsewhere."""
    own, zone = study.reference, study.meter_data.timezone
    recordings = table if own.files is None else read_meter_data([folder / name for name in own.files], now_s)
    if recordings.interval_s != table.interval_s:
        seen = f"intervals of {recordings.interval_s} s"
        raise ConfigError(recordings.source, [Fault("reference", seen, f"{table.interval_s} s as the meter data")])
    elsewhere = own.files is not None
    return reference(recordings, own.customer, study.reference_rated_w, zone, elsewhere=elsewhere), recordings


def _with_files(study: ProbabilisticStudy, folder: Path) -> ProbabilisticStudy:
    """Patterns such as `export/meter-data-*.parquet` replaced by the files they stand for.

    Raises:
        ConfigError: a pattern that no file fits.
    """
    data = study.meter_data.model_copy(update={"files": _found(study.meter_data.files, folder, "meter_data")})
    own = study.reference
    if own.files is not None:
        own = own.model_copy(update={"files": _found(own.files, folder, "reference")})
    return study.model_copy(update={"meter_data": data, "reference": own})


def _found(names: list[str], folder: Path, section: str) -> list[str]:
    found: list[str] = []
    for k, name in enumerate(names):
        some = [name] if "*" not in name else _fitting(name, folder)
        if not some:
            raise ConfigError("study", [Fault(f"{section}.files[{k}]", repr(name), "files that fit the pattern")])
        found += some
    return found


def _fitting(pattern: str, folder: Path) -> list[str]:
    whole = Path(pattern)
    if whole.is_absolute():
        return sorted(str(p) for p in Path(whole.anchor).glob(str(whole.relative_to(whole.anchor))))
    return sorted(str(p.relative_to(folder)) for p in folder.glob(pattern))


def _by_point(table: MeterTable, network: Network) -> MeterTable:
    """Customers that the data call by their meter, called as the network calls their connection point.

    Raises:
        ConfigError: one connection point under two names, whose energy would count twice.
    """
    points = {p.id for p in network.connection_points}
    of_meter = {p.meter: p.id for p in network.connection_points if p.meter}
    called = tuple(c if c in points else of_meter.get(c, c) for c in table.customers)
    names: dict[str, list[str]] = {}
    for name, point in zip(table.customers, called, strict=True):
        names.setdefault(point, []).append(name)
    faults = [
        Fault(f"customer {point}", f"recordings as {' and as '.join(own)}", "one name for each connection point")
        for point, own in names.items()
        if len(own) > 1
    ]
    if faults:
        raise ConfigError(table.source, faults)
    return replace(table, customers=called)


def _check_hashes(study: ProbabilisticStudy, files: dict[str, Path]) -> None:
    recorded = {i.file: i.sha256 for i in study.provenance.inputs}
    faults = []
    for name, path in files.items() if recorded else ():
        if name in recorded and (seen := file_sha256(path)) != recorded[name]:
            faults.append(Fault(f"provenance {name}", f"sha256 {seen[:16]}...", f"{recorded[name][:16]}..., as it was"))
    if faults:
        raise ConfigError("study", faults)


def _sequential_note(study: ProbabilisticStudy) -> tuple[str, ...]:
    if study.sampling.stop == "fixed" or study.growth.until == "all":
        return ()
    text = (
        f"levels end when the verdict by {study.growth.until} is certain: what other criteria say comes from the same, "
        "sometimes few, states, and a largest current of few states is too small"
    )
    return (text,)


def _of_days(days: int, units: Reference) -> Iterator[str]:
    if days < DAYS_ENOUGH:
        yield f"only {days} days of meter data: seasons are missing, capacities may be far off"
    if units.elsewhere:
        count = len(units.units.pv_customers)
        yield (
            f"new units give what {units.customer} and {count - 1} other units elsewhere gave"
            if count > 1
            else f"new units give what {units.customer}, a unit elsewhere, gave"
        ) + f" on {units.units.days} days: {units.yield_wh():,.0f} kWh a year for each kVA"
        if units.units.days < DAYS_ENOUGH:
            yield f"only {units.units.days} days of the reference unit: its yield is that of their season"
