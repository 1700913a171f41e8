"""A service node's place in the network: how it is got, kept, changed for another one and given up.

What a node has by its place (its connection, its groups, its tree as a switch) goes on when the base says so by the R
bit of its answer, waits for a while when the place is lost, and begins anew otherwise. Requests are `enrolment.py`'s,
patience with the switch above `following.py`'s, patience with the base `keep_alive.py`'s, and when to go elsewhere
`leaving.py`'s; what follows from them is decided here. The owner holds the state; a `Turn` says what has become of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from prime_plc.control import Alv, Capabilities, ControlType, Reg
from prime_plc.enrolment import Asking, Enrolment
from prime_plc.following import Following
from prime_plc.keep_alive import KeepAlive
from prime_plc.leaving import Leave, Leaving
from prime_plc.llc import LlcLink, LlcState
from prime_plc.memberships import Memberships
from prime_plc.modem_host import FollowBeacons, FrameReceived
from prime_plc.pdu import SID_NONE, Beacon, Packet, PromotionNeeded
from prime_plc.role import Output
from prime_plc.sap import Happened
from prime_plc.search import BeaconsHeard, Heard
from prime_plc.settings import MacSettings
from prime_plc.switching import Switching
from prime_plc.transmitter import Transmitter
from prime_plc.uplink import Uplink
from shared.ids import Eui48, format_eui48


class Fate(Enum):
    """What has become of the place."""

    SAME = "as it was"
    PLACED = "it is ours"
    NOWHERE = "gone; a switch is to be looked for"
    LEFT = "given up by ourselves"


@dataclass(frozen=True, slots=True)
class Turn:
    """What has become of the place, and what is to be said of it.

    Attributes:
        goodbye: a PDU to send when the network is forgotten; empty if there is none.
    """

    fate: Fate = Fate.SAME
    said: tuple[Output, ...] = ()
    goodbye: bytes = b""


SAME: Final = Turn()
"""The place is as it was, and there is nothing to say of it; deadlines may have changed."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a node has by its place."""

    llc: LlcLink
    memberships: Memberships
    switching: Switching


