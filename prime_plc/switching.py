"""What a service node does as a switch: its own beacons, and passing packets on between its parent and its children.

A relay changes LEVEL, and with it the checksums, and nothing else (captured). Up it takes what comes with its own level
from below, down what comes with its parent's level for somebody below, and what is for everybody.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from prime_plc.acknowledged import Acknowledged
from prime_plc.channel import Keep
from prime_plc.control import Bsi, ControlType, Mul, Pro
from prime_plc.links import COST_MAX, PARENT, quality_index
from prime_plc.modem_host import TransmitFrame
from prime_plc.modem_messages import BUFFER_BEACON
from prime_plc.pdu import LNID_BROADCAST, LNID_MULTICAST, Beacon, GenericPdu, Packet
from prime_plc.phy import Scheme
from prime_plc.sap import Happened
from prime_plc.settings import FRAME_S, MacSettings
from prime_plc.switch_table import SwitchTable
from prime_plc.transmitter import Transmitter
from shared.errors import DecodeError

SNR_UNKNOWN_DB: Final = 6.0
QUALITY_LOST: Final = 0
"""Quality in the beacons of a switch that has lost its own place, and of all below it (our choice: a link that is used
has more)."""

FORMER_BEACONS: Final = 4
"""Beacons of ours after which whoever is below us knows our level (ours)."""


class Switching:
    """Part of a service node; does nothing before `begin` and after `end`.

    Attributes:
        lsid: own switch number; known from the promotion on, before the slot is.
        level: of our own beacons, one more than the parent's.
        least_level: the least that it has been since we began.
        again: what the last PDU brought that had been passed on before.
        suspended_until_s: while we have lost our own place we go on beaconing, with quality 0, until then [s]: whoever
            hangs on us waits, and nobody new comes; None otherwise.
    """

    def __init__(self, settings: MacSettings, transmitter: Transmitter) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self._slot: Bsi | None = None
        self._beacon_s = 0.0
        self._seq = 0
        self._latest: Beacon | None = None
        self.suspended_until_s: float | None = None
        self.lsid: int | None = None
        self.level = self.least_level = 0
        self.table = SwitchTable(settings.switch_entry_s)
        self._acknowledged = Acknowledged()
        self.again: list[Packet] = []
        self.answered = 0
        self.beacons = 0
        self._former_level = self._former_until = 0

    @property
    def sna(self) -> bytes:
        """Subnetwork of our beacons, empty before the first."""
        return b"" if self._latest is None else self._latest.sna

    @property
    def slot(self) -> Bsi | None:
        """Our beacon slot, None while we do not beacon."""
        return self._slot

    @property
    def serving(self) -> bool:
        """Whether we are a switch with a place of its own."""
        return self._slot is not None and self.suspended_until_s is None

    @property
    def lsids(self) -> list[int]:
        """Numbers of all switches that are reached through us, our own first."""
        return [] if self.lsid is None or self._slot is None else [self.lsid, *self.table.entries]

    @property
    def wake_at(self) -> float | None:
        """When the next beacon is to be handed over [s]."""
        return None if self._slot is None else self._beacon_s - self._settings.beacon_lead_s

    def begin(self, slot: Bsi, level: int, now: float) -> None:
        """The base has given us a slot."""
        self.suspended_until_s = None
        self.least_level = level if self._slot is None else min(level, self.least_level)
        self._slot = slot
        self.level = level
        self.plan(now)

    def resume(self, level: int, now: float) -> None:
        """Our place is another one, and the base has left us number and slot."""
        self.suspended_until_s = None
        if self.lsid is not None:
            self.shift(level)
            self.plan(now)

    def shift(self, level: int) -> None:
        """We hang deeper now, or less deep; whoever is below us hears it by our beacon."""
        if level != self.level:
            self._former_level, self._former_until = self.level, self.beacons + FORMER_BEACONS
            self.level = level
            self.least_level = min(level, self.least_level)

    def is_from_below(self, level: int) -> bool:
        """Whether a packet with this level upward may be from a child of ours; those of our parent have two less."""
        former = level == self._former_level != self.level - 2 and self.beacons <= self._former_until
        return self.lsid is not None and self.suspended_until_s is None and (level == self.level or former)

    def suspend(self, now: float) -> None:
        """Our own switch is lost: keep what is below us together for a while."""
        self._acknowledged.clear()
        if self._slot is None or self._latest is None:
            self.end()
        elif self.suspended_until_s is None:
            self.suspended_until_s = now + self._settings.switch_hold_s

    def end(self) -> None:
        """No switch any more."""
        self.suspended_until_s = None
        self._latest = None
        self._slot = None
        self.lsid = None
        self.table.clear()
        self._acknowledged.clear()

    def stop(self, why: str) -> list[Happened]:
        """End what we are, and say so if we were something."""
        said = [Happened("switching ended", f"number {self.lsid}, {why}")] if self.serving else []
        self.end()
        return said

    def plan(self, now: float) -> None:
        """Our next beacon by the present frame clock."""
        if self._slot is not None:
            after_s = now + self._settings.beacon_lead_s / 2
            self._beacon_s, self._seq = self._transmitter.clock.next_slot(
                after_s, self._slot.slot, self._slot.seq, self._slot.frequency
            )

    def beacon(self, parent: Beacon | None, now: float) -> TransmitFrame | None:
        """Our beacon, and plan the next one; None if there is nothing to say."""
        assert self._slot is not None
        if self.suspended_until_s is not None and self._latest is not None:
            beacon = replace(self._latest, quality=QUALITY_LOST, seq=self._seq, count=self._count)
        elif parent is not None:
            beacon = self._latest = self._from(parent, self._slot)
        else:
            self.plan(now + FRAME_S)
            return None
        start_s = self._beacon_s
        self._beacon_s, self._seq = self._transmitter.clock.next_slot(
            start_s + FRAME_S / 2, self._slot.slot, self._slot.seq, self._slot.frequency
        )
        if self._beacon_s - self._settings.beacon_lead_s <= now:
            self.plan(now)
        self.beacons += 1
        return TransmitFrame(beacon.encode(), Scheme.DBPSK_C, start_s, BUFFER_BEACON, exclusive=True)

    @property
    def _count(self) -> int:
        """Beacon slots of a frame; ours is one of them, whatever we have missed."""
        assert self._slot is not None
        return max(self._transmitter.clock.count, self._slot.slot + 1)

    def _from(self, parent: Beacon, slot: Bsi) -> Beacon:
        """Our beacon by that of the switch above."""
        assert self.lsid is not None
        link = self._transmitter.links.get(PARENT)
        snr_db = SNR_UNKNOWN_DB if link is None else link.snr_db
        hop = self._transmitter.links.hop_cost(PARENT)
        return Beacon(
            quality=min(parent.quality, quality_index(snr_db)),
            sid=self.lsid,
            count=self._count,
            position=slot.slot,
            cfp=self._transmitter.clock.cfp,
            level=self.level,
            seq=self._seq,
            frequency=slot.frequency,
            sna=parent.sna,
            up_cost=min(COST_MAX, parent.up_cost + hop),
            down_cost=min(COST_MAX, parent.down_cost + hop),
        )

    # ---- relaying ----------------------------------------------------------------------------------------------------

    def below(self, sid: int) -> bool:
        """Whether this number is ours or one below us."""
        return sid == self.lsid or sid in self.table.entries

    def up(self, pdu: GenericPdu, now: float) -> list[Packet]:
        """Pass on what comes from below; packets that are for ourselves are given back."""
        if self.lsid is None:
            return []
        onward: list[Packet] = []
        own: list[Packet] = []
        for packet in pdu.packets:
            if self.table.child_of(packet.sid, packet.lnid, self.lsid) is None:
                continue
            if packet.control and packet.lcid == ControlType.PRM and packet.sid == self.lsid:
                own.append(packet)
                continue
            self._learn(packet, now, downlink=False)
            self._begun_anew(packet)
            if self._answer_again(packet, now):
                continue
            onward.append(packet)
            if not packet.control:
                self._acknowledged.passed_on(packet)
        self.again = []
        if onward:
            level = self.level - 1
            keep = Keep.LAST if level == 0 else Keep.ONWARD
            self.again = self._transmitter.relay(onward, PARENT, now, downlink=False, level=level, keep=keep)
        return own

    def _answer_again(self, packet: Packet, now: float) -> bool:
        """Whether the acknowledgement of a packet has come by before: it was lost below, so say it again.

        Our addition: the repetition of a packet that the base has would otherwise go all the way once more.
        """
        answer = None if packet.control else self._acknowledged.answer_to(packet)
        route = None if answer is None else self._route(answer)
        if answer is None or route is None:
            return False
        self.answered += 1
        self._transmitter.send([answer], route[0], now, downlink=True, level=self.level, keep=route[1])
        return True

    def _begun_anew(self, packet: Packet) -> None:
        """A registration or a connection begins or ends: numbers start again, so what was acknowledged before would
        swallow what comes now."""
        if packet.control and packet.lcid in {ControlType.REG, ControlType.CON}:
            self._acknowledged.forget(packet.sid, packet.lnid)

    def child(self, pdu: GenericPdu) -> int | None:
        """Which child sent an uplink PDU; None for strangers and nodes without a number yet."""
        if self.lsid is None:
            return None
        packet = pdu.packets[0]
        child = self.table.child_of(packet.sid, packet.lnid, self.lsid)
        return None if child in {LNID_BROADCAST, LNID_MULTICAST} else child

    def down(self, pdu: GenericPdu, now: float) -> None:
        """Pass on what comes from above for somebody below."""
        self.again = []
        if self.lsid is None:
            return
        routes: dict[tuple[int | None, Keep], list[Packet]] = {}
        for packet in pdu.packets:
            route = self._route(packet)
            if route is not None:
                routes.setdefault(route, []).append(packet)
                data = not packet.control and packet.lnid < LNID_MULTICAST
                if data and self._acknowledged.came_by(packet):
                    self._transmitter.anew(packet)
                self._learn(packet, now, downlink=True)
                self._begun_anew(packet)
        for (neighbour, keep), packets in routes.items():
            again = self._transmitter.relay(packets, neighbour, now, downlink=True, level=self.level, keep=keep)
            self.again += [] if neighbour is None else again

    def _route(self, packet: Packet) -> tuple[int | None, Keep] | None:
        """Next hop of a downlink packet; None if it does not go through us."""
        assert self.lsid is not None
        everybody = (None, Keep.NO)
        if packet.lnid == LNID_BROADCAST:
            if not (packet.control and packet.lcid == ControlType.REG):
                return everybody
            if packet.sid == self.lsid:  # a rejection
                return everybody
        if packet.lnid == LNID_MULTICAST:
            return everybody if packet.lcid in self.table.groups else None
        child = self.table.child_of(packet.sid, packet.lnid, self.lsid)
        if child is None:
            return None
        return child, Keep.LAST if packet.sid == self.lsid else Keep.ONWARD

    def _learn(self, packet: Packet, now: float, *, downlink: bool) -> None:
        if packet.sid != self.lsid:
            self.table.heard(packet.sid, now)
        if not packet.control or packet.lcid not in {ControlType.PRO, ControlType.MUL}:
            return
        assert self.lsid is not None
        try:
            if packet.lcid == ControlType.PRO:
                self.table.promotion(packet, Pro.decode(packet.payload), self.lsid, now, downlink=downlink)
            elif downlink:
                self.table.membership(packet, Mul.decode(packet.payload))
        except DecodeError:
            return
