"""Configuration of a DCU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dcu.hosting.airtime import Airtime as LineAirtime
from dcu.hosting.measurements import BLOCKED_PCT
from dcu.hosting.site_settings import SiteSettings
from dcu.keys import KeyRing, load_ring
from dcu.meters import MeterEntry
from dcu.store.derive import Deriving
from dcu.store.recorder import Settings as StoreSettings
from dcu.store.retention import Keeping
from dcu.utility.broker import TlsFiles, parse_broker
from dcu.utility.commands import parse_public
from prime_plc.config import Plc
from shared.config import Section, parsed_by
from shared.em330 import Em330Settings
from shared.errors import ConfigError, Fault
from shared.ids import BusId, MeterId, Phase, format_eui48, parse_eui48
from shared.messages import LEASE_S_MAX
from shared.modbus import ModbusAddress

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")]
BusName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,64}$")]
"""As the network model calls it."""
MeterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,16}$")]
Eui48Text = Annotated[str, parsed_by(parse_eui48)]
ModbusUrl = Annotated[str, parsed_by(ModbusAddress.parse)]
SocketPath = Annotated[str, Field(min_length=1, max_length=100)]
PhaseName = Literal["L1", "L2", "L3"]
Watts = Annotated[float, Field(ge=0.0, le=1e7)]
Seconds = Annotated[float, Field(gt=0.0, le=3600.0)]


def _l1() -> list[PhaseName]:
    return ["L1"]


def _three() -> list[PhaseName]:
    return ["L1", "L2", "L3"]


class Dcu(Section):
    """Who this DCU is and where it keeps its ledger."""

    id: Word
    eui48: Eui48Text
    state_directory: Annotated[str, Field(min_length=1)]
    log_origin: Annotated[str, Field(pattern=r"^[^\s+]+$", max_length=200)] | None = None


class Site(Section):
    """The rules of this site."""

    nominal_voltage_v: Annotated[float, Field(gt=0.0, le=1000.0)] = 230.0
    band_pct: Annotated[float, Field(gt=0.0, le=10.0)] = 5.0
    persistence_s: Annotated[float, Field(ge=0.0, le=600.0)] = 10.0
    lease_s: Annotated[float, Field(gt=0.0, le=LEASE_S_MAX)] = LEASE_S_MAX
    renew_interval_s: Seconds = 15.0
    decision_window_s: Annotated[float, Field(gt=0.0, le=60.0)] = 1.0
    reading_age_s_max: Annotated[float, Field(gt=0.0, le=900.0)] = 40.0
    reservations_max: Annotated[int, Field(gt=0, le=10_000)] = 200

    @model_validator(mode="after")
    def _renewable(self) -> Site:
        if self.renew_interval_s >= self.lease_s:
            raise ValueError(f"renew_interval_s below lease_s {self.lease_s:g} (seen {self.renew_interval_s:g})")
        return self


class Airtime(Section):
    """What reports and renewals cost on the power line, and how much of it they may fill."""

    report_interval_s: Seconds = 15.0
    report_s: Annotated[float, Field(gt=0.0, le=10.0)] = 0.06
    renewal_s: Annotated[float, Field(gt=0.0, le=10.0)] = 0.12
    share_max: Annotated[float, Field(gt=0.0, le=1.0)] = 0.6


class Decision(Section):
    """How grants are decided.

    ``rule``: `present` looks at present voltages alone; `predicted` asks the network model, `learned` what the meters'
    history taught, `mixed` both, and believes the worse. Unset it is `predicted` with a `[model]` and `present`
    without. ``guard_pct`` is how far raising stays inside the band. ``asynchrony`` is the share of a change of voltage
    that readings at different instants may hide from the rule `learned`. ``balance_pct`` of what flows and
    ``balance_w`` [W] may lie between the balancing meter and the customers' in a phase: more where something steady has
    no meter, as street lights. ``report_change_w`` is the largest that any meter is configured with; unset, changes of
    draw between two reports are taken to be untold.
    """

    rule: Literal["present", "predicted", "mixed", "learned"] | None = None
    policy: Literal["equal", "proportional", "first_come", "max_total"] = "equal"
    guard_pct: Annotated[float, Field(ge=0.0, le=5.0)] = 0.01
    voltage_class_pct: Annotated[float, Field(ge=0.0, le=5.0)] = 0.5
    power_class_pct: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    balance_pct: Annotated[float, Field(ge=0.0, le=100.0)] = 4.0
    balance_w: Annotated[float, Field(ge=0.0, le=1e6)] = 500.0
    asynchrony: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    report_change_w: Annotated[float, Field(gt=0.0, le=1e6)] | None = None


class Model(Section):
    """The compiled feeder that decisions are made with.

    ``file`` lies beside the configuration unless its path is absolute. ``network_sha256`` pins the network it came
    from; a file of another network grants nothing, nor does any file without it. ``loading_max`` is the share of every
    rating that may be used.
    """

    file: Annotated[str, Field(min_length=1)]
    network_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    loading_max: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    vuf_max_pct: Annotated[float, Field(gt=0.0, le=10.0)] | None = None
    model_error_pct: Annotated[float, Field(ge=0.0, le=50.0)] = 5.0


class Balancing(Section):
    """The EM330 at the transformer; ``bus`` is where the model has it."""

    url: ModbusUrl
    bus: BusName | None = None
    phases: Annotated[list[PhaseName], Field(min_length=1)] = Field(default_factory=_three)
    ct_ratio: Annotated[float, Field(gt=0.0)] = 1.0
    vt_ratio: Annotated[float, Field(gt=0.0)] = 1.0
    poll_s: Annotated[float, Field(ge=0.5, le=60.0)] = 1.0


class Meter(Section):
    """One customer: which meter on which bus and phases, and its limits.

    ``balanced`` declares that all that exports there does so evenly on its phases; else all of a limit may be used on
    any one of them.
    """

    id: MeterName
    eui48: Eui48Text
    bus: BusName
    phases: Annotated[list[PhaseName], Field(min_length=1, max_length=3)] = Field(default_factory=_l1)
    nominal_limit_w: Watts
    contract_limit_w: Watts
    balanced: bool = False

    @model_validator(mode="after")
    def _limits_in_order(self) -> Meter:
        if self.contract_limit_w < self.nominal_limit_w:
            raise ValueError(
                f"contract_limit_w at least nominal_limit_w {self.nominal_limit_w:g} (seen {self.contract_limit_w:g})"
            )
        if len(set(self.phases)) != len(self.phases):
            raise ValueError(f"each phase once (seen {', '.join(self.phases)})")
        return self


class Protection(Section):
    """The street's keys: the file that `headroom-keys make` has written. There is no operation without."""

    key_file: Annotated[str, Field(min_length=1)]


