"""Everybody's part in a window: who holds, who is due, who asks, and why somebody may have nothing at all. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from dcu.hosting.decide import Question, Standing, Wish
from dcu.hosting.grants import GrantBook, LiveGrant
from dcu.hosting.questions import Pending
from dcu.meters import MeterState, MeterTable
from shared.ids import MeterId
from shared.messages import Alarm, Reason

USE_S: Final = 10.0
"""[s] After its limit was raised, a customer's export may be taken for what it makes of it."""
IN_USE: Final = 0.9
"""Share of its limit below which an export leaves it unused."""

BEYOND_W: Final = 100.0
BEYOND_SHARE: Final = 0.05
"""[W], share of a limit: who exports more beyond it does not keep to it."""

HARMLESS_ALARMS: Final = (
    Alarm.METER_SILENT | Alarm.METER_FROZEN | Alarm.METER_IMPLAUSIBLE | Alarm.STORAGE_FAILED | Alarm.OUTBOX_FULL
)
"""Under any other alarm, also one that only a newer meter knows, a customer gets nothing: unknown is no."""


def gather(
    table: MeterTable,
    book: GrantBook,
    asking: Mapping[MeterId, Pending],
    standings: Mapping[MeterId, Standing],
    renewable: int,
    raises: int,
    now: float,
) -> Question:
    """Grants in the order they began, then questions in the order they came.

    Args:
        table: the meters.
        book: what is held.
        asking: open questions.
        standings: of meters whose grant can be renewed or raised now.
        renewable: how many grants the power line lets us renew in time.
        raises: how many it lets us raise now.
        now: [s].
    """
    wishes: list[Wish] = []
    for grant in sorted(book.live, key=lambda g: g.since_s):
        if grant.meter not in asking:
            standing = standings.get(grant.meter, Standing.HOLDS)
            wishes.append(_wish(table[grant.meter], grant, standing, (grant.wanted_w, grant.minimum_w)))
    free = renewable - len(book.live)
    for meter, pending in sorted(asking.items(), key=lambda item: item[1].since_s):
        asked_w = (pending.request.limit_w, pending.request.minimum_limit_w)
        wish = _wish(table[meter], book.grant_of(meter), Standing.ASKS, asked_w)
        if wish.granted_w is None and wish.objection is None:
            free -= 1
            wish = wish if free >= 0 else replace(wish, objection=Reason.NO_AIRTIME)
        wishes.append(wish)
    beyond_w, told = _beyond(table, book, wishes), (book.unheard(now), book.leaving(now))
    return Question(tuple(wishes), book.reserved_w(), book.places, beyond_w, raises, *told)


def _beyond(table: MeterTable, book: GrantBook, wishes: Sequence[Wish]) -> dict[MeterId, float]:
    """What those export [W] who are seen to export more than they may, later than an inverter takes to follow."""
    found, reserved_w = dict[MeterId, float](), book.reserved_w()
    for wish in wishes:
        state = table[wish.meter]
        export_w = _export_w(state)
        if export_w is None or state.reading_at_s is None or state.reading_at_s <= book.fell_s(wish.meter) + USE_S:
            continue
        may_w = max(wish.nominal_w, reserved_w.get(wish.meter, 0.0))
        if export_w > may_w + max(BEYOND_W, BEYOND_SHARE * may_w):
            found[wish.meter] = export_w
    return found


def _wish(state: MeterState, grant: LiveGrant | None, standing: Standing, asked_w: tuple[float, float]) -> Wish:
    """Of one customer, for a limit and a least limit [W]."""
    wanted_w, minimum_w = asked_w
    objection = Reason.LOCAL_ALARM if state.alarms & ~int(HARMLESS_ALARMS) else None
    granted_w, used_w = (None, None) if grant is None else (grant.limit_w, use_of(state, grant))
    entry = state.entry
    return Wish(entry.id, standing, entry.nominal_limit_w, wanted_w, minimum_w, granted_w, objection, used_w)


def use_of(state: MeterState, grant: LiveGrant) -> float | None:
    """What a customer makes of its grant [W], below 0 if it draws; None as long as no reading tells."""
    if state.reading_at_s is None or state.reading_at_s <= grant.raised_s + USE_S:
        return None
    return _export_w(state)


def in_use(state: MeterState, grant: LiveGrant) -> bool:
    """Whether a grant is known to be used: only then may more of it be of use, or be expected to be used as well. A
    reading that shows it does so however soon after a rise it was taken, or before."""
    export_w = _export_w(state)
    return export_w is not None and export_w >= IN_USE * grant.limit_w


def _export_w(state: MeterState) -> float | None:
    """Newest measured export [W], below 0 for a draw; None if nobody knows."""
    if state.reading is None:
        return None
    export_w = -sum(p_w for p_w in state.reading.p_w if p_w is not None)
    return round(export_w, 1) if math.isfinite(export_w) else None
