"""A day on a feeder: what every customer draws and what every plant could generate, minute by minute.

Loads of the European low-voltage feeder are its own published shapes. On any other feeder the base-case draw of a
customer is taken as its part in the feeder's peak: it is multiplied by one of those 55 shapes, drawn from the seed and
divided by the highest mean of all shapes, so that the customers together reach the base case about once a day.

The sun: clear sky after B. Haurwitz, "Insolation in relation to cloudiness and cloud density", Journal of Meteorology 2
(1945) 154-166, in the form of Reno, Hansen, Stein, SAND2012-2389, eq. 17:

    GHI = 1098 cos z exp(-0.057 / cos z)  [W/m2]

for a horizontal plane at 50 degrees north on the longest day, in solar time, divided by 1000 W/m2. Broken and overcast
skies multiply that by a factor drawn from the seed. Plants work at unity power factor, all under the same cloud.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

import dcu.grid.tests
from dcu.grid.importers.case import import_case
from dcu.grid.network import Network
from dcu.grid.network_file import load_network
from shared.errors import ConfigError, Fault

Reals = NDArray[np.float64]

EULV: Final = "eulv"
"""Name under which the European feeder is known without a file."""
CASE: Final = Path(dcu.grid.tests.__file__).parent / "cases" / EULV

MINUTES: Final = 1440
SKIES: Final = ("clear", "broken", "overcast")

LATITUDE_DEG: Final = 50.0
DECLINATION_DEG: Final = 23.45
PEAK_W: Final = (3_000.0, 10_000.0)
"""[W] Sizes of plants: uniform between these, in whole hundreds; the range of single-phase rooftop inverters."""

CLOUD_S: Final = 240.0
GAP_S: Final = 300.0
"""[s] Mean length of a cloud's shadow and of the gap after it (both exponential)."""
CLOUD_FACTOR: Final = (0.25, 0.6)
"""Share of the clear sky that a cloud leaves (uniform, one number a cloud)."""
GAP_FACTOR: Final = (1.0, 1.1)
"""The same in a gap; the edges of clouds reflect."""
RAMP_S: Final = 60
"""[s] A shadow's edge takes this long to cross the street."""
OVERCAST_FACTOR: Final = (0.12, 0.35)
SHARE_MAX: Final = 1.5
"""Highest share of its peak that a plant is believed to generate."""


@dataclass(frozen=True, slots=True)
class Plant:
    """A single-phase photovoltaic plant: its customer's name, the port it feeds, all ports of that customer, its rating
    [W]."""

    customer: str
    port: int
    ports: tuple[int, ...]
    peak_w: float


@dataclass(frozen=True, slots=True, eq=False)
class Day:
    """Draws at every port and potential of every plant, held for a minute each.

    `minute` (t) of the day; `p_w`, `q_var` (t, n_port) import positive, without plants; `pv_w` (t, n_plant) what each
    plant could generate; `pv_share` (t) of its peak.
    """

    minute: NDArray[np.int64]
    p_w: Reals
    q_var: Reals
    plants: tuple[Plant, ...]
    pv_w: Reals
    pv_share: Reals
    what: str

    @property
    def spread(self) -> Reals:
        """Which port each plant feeds (n_plant, n_port)."""
        found = np.zeros((len(self.plants), self.p_w.shape[1]))
        for k, plant in enumerate(self.plants):
            found[k, plant.port] = 1.0
        return found

    def own_w(self) -> Reals:
        """What the customers with a plant draw themselves [W] (t, n_plant)."""
        return np.stack([self.p_w[:, list(plant.ports)].sum(axis=1) for plant in self.plants], axis=1)

    def generated_w(self, limit_w: float) -> Reals:
        """What plants generate when no customer exports more than a limit [W] (t, n_plant)."""
        return np.minimum(self.pv_w, np.maximum(0.0, self.own_w()) + limit_w)

    def draws_w(self, generated_w: Reals) -> Reals:
        """Net draws at all ports (t, n_port)."""
        return np.asarray(self.p_w - generated_w @ self.spread)


# ---- feeders ---------------------------------------------------------------------------------------------------------


