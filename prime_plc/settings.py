"""Every constant of the MAC that may be tuned, with its unit and where it comes from.

*recalled*: known from memory of the specification (PRIME R1.3.6) and not checked against its text. *ours*: a choice of
this product. What is fixed by captures (frame length, field widths) stands where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prime_plc.phy import SYMBOL_S, Scheme

FRAME_SYMBOLS: Final = 276
"""Symbols of one frame (captured period)."""

FRAME_S: Final = FRAME_SYMBOLS * SYMBOL_S
"""[s] One frame, 618.24 ms."""

SUPERFRAME_FRAMES: Final = 32


@dataclass(frozen=True, slots=True)
class MacSettings:
    """Tunables of base and service nodes.

    Attributes:
        scheme: modulation of contention traffic (beacons are always DBPSK_C).
        beacon_slot_symbols: length of one beacon slot (recalled; fits the beacon's 11.008 ms).
        search_s: listening for beacons when none is good enough at once (recalled range 16 to 32 s).
        search_base_beacons: beacons of the base at best quality that end the search early (ours).
        control_repeat_s: until an unanswered control packet is repeated (recalled 2 to 20 s, 15 s).
        control_repeats_max: repetitions before giving up (recalled 3 to 5, 3).
        missed_beacons_max: expected beacons missed in a row before the switch is lost (recalled).
        promotion_period_s, promotions_max: promotion-needed PDUs while nothing is heard (range published).
        keep_alive_code: TIME code of registrations; 2 is 128 s.
        transmit_attempts_max: channel accesses before a frame is given up (range published, 2 to 5).
        access_margin_s: left free at the end of the contention period for the serial port's latency (ours).
        beacon_lead_s: ahead of its slot a beacon is handed to the modem (firmware polls its port every 10 ms; ours).
        queue_max: frames waiting for the channel (ours).
        window: packets we accept unacknowledged (captured: 16 at a base, 4 at a node).
        window_start: packets we send unacknowledged before the peer has said its window (recalled).
        retransmit_s_min: floor of the retransmission time, otherwise four round trips (not established; ours).
        transmissions_max: of one packet before its connection is closed (recalled, ARQMaxTxCount).
        flush_hold_s: an acknowledgement asked for at once waits this long for data to ride on (ours).
        acknowledge_hold_s: any other acknowledgement (recalled 7 s; ours, for request and answer).
        segment_bytes: longest piece of an SDU in one packet (ours; 64 to 128 for lossy lines).
        reassembly_s_max: an unfinished SDU is dropped after this (ours).
        sdus_max: SDUs waiting on one connection (ours).
        reopen_s_min, reopen_s_max: random wait after a rejected connection (ours).
        register_spread_s: random wait before a registration, so that nodes that heard the same beacon spread (ours).
        nodes_max: nodes a base registers (ours).
    """

    scheme: Scheme = Scheme.DBPSK_C
    beacon_slot_symbols: int = 5
    search_s: float = 24.0
    search_base_beacons: int = 3
    control_repeat_s: float = 15.0
    control_repeats_max: int = 3
    missed_beacons_max: int = 5
    promotion_period_s: float = 5.0
    promotions_max: int = 2
    keep_alive_code: int = 2
    transmit_attempts_max: int = 5
    access_margin_s: float = 0.04
    beacon_lead_s: float = 0.08
    queue_max: int = 64
    window: int = 16
    window_start: int = 4
    retransmit_s_min: float = 1.0
    transmissions_max: int = 5
    flush_hold_s: float = 0.05
    acknowledge_hold_s: float = 0.2
    segment_bytes: int = 128
    reassembly_s_max: float = 30.0
    sdus_max: int = 32
    reopen_s_min: float = 10.0
    reopen_s_max: float = 60.0
    register_spread_s: float = 0.3
    nodes_max: int = 2000