class Status(Section):
    """Where `headroom-dcu status` asks, and where the operator's page does (unset: there is no page); ``page_group``
    may then read there too."""

    socket: SocketPath
    page_socket: SocketPath | None = None
    page_group: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None


class Utility(Section):
    """The link to the utility; without this section there is none.

    Files lie beside the configuration unless their paths are absolute. ``command_keys`` are the Ed25519 public keys
    (base64) whose holders may command this DCU; with none it takes no commands. ``model_directory`` is where a command
    may load a model from, by the SHA-256 that is the file's name (``<sha256>.npz``). A command may set a band up to
    ``band_max_pct``; unset, that is the configured one.
    """

    url: Annotated[str, parsed_by(parse_broker)]
    ca_file: Annotated[str, Field(min_length=1)] | None = None
    certificate_file: Annotated[str, Field(min_length=1)] | None = None
    key_file: Annotated[str, Field(min_length=1)] | None = None
    command_keys: Annotated[list[Annotated[str, parsed_by(parse_public)]], Field(max_length=4)] = Field(
        default_factory=list
    )
    report_interval_s: Annotated[float, Field(ge=1.0, le=3600.0)] = 60.0
    model_directory: Annotated[str, Field(min_length=1)] | None = None
    band_max_pct: Annotated[float, Field(gt=0.0, le=10.0)] | None = None

    @model_validator(mode="after")
    def _trusted(self) -> Utility:
        files = [self.ca_file, self.certificate_file, self.key_file]
        given = sum(file is not None for file in files)
        if given != (3 if parse_broker(self.url).tls else 0):
            raise ValueError(f"ca_file, certificate_file and key_file for mqtts, none for mqtt (seen {given} of them)")
        return self

    def beside(self, directory: Path) -> Utility:
        """The same with files found from a directory."""
        names = ("ca_file", "certificate_file", "key_file", "model_directory")
        files = {name: getattr(self, name) for name in names}
        return self.model_copy(update={n: str(directory / file) for n, file in files.items() if file is not None})

    def band_pct_max(self, config: DcuConfig) -> float:
        """The widest band a command may set [% of nominal]."""
        return config.site.band_pct if self.band_max_pct is None else self.band_max_pct

    def model_file(self, sha256: str) -> Path:
        """Where a model with this hash would lie."""
        return Path(self.model_directory or ".") / f"{sha256}.npz"

    @property
    def tls_files(self) -> TlsFiles | None:
        """Whom to trust and who we are; None on a bench's own loopback."""
        if self.ca_file is None or self.certificate_file is None or self.key_file is None:
            return None
        return TlsFiles(Path(self.ca_file), Path(self.certificate_file), Path(self.key_file))