def open_feeder(name: str) -> Network:
    """A network file, or the European feeder by its name; every customer gets the meter it needs here.

    Raises:
        ConfigError: no such file, or a customer whose meter could not measure it (between two phases).
    """
    path = Path(name)
    network = import_case(CASE / "feeder.json").network if name == EULV and not path.exists() else load_network(path)
    faults = [
        Fault(f"customer {port.name}", f"a connection {port.connection.label}", "phase to neutral or earth")
        for port in network.ports()
        if len(port.connection.label) != 2
    ]
    if not network.connection_points:
        faults.append(Fault("connection_points", "none", "at least one customer"))
    if faults:
        raise ConfigError(name, faults[:10])
    points = tuple(replace(point, meter=point.meter or point.id) for point in network.connection_points)
    return replace(network, connection_points=points, memo={})


def at_no_load_pu(network: Network, u_open_v: Reals, u_nominal_v: Reals, share: float) -> Network:
    """The network with its source set so that the highest voltage without any load is a share of nominal."""
    factor = share / float((u_open_v / u_nominal_v).max())
    source = replace(network.source, u_v=tuple(factor * u for u in network.source.u_v))
    return replace(network, source=source, memo={})


# ---- profiles --------------------------------------------------------------------------------------------------------


def make_day(network: Network, sky: str, pv_share: float, seed: int, hours: tuple[int, int] = (0, MINUTES)) -> Day:
    """Profiles of the minutes `hours[0] .. hours[1] - 1`.

    Args:
        network: the feeder.
        sky: `clear`, `broken`, `overcast`, or a CSV file `minute,pv_share`.
        pv_share: share of customers with a plant, 0 to 1.
        seed: of everything drawn; loads, plants and clouds have streams of their own.
        hours: first minute, and the one after the last.

    Raises:
        ConfigError: shares, hours or a file that cannot be.
    """
    faults = []
    if not 0 < pv_share <= 1:
        faults.append(Fault("--pv-share", f"{pv_share:g}", "above 0 and at most 1"))
    if not 0 <= hours[0] < hours[1] <= MINUTES:
        faults.append(Fault("--from .. --to", f"minutes {hours[0]} .. {hours[1]}", "a stretch of one day"))
    if faults:
        raise ConfigError("evaluate", faults)
    sun = clear_sky() * _clouds(sky, seed) if sky in SKIES else read_shares(Path(sky))
    p, q = _loads(network, seed)
    plants = _plants(network, pv_share, seed)
    at = slice(*hours)
    peaks = np.array([plant.peak_w for plant in plants])
    pv = np.minimum(sun[at, None], 1.0) * peaks
    return Day(np.arange(MINUTES)[at], p[at], q[at], plants, pv, sun[at], sky)


def clear_sky() -> Reals:
    """Irradiance over 1000 W/m2 in each minute of the day (1440), at the minute's middle."""
    hour_angle = np.radians((np.arange(MINUTES) + 0.5 - MINUTES / 2) / 4)
    latitude, declination = math.radians(LATITUDE_DEG), math.radians(DECLINATION_DEG)
    cos_z = math.sin(latitude) * math.sin(declination) + math.cos(latitude) * math.cos(declination) * np.cos(hour_angle)
    up = np.maximum(cos_z, 1e-3)
    return np.asarray(np.where(cos_z > 0, 1.098 * up * np.exp(-0.057 / up), 0.0))


def _clouds(sky: str, seed: int) -> Reals:
    """Factor on the clear sky in each minute (1440)."""
    random = np.random.default_rng([seed, 3])
    if sky == "clear":
        return np.ones(MINUTES)
    if sky == "overcast":  # a slow wander between two bounds
        wander = np.cumsum(random.normal(0, 0.08, MINUTES))
        low, high = OVERCAST_FACTOR
        return np.asarray(low + (high - low) * (0.5 + 0.5 * np.sin(wander)))
    seconds = np.empty(60 * MINUTES)
    at, shaded = 0, False
    while at < len(seconds):
        length = max(1, round(random.exponential(CLOUD_S if shaded else GAP_S)))
        seconds[at : at + length] = random.uniform(*(CLOUD_FACTOR if shaded else GAP_FACTOR))
        at, shaded = at + length, not shaded
    edges = np.convolve(seconds, np.full(RAMP_S, 1 / RAMP_S), mode="same")
    edges[:RAMP_S], edges[-RAMP_S:] = seconds[:RAMP_S], seconds[-RAMP_S:]
    return np.asarray(edges.reshape(MINUTES, 60).mean(axis=1))


