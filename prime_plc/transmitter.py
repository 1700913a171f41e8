"""Between a role and its modem: frame clock, channel, link quality and custody of one node, as one part."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from prime_plc.channel import PRIORITY_CONTROL, ChannelAccess, Given, Keep, Outgoing
from prime_plc.custody import Custody, Key, expects_acknowledgement, only_acknowledges
from prime_plc.frame_clock import FrameClock
from prime_plc.links import PARENT, Links
from prime_plc.modem_host import ModemSettings, TransmitConfirmed, TransmitFrame
from prime_plc.pdu import GenericPdu, Packet
from prime_plc.settings import MacSettings

RECENT_MAX: Final = 256
"""Packets remembered as passed on."""


class Transmitter:
    """Everything between a role and its modem; all its methods leave what is to be sent to `wake`."""

    # A street has hundreds; attributes at fixed places are cheaper there.
    __slots__ = ("_modem", "_recent", "_settings", "channel", "clock", "custody", "links", "relayed")

    def __init__(self, settings: MacSettings, modem: ModemSettings, draw: random.Random) -> None:
        self._settings = settings
        self._modem = modem
        self.clock = FrameClock(settings.slot_symbols(stock=modem.stock))
        self.links = Links(settings)
        self.channel = ChannelAccess(settings, modem, self.clock, self.links, draw)
        self.custody = Custody(settings, draw)
        self._recent: dict[Key, float] = {}
        self.relayed = 0

    def clear(self) -> None:
        """The modem or the network is gone."""
        self.channel.clear()
        self.custody.clear()
        self.links.clear()
        self._recent.clear()

    def shift(self, levels: int, left: tuple[int, int] | None = None) -> None:
        """We hang so many levels deeper now, and with a number of our own that we have left behind another switch: what
        waits for the old one goes to the new one, but for our own packets, which name the old place. What the old one
        may have lost is passed on again if it comes again."""
        self.custody.shift(levels, left)
        self.channel.shift(levels, left)
        if left is not None:
            self._recent.clear()
            self.links.forget(PARENT)

    @property
    def wake_at(self) -> float | None:
        """Next deadline [s]."""
        channel, custody = self.channel.wake_at, self.custody.wake_at
        if channel is None or (custody is not None and custody < channel):
            return custody
        return channel

    @property
    def room(self) -> bool:
        """Whether data may be handed over; what waits longer is better kept where it can still be repeated."""
        return len(self.channel) < self._settings.data_ahead

    def send(
        self,
        packets: list[Packet],
        neighbour: int | None,
        now: float,
        *,
        downlink: bool,
        level: int,
        keep: Keep,
        asks: bool = False,
        alone: bool = False,
    ) -> bool:
        """Queue packets for one next hop; those that ``asks`` are to be answered while more follow, and nothing joins
        those that travel ``alone``."""
        outgoing = Outgoing(packets[0].priority, downlink, level, neighbour, packets, keep=keep, asks=asks, alone=alone)
        outgoing.answers = neighbour is not None and all(only_acknowledges(packet) for packet in packets)
        return self.channel.put(outgoing, now)

    def relay(
        self, packets: Iterable[Packet], neighbour: int | None, now: float, *, downlink: bool, level: int, keep: Keep
    ) -> list[Packet]:
        """Pass packets on, once; ``neighbour`` None sends them to everybody. Those that had been passed on before.

        Where hops do not repeat, what comes again for one neighbour is said again by its sender, and may have been lost
        anywhere.
        """
        fresh: list[Packet] = []
        again = []
        if neighbour is not None and self._settings.hop_repeats_max == 0:
            fresh, packets = list(packets), ()
        for packet in packets:
            key = downlink, packet.encode()
            if now >= self._recent.get(key, 0.0):
                fresh.append(packet)
                hop_data = neighbour is not None and not packet.control
                hop_data &= downlink or expects_acknowledgement(packet)  # nobody asks below for what goes up
                self._recent[key] = now + (self._settings.data_memory_s if hop_data else self._settings.hop_memory_s)
            else:
                again.append(packet)
        if len(self._recent) > RECENT_MAX:
            self._recent = {key: until for key, until in self._recent.items() if until > now}
        if not fresh:
            return again
        self.relayed += len(fresh)
        if any(packet.nad for packet in fresh):
            for packet in fresh:
                self.send([packet], neighbour, now, downlink=downlink, level=level, keep=keep, alone=packet.nad)
        else:
            self.send(fresh, neighbour, now, downlink=downlink, level=level, keep=keep)
        return again

    def anew(self, packet: Packet) -> None:
        """What has been passed down is to be passed down again: it says more now."""
        self._recent.pop((True, packet.encode()), None)

    def call(self, pdu: bytes, now: float) -> None:
        """Queue a finished PDU (a call for a switch)."""
        self.channel.put(Outgoing(PRIORITY_CONTROL, finished=pdu), now)

    def overheard(self, pdu: GenericPdu, now: float) -> None:
        """A next hop passes something on."""
        for neighbour in self.custody.overheard(pdu, now):
            self.links.delivered(neighbour)

    def overheard_damaged(self, data: bytes, now: float) -> None:
        """The same, damaged."""
        for neighbour in self.custody.overheard_damaged(data, now):
            self.links.delivered(neighbour)

    def taken(self, neighbour: int, signs: tuple[int, ...], now: float) -> None:
        """A neighbour says that it has passed on already what we have just repeated, by its signs or without."""
        if signs:
            for key in self.custody.signed(signs, now):
                self.links.delivered(key)
        elif self.custody.taken(neighbour, now):
            self.links.delivered(neighbour)

    def answered(self, pdu: GenericPdu, now: float) -> bool:
        """Something passes in the other direction; whether it is what we have waited for."""
        if not len(self.custody):
            return False
        neighbours = []
        for packet in pdu.packets:
            neighbours += self.custody.answered(packet, now, downlink=pdu.downlink)
        for neighbour in neighbours:
            self.links.delivered(neighbour)
        return bool(neighbours)

    def confirmed(self, item: TransmitConfirmed, now: float) -> Given | None:
        """What became of a frame; None while it will be tried again, or is none of the queue's."""
        ended = self.channel.confirmed(item.buffer, item.result, now)
        if ended is None:
            return None
        outgoing, given = ended
        if given is Given.SENT and outgoing.keep is not Keep.NO and outgoing.neighbour is not None:
            scheme = self.channel.scheme(outgoing)
            self.custody.sent(outgoing, self._modem.airtime_s(outgoing.length, scheme), now)
        elif outgoing.tries:
            self.custody.unsent(outgoing)
        return given

    def wake(self, now: float) -> list[TransmitFrame]:
        """Frames for the modem, due now."""
        at = self.custody.wake_at
        if at is not None and now >= at:
            self._repeat(now)
        while self.channel.too_long:
            self.custody.unsent(self.channel.too_long.pop())
        at = self.channel.wake_at
        if at is None or now < at:
            return []
        frame = self.channel.wake(now)
        return [] if frame is None else [frame]

    def _repeat(self, now: float) -> None:
        """What no next hop has passed on goes out again, or is given up."""
        again, over, lost = self.custody.due(now, crowded=len(self.channel) > self._settings.crowded_queue)
        for neighbour in lost:
            self.links.lost(neighbour)
        for outgoing in again:
            if not self.channel.put(outgoing, now):
                self.custody.unsent(outgoing)
        for key in over:
            self._recent.pop(key, None)  # its sender may try again