class Store(Section):
    """Events, telemetry and what is made of it, beside the ledger.

    ``telemetry_mib`` is what readings and intervals may take before the oldest readings go early; the whole store
    stays below 1 GiB. ``free_mib_min`` is the room that is left to the ledger; with four times as much there is an
    alarm. ``reading_holds_s`` is how long a
    reading stands for in a mean, twice the report interval if unset. ``energy_step_wh`` is how finely the meters'
    registers move. ``export_ids`` says whether studies get the meters' names or salted hashes of them.
    """

    batch_s: Annotated[float, Field(ge=1.0, le=60.0)] = 10.0
    substation_s: Annotated[float, Field(ge=1.0, le=600.0)] = 10.0
    events_days: Annotated[float, Field(ge=7.0, le=3650.0)] = 400.0
    readings_days: Annotated[float, Field(ge=1.0, le=90.0)] = 14.0
    intervals_days: Annotated[float, Field(ge=30.0, le=3650.0)] = 400.0
    telemetry_mib: Annotated[int, Field(ge=16, le=512)] = 512
    free_mib_min: Annotated[int, Field(ge=16, le=65536)] = 256
    reading_holds_s: Annotated[float, Field(ge=2.0, le=900.0)] | None = None
    energy_step_wh: Annotated[float, Field(gt=0.0, le=1000.0)] = 100.0
    export_ids: Literal["salted", "plain"] = "salted"


