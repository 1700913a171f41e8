"""The data of the API: what each field means, and its unit. OpenAPI is made from here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["live", "stale", "down"]


class Answer(BaseModel):
    """Fields are complete: nothing else is answered."""

    model_config = ConfigDict(extra="forbid")


class Decision(Answer):
    """One decision, or one end of a grant, as it stands in the ledger."""

    key: Annotated[str, Field(description="tells it from all others")]
    kind: Annotated[str, Field(description="grant, renewal, denial, lowered, revoke, release, expired, start, ...")]
    meter: str | None
    utc_s: Annotated[float, Field(description="when it was decided [s since 1970, UTC]")]
    decision: Annotated[str | None, Field(description="epoch.number; None for what is no decision of the DCU")]
    position: Annotated[int | None, Field(description="of its entry in the ledger, once it is durable")]
    asked_w: Annotated[float | None, Field(description="export limit asked for [W]")]
    least_w: Annotated[float | None, Field(description="least that would be of use [W]")]
    limit_w: Annotated[float | None, Field(description="export limit decided [W]")]
    reason: Annotated[str | None, Field(description="code of what decided, or kept the limit from being higher")]
    binding: Annotated[str | None, Field(description="where: a meter, a port, a line and conductor")]
    value: Annotated[float | None, Field(description="the value that bound ([V] of a voltage)")]
    headline: str
    words: Annotated[str, Field(description="the same in a sentence")]


class Customer(Answer):
    """One customer now."""

    id: str
    eui48: str
    bus: str
    phases: list[str]
    linked: Annotated[bool, Field(description="whether its meter is in a protected session")]
    quality: Annotated[str, Field(description="of the newest reading: good, missing, stale, invalid")]
    u_v: Annotated[list[float | None], Field(description="phase to neutral, in the order of phases [V]")]
    age_s: Annotated[float | None, Field(description="of the newest reading [s]")]
    export_w: Annotated[float | None, Field(description="measured; below 0 it draws [W]")]
    limit_w: Annotated[float, Field(description="export limit the meter says it applies [W]")]
    nominal_w: Annotated[float, Field(description="export limit without a grant [W]")]
    contract_w: Annotated[float, Field(description="most that can ever be granted [W]")]
    granted_w: Annotated[float | None, Field(description="limit of the live grant [W]")]
    wanted_w: Annotated[float | None, Field(description="what its live grant was asked for [W]")]
    headroom_w: Annotated[float | None, Field(description="export limit it could have now, alone [W]")]
    lease_left_s: Annotated[float | None, Field(description="until the grant ends without renewal [s]")]
    reserved_w: Annotated[float, Field(description="what the DCU keeps for it [W]")]
    source: Annotated[str, Field(description="why its limit is what it is")]
    relay: str
    alarms: list[str]
    why_not_more: Annotated[str | None, Field(description="what keeps it from more, in words")]
    binding: Annotated[str | None, Field(description="the place of that")]


class Alarm(Answer):
    """Something a person should know."""

    level: Literal["alarm", "warning", "note"]
    who: str
    what: str
    since_utc_s: float


class Substation(Answer):
    """The busbar."""

    quality: str
    u_v: list[float | None]
    age_s: float | None


class Street(Answer):
    """Everything that moves, as of one look at the DCU; `live` events of the stream are these."""

    number: Annotated[int, Field(description="rises with every look")]
    state: Annotated[State, Field(description="live; stale: the DCU answers slowly; down: it does not")]
    why: Annotated[str | None, Field(description="why it is not live")]
    heard_utc_s: Annotated[float | None, Field(description="when the DCU answered last [s since 1970]")]
    utc_s: Annotated[float | None, Field(description="the DCU's clock then [s since 1970]")]
    dcu: str | None
    epoch: int | None
    quarantine: bool
    rule: str | None
    policy: str | None
    band_v: tuple[float, float] | None
    lease_s: float | None
    substation: Substation | None
    export_w: Annotated[float | None, Field(description="of all customers, what is known [W]")]
    increase_w: Annotated[float, Field(description="granted beyond nominal limits [W]")]
    granted: Annotated[int, Field(description="live grants")]
    grants_max: Annotated[int | None, Field(description="that the power line lets the DCU renew in time")]
    reports_per_s: float | None
    ledger_entries: int | None
    ledger_head: str | None
    alarms: list[Alarm]
    customers: list[Customer]
    news: Annotated[list[Decision], Field(description="decisions that came or changed lately, newest last")]


class Traces(Answer):
    """The last minutes of one customer, or of the whole street (meter None)."""

    meter: str | None
    step_s: float
    utc_s: Annotated[float, Field(description="of the last value [s since 1970]")]
    u_v: Annotated[list[float | None], Field(description="highest of its phases [V]; of the street: highest of all")]
    u_low_v: Annotated[list[float | None], Field(description="lowest of its phases [V]")]
    export_w: list[float | None]
    limit_w: Annotated[list[float | None], Field(description="of the street: granted beyond nominal limits [W]")]


class Edge(Answer):
    """A line of the drawing between two points, with so many wires."""

    x0: float
    y0: float
    x1: float
    y1: float
    wires: int


class Place(Answer):
    """Where a customer stands in the drawing; ohm: impedance from the transformer (None where it is not known)."""

    meter: str
    bus: str
    x: float
    y: float
    ohm: float | None


class Drawn(Answer):
    """One drawing; y grows downwards."""

    width: float
    height: float
    edges: list[Edge]
    places: list[Place]
    source: tuple[float, float]


class Feeder(Answer):
    """The feeder as a tree (edges go down at the parent, then across; across runs the impedance) and as a map."""

    name: str | None
    longest_ohm: Annotated[float | None, Field(description="impedance from the transformer to the farthest bus [ohm]")]
    tree: Drawn
    map: Drawn | None


class Link(Answer):
    """One end's view of a hop."""

    snr_db: float
    scheme: str
    heard: int
    delivered: int
    lost: int
    loss: float | None