class Place:
    """Part of a service node.

    Attributes:
        following: the switch above.
    """

    def __init__(
        self,
        settings: MacSettings,
        transmitter: Transmitter,
        uplink: Uplink,
        enrolment: Enrolment,
        beacons: BeaconsHeard,
        holdings: Holdings,
    ) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self._uplink = uplink
        self._enrolment = enrolment
        self._beacons = beacons
        self._llc = holdings.llc
        self._memberships = holdings.memberships
        self._switching = holdings.switching
        self.following = Following(settings, transmitter, holdings.switching)
        self._leaving = Leaving(settings, transmitter, uplink, self.following, holdings.switching, beacons)
        self._keep_alive = KeepAlive(settings)

    @property
    def _registered(self) -> bool:
        return self._keep_alive.by_s is not None

    @property
    def _free(self) -> bool:
        """Whether we have a place, and no other wish."""
        return self._registered and self._enrolment.asking is Asking.NOTHING

    def times(self) -> list[float | None]:
        """Deadlines [s]."""
        following = self.following
        silent_s = None if following.parent is None or self._enrolment.moving else following.by_s
        return [self._enrolment.retry_at, self._llc.hold_until_s, silent_s, self._keep_alive.by_s]

    # ---- none --------------------------------------------------------------------------------------------------------

    def join(self, chosen: Heard, spread_s: float, now: float) -> list[Output]:
        """Ask for one behind this switch, within this time."""
        beacon = chosen.beacon
        self._uplink.join(beacon)
        self.following.begin(chosen, beacon, now)
        self._enrolment.begin(spread_s, now)
        said = Happened("registering", f"with {format_eui48(beacon.sna)} through switch {beacon.sid}")
        return [FollowBeacons(beacon.sna, beacon.sid), said]

    def end(self) -> None:
        """Forget where we are; what we have by it waits as long as we are known."""
        self._enrolment.end()
        self._uplink.leave()
        self.following.end()
        self._keep_alive.end()
        if not self._enrolment.known:
            self._memberships.clear()

    def unknown(self, reason: str) -> list[Output]:
        """The registration is over, wherever it was."""
        self._enrolment.known = False
        return [*self._llc.close(reason)]

    # ---- got ---------------------------------------------------------------------------------------------------------

    def answered(self, reg: Reg, lnid: int, now: float) -> Turn:
        """The answer to our request, if it is for us."""
        uplink = self._uplink
        if reg.eui48 != self._enrolment.eui48:
            return SAME
        if reg.negative:
            self._avoid(uplink.sid, now)
            return Turn(Fate.NOWHERE, (Happened("registration rejected", format_eui48(uplink.sna)),))
        uplink.lnid = lnid
        outputs = self._begin(reg, now)
        said = Happened("registered", f"node {lnid:#06x}, keep-alive {self._keep_alive.period_s:g} s")
        return Turn(Fate.PLACED, (*outputs, said))

    def _begin(self, reg: Reg, now: float) -> list[Output]:
        """Who was registered before goes on with its connection and as a switch, if the base says so by the R bit; else
        all begins anew."""
        self._keep_alive.begin(reg.time, now)
        self._uplink.aggregates = Capabilities.AGGREGATION in reg.capabilities
        self._enrolment.answered()
        hops = self._uplink.level + 1
        if reg.roaming and self._llc.state is not LlcState.CLOSED:
            self._switching.resume(hops, now)
            self._enrolment.acknowledge(self._switching.lsids, now)
            self._llc.moved(hops, now)
            for request in self._memberships.requests():
                self._uplink.control(ControlType.MUL, request.encode(), now)
            return []
        self._memberships.clear()
        outputs: list[Output] = [*self._llc.close("registered anew")]
        self._enrolment.acknowledge([], now)
        self._llc.open(Eui48(self._uplink.sna), hops, now)
        return outputs

    # ---- kept --------------------------------------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """A packet for us alone came: the base knows us."""
        self._keep_alive.heard(now)

    def alive(self, alv: Alv, now: float) -> None:
        """The base asks whether we are there."""
        lsid = self._switching.lsid if self._switching.serving else None
        answer = self._keep_alive.answer(alv, SID_NONE if lsid is None else lsid, now)
        self._uplink.control(ControlType.ALV, answer.encode(), now)

    def beacon(self, item: FrameReceived, beacon: Beacon, now: float) -> Turn:
        """The next beacon of the switch above."""
        following, uplink = self.following, self._uplink
        doubted = following.doubted_s is not None
        following.beacon(item, beacon, now)
        if beacon.level != uplink.level:  # it has moved, and we with it
            uplink.shift(beacon.level)
            if self._switching.suspended_until_s is None:
                self._switching.shift(beacon.level + 1)
        if doubted and following.doubted_s is None:
            self._llc.hurry(now)
        if not self._free:
            return SAME
        return self._leave(self._leaving.weakness(now) or self._leaving.detour(now), now)

    def again(self, reg: Reg, lnid: int, now: float) -> Turn:
        """The base answers once more: our acknowledgement was lost, or it has made a new entry for us and means that
        from now on."""
        if reg.eui48 != self._enrolment.eui48:
            return SAME
        outputs: list[Output] = []
        if lnid != self._uplink.lnid:
            outputs += self._switching.stop("registered anew")
            outputs += self._llc.close("registered anew")
            self._uplink.lnid = lnid
            self._llc.open(Eui48(self._uplink.sna), self._uplink.level + 1, now)
        self._uplink.aggregates = Capabilities.AGGREGATION in reg.capabilities
        self._enrolment.acknowledge(self._switching.lsids, now)
        return Turn(Fate.PLACED, tuple(outputs))

    def review(self, now: float) -> Turn | None:
        """Whether it is still good for something; None if nothing is in question."""
        if now >= self.following.by_s and not self._enrolment.moving:
            return self._leave(self._leaving.silence(now), now)
        if not self._registered:
            return None
        if self._keep_alive.by_s is not None and now >= self._keep_alive.by_s:
            return self.over("no keep-alive from the base", now)
        if self._free and self._leaving.takes_nothing(now):
            return self.unheard(now)
        return None

    def retry(self, now: float) -> Turn:
        """Repeat what waits for its answer, or give up."""
        enrolment, settings = self._enrolment, self._settings
        if enrolment.retry_at is None or now < enrolment.retry_at:
            return SAME
        enrolment.retry_at = None
        if enrolment.asking is Asking.TO_LEAVE:
            if enrolment.repeats > settings.control_repeats_max:
                return self.left()
        elif enrolment.moving:
            if enrolment.repeats >= settings.move_repeats_max:
                return self._not_moved("no answer", now)
        else:
            others = self._leaving.elsewhere(now)
            limit = settings.control_repeats_max if others is None else settings.elsewhere_repeats_max
            if enrolment.repeats > limit:
                self._avoid(self._uplink.sid, now)
                return self._lost("no answer to the registration", now)
        enrolment.again(now)
        return SAME

    # ---- changed -----------------------------------------------------------------------------------------------------

    def _leave(self, leave: Leave | None, now: float) -> Turn:
        """Ask for a place behind another switch. Until it is ours all goes on as it was: our number, our connection,
        and whoever is below us. Without another one in this network the network is lost."""
        if leave is None:
            return SAME
        if leave.to is None or not self._free or leave.to.pdu[6:12] != self._uplink.sna:
            return self._lost(leave.reason, now)
        self._enrolment.move(leave.to, now)
        return Turn(said=(Happened("moving", f"from switch {self._uplink.sid} to {leave.to.pdu[1]}: {leave.reason}"),))

    def unheard(self, now: float) -> Turn:
        """The switch above hears us too badly: go to another one, or call for one (ours)."""
        if not self._free:
            return SAME
        leave = self._leaving.deafness(now)
        if leave is None:
            self._call(now)
        return self._leave(leave, now)

    def wants_better(self, now: float) -> bool:
        """Whether our own way is so weak that no tree should hang on it before we have called for a better one, some
        times: whoever joins behind us stays there (ours)."""
        return self.following.calls < self._settings.promotion_calls_first and self.following.poor(now)

    def call_first(self, now: float) -> None:
        """Do so, unless we are on our way to another one already."""
        self.following.calls += 1
        if self._free:
            self._call(now)

    def _call(self, now: float) -> None:
        """For a switch that we would rather hang on."""
        self._transmitter.call(PromotionNeeded(self._uplink.sna, self._enrolment.eui48).encode(), now)

    def _not_moved(self, why: str, now: float) -> Turn:
        """It does not answer, or refuses: stay, and if there is nothing to stay with look for the next one."""
        sid = self._enrolment.moving_to
        self._beacons.not_moved(self._uplink.sna, sid, now)
        self._enrolment.stay()
        self.following.since_s = now
        said = Happened("not moved", f"to switch {sid}: {why}")
        if now < self.following.by_s:
            return Turn(said=(said,))
        next_ = self._leave(self._leaving.silence(now), now)
        return Turn(next_.fate, (said, *next_.said))

    def moved(self, packet: Packet, now: float) -> Turn:
        """The answer from where we want to be: from now on that is our place.

        Raises:
            DecodeError: it says nothing that makes sense.
        """
        reg = Reg.decode(packet.payload)
        if reg.negative:
            return self._not_moved("refused", now)
        uplink, chosen, left_sid = self._uplink, self._enrolment.chosen, self._uplink.sid
        assert chosen is not None
        chosen.refusals = 0
        uplink.move(chosen.beacon, packet.lnid)
        self.following.begin(chosen, chosen.beacon, now)
        outputs: list[Output] = [] if reg.roaming else [*self._switching.stop("registered anew")]
        outputs += self._begin(reg, now)
        said = Happened("moved", f"from switch {left_sid} to {uplink.sid}, node {uplink.lnid:#06x}")
        return Turn(Fate.PLACED, (FollowBeacons(uplink.sna, uplink.sid), *outputs, said))

    # ---- lost, or given up -------------------------------------------------------------------------------------------

    def leave(self, now: float) -> Turn:
        """Give it up, as told; at once if there is none."""
        if not self._registered:
            return self.left()
        self._enrolment.leave(now)
        return SAME

    def left(self) -> Turn:
        """It is given up."""
        outputs = self.unknown("left the network")
        self._switching.end()
        return Turn(Fate.LEFT, (*outputs, Happened("left", "unregistered by itself")))

    def unregistered(self, reg: Reg, lnid: int, now: float) -> Turn:
        """The base ends the registration, or says that we have."""
        if lnid != self._uplink.lnid:
            return SAME
        if self._enrolment.asking is Asking.TO_LEAVE:
            return self.left()
        # A base that does not know us sends zeros and wants no answer.
        own = reg.eui48 == self._enrolment.eui48
        goodbye = self._uplink.goodbye(self._enrolment.reg(negative=True)) if own else b""
        said = self._switching.stop("unregistered")
        over = self.over("unregistered by the base", now)
        return Turn(over.fate, (*said, *over.said), goodbye)

    def over(self, reason: str, now: float) -> Turn:
        """The registration is over; begin anew."""
        closed = self.unknown(reason)
        lost = self._lost(reason, now)
        return Turn(lost.fate, (*closed, *lost.said))

    def _lost(self, reason: str, now: float) -> Turn:
        """There is no way to the base any more; who finds another one in time goes on as what it was."""
        self._llc.hold(now + self._settings.switch_hold_s)
        self._leaving.avoid_tree(now)
        self._switching.suspend(now)
        return Turn(Fate.NOWHERE, (Happened("disconnected", reason),))

    def lapse(self, now: float) -> list[Output]:
        """No other way was found in time."""
        held_s = self._llc.hold_until_s
        return [] if held_s is None or now < held_s else self.unknown("no way to the base")

    def _avoid(self, sid: int, now: float) -> None:
        """Do not try this switch again for a while."""
        self._beacons.avoid(self._uplink.sna, sid, now + self._settings.avoid_s)