class DcuConfig(Section):
    """The whole file."""

    dcu: Dcu
    site: Site = Field(default_factory=Site)
    airtime: Airtime = Field(default_factory=Airtime)
    decision: Decision = Field(default_factory=Decision)
    model: Model | None = None
    balancing: Balancing
    plc: Plc
    protection: Protection
    status: Status
    utility: Utility | None = None
    store: Store = Field(default_factory=Store)
    meters: Annotated[list[Meter], Field(min_length=1, max_length=2000)]

    @model_validator(mode="after")
    def _model_where_needed(self) -> DcuConfig:
        if self.rule in {"predicted", "mixed"} and self.model is None:
            raise ValueError(f"a [model] section for decision.rule {self.rule} (seen none)")
        return self

    @model_validator(mode="after")
    def _high_is_blocked(self) -> DcuConfig:
        """Long high voltages block increases (invariant I15): `predicted` and `mixed` look at means, others have
        nothing but their band."""
        ordered = None if self.utility is None else self.utility.band_max_pct
        widest = max(self.site.band_pct, ordered or 0.0)
        if self.rule in {"present", "learned"} and widest > BLOCKED_PCT:
            most = int(100 * BLOCKED_PCT) / 100
            raise ValueError(f"a band of at most {most:g} % for decision.rule {self.rule} (seen {widest:g})")
        return self

    @property
    def rule(self) -> str:
        """Which rule decides."""
        return self.decision.rule or ("present" if self.model is None else "predicted")

    @model_validator(mode="after")
    def _each_once(self) -> DcuConfig:
        keys: dict[str, list[str]] = {
            "id": [meter.id for meter in self.meters],
            "eui48": [parse_eui48(meter.eui48).hex() for meter in self.meters] + [parse_eui48(self.dcu.eui48).hex()],
        }
        for key, values in keys.items():
            doubled = sorted({value for value in values if values.count(value) > 1})
            if doubled:
                raise ValueError(f"each {key} once in meters (seen {', '.join(doubled)} twice)")
        return self

    # ---- what the parts want -----------------------------------------------------------------------------------------

    def beside(self, directory: Path) -> DcuConfig:
        """The same with the files it names found from the directory of the configuration."""
        found: dict[str, object] = {}
        if self.model is not None:
            found["model"] = self.model.model_copy(update={"file": str(directory / self.model.file)})
        if self.utility is not None:
            found["utility"] = self.utility.beside(directory)
        return self.model_copy(update=found)

    @property
    def state_directory(self) -> Path:
        """Where the ledger lives."""
        return Path(self.dcu.state_directory)

    @property
    def store_directory(self) -> Path:
        """Where events and telemetry live."""
        return self.state_directory / "store"

    @property
    def store_settings(self) -> StoreSettings:
        """How they are kept."""
        asked = self.store
        hold_s = asked.reading_holds_s or 2 * self.airtime.report_interval_s
        kept = (asked.events_days, asked.readings_days, asked.intervals_days, asked.telemetry_mib << 20)
        return StoreSettings(
            Deriving(hold_s, asked.energy_step_wh, self.site.nominal_voltage_v),
            Keeping(*kept),
            asked.batch_s,
            asked.substation_s,
            asked.free_mib_min << 20,
        )

    @property
    def entries(self) -> tuple[MeterEntry, ...]:
        """The meters for the table."""
        return tuple(
            MeterEntry(
                MeterId(meter.id),
                parse_eui48(meter.eui48),
                BusId(meter.bus),
                tuple(Phase[name] for name in meter.phases),
                meter.nominal_limit_w,
                meter.contract_limit_w,
                meter.balanced,
            )
            for meter in self.meters
        )

    def load_keys(self) -> KeyRing:
        """The street's keys.

        Raises:
            ConfigError: no file of keys, open to others, damaged, of another DCU, or without one of our meters.
        """
        file = self.protection.key_file
        ring = load_ring(Path(file))
        faults = []
        if ring.eui48 != parse_eui48(self.dcu.eui48):
            faults.append(Fault("eui48", format_eui48(ring.eui48), f"the DCU's own {self.dcu.eui48}"))
        for entry in self.entries:
            enrolled = ring.meters.get(entry.id)
            if enrolled is None:
                expected = f"keys for {format_eui48(entry.eui48)}; make them with headroom-keys make"
                faults.append(Fault(f"meters.{entry.id}", "nothing", expected))
            elif enrolled.eui48 != entry.eui48:
                seen = format_eui48(enrolled.eui48)
                faults.append(Fault(f"meters.{entry.id}", seen, f"{format_eui48(entry.eui48)}, as configured"))
        if faults:
            raise ConfigError(file, faults)
        return ring

    @property
    def site_settings(self) -> SiteSettings:
        """The rules for the engine."""
        return SiteSettings(**self.site.model_dump(), airtime=LineAirtime(**self.airtime.model_dump()))

    @property
    def em330_settings(self) -> Em330Settings:
        """The balancing meter."""
        phases = tuple(Phase[name] for name in self.balancing.phases)
        return Em330Settings(self.site.nominal_voltage_v, phases, self.balancing.ct_ratio, self.balancing.vt_ratio)