class LineNode(Answer):
    """One node of the power line; depth 1 hangs on the base."""

    eui48: str
    meter: str | None
    depth: int
    hops: int
    parent: Annotated[str | None, Field(description="EUI-48 of the switch above; None: the base")]
    switch: bool
    connected: bool
    alive_asked: int
    alive_answered: int
    link: Link | None


class Line(Answer):
    """The tree of the power line, as the base node knows it."""

    known: bool
    headline: str
    sna: str
    running_s: float
    airtime: Annotated[dict[str, float], Field(description="share of the time on air, by kind")]
    nodes: list[LineNode]


class Quality(Answer):
    """EN 50160 statistics of one phase of one customer, over 10-minute means."""

    meter: str
    phase: str
    intervals: Annotated[int, Field(description="10-minute means counted; a week has 1008")]
    missing: Annotated[int, Field(description="10-minute spans with too few readings, not counted")]
    inside: Annotated[float | None, Field(description="share within nominal -10 % .. +10 % (EN 50160: >= 0.95)")]
    u_min_v: float | None
    u_p95_v: Annotated[float | None, Field(description="97.5 % of the means are not above [V]")]
    u_max_v: float | None
    unbalance_p95: Annotated[float | None, Field(description="95 % of the means are not above (EN 50160: 0.02)")]


class Qualities(Answer):
    """Where the statistics come from, and since when."""

    source: str
    since_utc_s: float | None
    nominal_v: float | None
    rows: list[Quality]


class Reading(Answer):
    """One reading of a meter from the store."""

    at_s: Annotated[float, Field(description="[s since 1970, UTC]")]
    u_v: Annotated[list[float | None], Field(description="L1, L2, L3 [V]")]
    p_w: Annotated[list[float | None], Field(description="L1, L2, L3, import positive [W]")]
    limit_w: float | None


class Witness(Answer):
    """A signature under a head."""

    name: str
    key_id: str


class Ledger(Answer):
    """The newest published head of the log."""

    known: bool
    why: str | None
    origin: str | None
    size: int | None
    root: str | None
    key: Annotated[str | None, Field(description="name+id+key, as this log's own key file says")]
    note: Annotated[str | None, Field(description="the head with its signatures, verbatim")]
    signatures: list[Witness]
    cosigned_size: Annotated[int | None, Field(description="entries under the newest head that witnesses signed")]