def read_shares(path: Path) -> Reals:
    """A CSV `minute,pv_share` as the share of its peak that a plant can generate, in each minute (1440).

    Rows stand in order of time; between them the share is interpolated, before the first and after the last it is 0.

    Raises:
        ConfigError: with file, row and reason.
    """
    file = str(path)
    minutes: list[float] = []
    shares: list[float] = []
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines)
            if rows.fieldnames is None or not {"minute", "pv_share"} <= set(rows.fieldnames):
                seen = ",".join(rows.fieldnames or ()) or "nothing"
                raise ConfigError(file, [Fault("row 1", seen[:60], "the heading minute,pv_share")])
            for row in rows:
                fault = _row_fault(row, minutes[-1] if minutes else -1.0)
                if fault is not None:
                    raise ConfigError(file, [replace(fault, where=f"row {rows.line_num}, {fault.where}")])
                minutes.append(float(row["minute"]))
                shares.append(float(row["pv_share"]))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(file, [Fault("file", str(error)[:60], "a CSV file in UTF-8")]) from error
    except OSError as error:
        expected = f"{', '.join(SKIES)} or a readable CSV file"
        raise ConfigError(file, [Fault("--day", error.strerror or str(error), expected)]) from error
    if not minutes:
        raise ConfigError(file, [Fault("row 2", "nothing", "at least one row of minute,pv_share")])
    return np.asarray(np.interp(np.arange(MINUTES) + 0.0, minutes, shares, left=0.0, right=0.0))


def _row_fault(row: dict[str, str], before: float) -> Fault | None:
    try:
        minute, share = float(row["minute"]), float(row["pv_share"])
    except (TypeError, ValueError):
        return Fault("minute,pv_share", f"{row['minute']},{row['pv_share']}"[:60], "two numbers")
    if not before < minute <= MINUTES:
        return Fault("minute", f"{minute:g}", f"above {before:g} and at most {MINUTES}")
    if not 0 <= share <= SHARE_MAX:
        return Fault("pv_share", f"{share:g}", f"0 to {SHARE_MAX:g}")
    return None


def _loads(network: Network, seed: int) -> tuple[Reals, Reals]:
    """Draws of a whole day at every port (1440, n_port) [W, var]."""
    with np.load(CASE / "day.npz") as file:
        p, q = file["p_w"], file["q_var"]
    ports = network.ports()
    if network.name == EULV and [port.name for port in ports] == [f"load{k + 1}" for k in range(p.shape[1])]:
        return np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    random = np.random.default_rng([seed, 1])
    shapes = p / p.mean(axis=1).max()
    drawn = random.integers(0, p.shape[1], len(network.connection_points))
    column = np.repeat(drawn, [len(point.connections) for point in network.connection_points])
    base_p = np.array([max(0.0, port.connection.p_w) for port in ports])
    base_q = np.array([port.connection.q_var if port.connection.p_w > 0 else 0.0 for port in ports])
    return shapes[:, column] * base_p, shapes[:, column] * base_q


def _plants(network: Network, pv_share: float, seed: int) -> tuple[Plant, ...]:
    """Plants at a share of the customers, at least one, in the order of the customers."""
    random = np.random.default_rng([seed, 2])
    points = network.connection_points
    count = max(1, round(pv_share * len(points)))
    chosen = sorted(random.permutation(len(points))[:count])
    peaks = np.round(random.uniform(*PEAK_W, len(points)), -2)  # one for everybody, so that a larger share only adds
    phase = random.integers(0, 3, len(points))
    ports = customer_ports(network)
    found = []
    for k in chosen:
        own = ports[points[k].id]
        found.append(Plant(points[k].id, own[phase[k] % len(own)], own, float(peaks[k])))
    return tuple(found)


def customer_ports(network: Network) -> dict[str, tuple[int, ...]]:
    """The ports of each customer, in the order of the customers."""
    found: dict[str, tuple[int, ...]] = {}
    at = 0
    for point in network.connection_points:
        found[point.id] = tuple(range(at, at + len(point.connections)))
        at += len(point.connections)
    return found
