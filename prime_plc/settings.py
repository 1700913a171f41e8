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

SLOT_SYMBOLS_MAX: Final = 7
"""Symbols of a beacon slot where the firmware adds its three bytes."""

CONTENTION_SYMBOLS_MIN: Final = 64
"""Symbols of contention that a frame has at least (recalled, MACMinSCPLength); a structure with less is not followed.
Only the longest PDUs in the most robust modulation need up to two symbols more, and are given up in such a frame."""


LADDER: Final = (Scheme.DBPSK_C, Scheme.DQPSK_C, Scheme.D8PSK_C, Scheme.DQPSK, Scheme.D8PSK)
"""Modulations to choose from, most robust first; uncoded DBPSK is left out, DQPSK_C is as fast and needs less."""


@dataclass(frozen=True, slots=True)
class MacSettings:
    """Tunables of base and service nodes.

    Modulation:
        scheme: of beacons' neighbours not measured yet, and of everything to everybody (beacons are always DBPSK_C).
        schemes: to choose from for a measured neighbour, most robust first; one alone is always used (ours).
        scheme_margin_db: above the vendor's thresholds, for real receivers and moving noise (ours).
        scheme_hysteresis_db: from leaving a scheme to entering it again (ours).
        robust_bytes: PDUs up to this long, acknowledgements above all, always take ``scheme`` (ours).
        asymmetry_db: a new neighbour gets what fits if it hears us worse by this than we hear it (ours; noise differs
            from place to place).
        deliveries_to_rise: that try the next step again; doubled for each try that fails, up to
            deliveries_to_rise_max (ours).
        share_memory: frames over which the share taken is reckoned for each scheme (ours).
        losses_to_doubt: in a row, that end a step whatever else is known (ours; few are collisions or a burst, and slow
            frames collide more).
        unanswered_max: losses in a row after which another switch is looked for: this one does not hear us (ours).
        share_min: the same for the share of frames taken in the most robust scheme (ours; with bursts that take a third
            of everything 0.44 of the hops are seen to work).
        weak_share_min: the same where the other one hears us weaker than weak_ear_db: that is no burst (ours).
        ema_smoothing: a measurement weighs 2**-n (range published, default recalled).
        robustness_hold_s: how long a neighbour's word about our signal holds (ours).
        robustness_interval_s: at most one such word from us to a neighbour in this time (ours).
        robustness_frames: frames in a row of an unfit modulation before we say so (ours).

    Frame:
        beacon_slot_symbols: length of one beacon slot (recalled; fits the beacon's 11.008 ms). Stock firmware's three
            bytes more make a beacon 13.25 ms, which is why None means 5 for transparent and 7 for stock firmware.
        beacon_slots_max: beacon slots of one frame, the base's included (recalled range 1 to 5).
        beacon_frequency: a switch next to the base beacons every 2**n frames, others half as often, all less often
            when slots run out (ours).
        frame_change_frames: notice of a change of the frame's structure (ours).

    Joining:
        search_s: listening for beacons when none is good enough at once (recalled range 16 to 32 s).
        search_base_beacons: beacons of the base at best quality that end the search early (ours).
        search_more_s: once the first search is over, wait this long for a better one after the first beacon (ours).
        join_snr_db: a beacon weaker than this is joined only when nothing else has come for long (ours).
        weak_search_s: that long (ours).
        weak_snr_db, stronger_db: a node whose switch is weaker than this goes to one that is so much above join_snr_db;
            one whose way hardly works to any that is not weaker than this (ours).
        weak_ear_db: the same for one that says that it hears us weaker than this (ours).
        ear_memory_s: what a switch has said of our signal counts so long when there is a choice of switches (ours).
        tree_weak_db: both for a switch with a tree below it, which is not moved for little (ours).
        weak_stay_s, weak_stay_s_max: but not sooner than this after it came; twice as long each time, up to the second,
            unless it has stayed for that long (ours).
        detour_s, detour_cost: a node looks so often for another way, and takes one that costs so much less, in units
            of UPCOST and DNCOST together (ours).
        hop_penalty: added to UPCOST and to DNCOST for each hop when ways are compared, as even the fastest hop takes
            two fifths of the airtime of the slowest, acknowledgement and repetitions included (ours; the criterion is
            not established).
        beacon_age_s_max: a beacon heard longer ago is no alternative when the switch is lost (ours).
        avoid_s: a switch that did not answer is not tried again for this long (ours); by who has a way and would only
            move, twice as long each time, up to ear_memory_s.
        control_repeat_s: until an unanswered control packet is repeated (recalled: 2 to 20 s, 15 s; 5 s is ours).
        register_repeat_s: the same for the first registration request, growing to that (ours).
        move_repeat_s: the same for a request to move to another switch while the old way is kept, growing to that; a
            hop's bursts are shorter (ours).
        move_repeats_max: such requests before that switch is given up (ours).
        control_repeats_max: repetitions before giving up (recalled: 3 to 5, 3; 4 is ours).
        tree_repeats_max: the same for giving a switch that has moved its number and slot again, as a tree hangs on it
            (ours).
        elsewhere_repeats_max: the same for a registration when another switch is heard well (ours).
        open_repeats_max: the same for opening the connection, ever less often; giving up costs the registration (ours).
        register_spread_s: random wait before a registration, doubled with each try, so that nodes that heard the same
            beacon spread (ours).
        late_spread_s: the same for nodes that have waited for a switch, as many may have waited for this one (ours).
        missed_beacons_max: expected beacons missed in a row before the switch is lost (recalled). Any other frame of
            the switch counts as well (ours).
        switch_silence_s_min: but never before this; a burst of noise takes several beacons of the base (ours).
        switch_patience: a node that is a switch itself waits this many times longer, for a tree hangs on it (ours).
        promotion_period_s, promotions_max: promotion-needed PDUs while nothing is heard (range published).
        promotion_backoff_max: the period grows to this many times itself while nobody answers (ours).

    Switches:
        promotion_wait_s: a terminal that hears a call for a switch waits at most this long before it asks, less the
            more nodes it hears (ours).
        promotion_quality_min: SNR index of a call below which it is ignored at first (ours).
        promotion_ignore_max: weak calls ignored before it asks all the same (recalled, MACMaxPRNIgnore).
        promotion_calls_first, trunk_ear_db: a terminal that hears its switch weaker than join_snr_db, or hears from it
            that it is heard weaker than this, calls so often for a better one before it asks (ours).
        promotion_hush_s: after somebody else asked or was promoted (ours).
        promotion_window_s: the base gathers requests this long before it chooses (ours).
        promotion_settle_s: a node that called is looked after this long before another switch is made for it (ours).
        switches_max: switches of a subnetwork (ours; 254 numbers).
        idle_switch_s: a switch nobody is registered through is demoted after this (ours).
        switch_hold_s: a switch that has lost its own place keeps what is below it together for this long, and any node
            its connection (ours); with 0 both end with the place.
        switch_doubt_s: a node whose switch says so looks for another one after this (ours).
        sid_rest_s: a switch number is not used again for this long (ours).
        switch_entry_s: a number below a switch is forgotten without traffic for this long (ours).

    Keep-alive:
        keep_alive_code: TIME code of small subnetworks; 2 is 128 s.
        keep_alive_steps: more nodes than the first number, and the code that they get (ours).

    Channel:
        transmit_attempts_max: channel accesses in a row before a frame rests (range published, 2 to 5).
        access_rounds_max: such rows before it is given up (ours; the specification gives up after one).
        access_margin_s: left free at the end of the contention period, for clocks (recalled: 3 symbols of guard;
            ours).
        beacon_lead_s: ahead of its slot a beacon is handed to the modem (firmware polls its port every 10 ms; ours).
        pipeline: hand the next frame over while one is on air, for an instant after it (ours).
        queue_max: frames waiting for the channel (ours).
        data_ahead: data packets handed to the queue before the channel takes them (ours).
        uplink_aggregation: let switches join our packets with others' in one PDU, once the base has confirmed packet
            aggregation at registration (CAP_PA; the rule is ours: captured nodes, which do not declare it, forbid it by
            NAD). Our own data may leave together all the same (ours).
        hop_repeats_max: repetitions of a packet whose relaying is not overheard (ours; the specification's switches
            that buffer ARQ are not established). With 0 a switch passes on every copy that comes to it for one
            neighbour, and says nothing of that.
        hop_signs: whether a switch that gets a packet again names it when it says so: two bytes behind a PRM
            acknowledgement, whose length is one byte elsewhere (ours).
        crowded_queue: with more frames waiting nothing is repeated (ours).
        hop_wait_s: for that relaying, at least; it follows what relays usually take (ours).
        hop_memory_s: a packet relayed within this time is not relayed again (ours).
        data_memory_s: the same for data to one hop: all its repetitions come within this (ours).

    Connections:
        window: packets we accept unacknowledged (captured: 16 at a base, 4 at a node; 31 is the field's most, ours).
        window_start: packets we send unacknowledged before the peer has said its window (recalled).
        retransmit_s_min: floor of the retransmission time over one hop; otherwise four round trips (not established;
            ours), of which no more than 30 s count (ours).
        retransmit_hop_s: added to it for each further hop, as hops repeat by themselves first (ours).
        transmissions_max: of one packet before its connection is closed (recalled 5; ours, for paths of several hops).
        flush_hold_s: an acknowledgement asked for at once waits this long for data to ride on (ours).
        acknowledge_hold_s: any other acknowledgement (recalled 7 s; ours, for request and answer).
        burst_s: a sender with much to send asks for an acknowledgement this often, and waits for it (ours).
        segment_bytes: longest piece of an SDU in one packet (ours; 64 to 128 for lossy lines).
        reassembly_s_max: an unfinished SDU is dropped after this (ours): longer than all repetitions of a segment take
            over several hops, as the segments before it are acknowledged and will not come again.
        sdus_max: SDUs waiting on one connection (ours).
        reopen_s_min, reopen_s_max: random wait after a rejected connection (ours).
        nodes_max: nodes a base registers (ours).
        groups_max: multicast groups (ours).
        broadcasts: times a broadcast or multicast is sent, as nobody acknowledges it (ours).
        broadcast_bytes_max: of one LPDU for many, which is sent in one piece (ours).
    """

    scheme: Scheme = Scheme.DBPSK_C
    schemes: tuple[Scheme, ...] = LADDER
    scheme_margin_db: float = 3.0
    scheme_hysteresis_db: float = 1.5
    robust_bytes: int = 24
    asymmetry_db: float = 8.0
    deliveries_to_rise: int = 3
    deliveries_to_rise_max: int = 64
    share_memory: int = 16
    losses_to_doubt: int = 8
    unanswered_max: int = 16
    share_min: float = 0.1
    weak_share_min: float = 0.3
    ema_smoothing: int = 3
    robustness_hold_s: float = 600.0
    robustness_interval_s: float = 120.0
    robustness_frames: int = 4

    beacon_slot_symbols: int | None = None
    beacon_slots_max: int = 5
    beacon_frequency: int = 2
    frame_change_frames: int = 8

    search_s: float = 24.0
    search_base_beacons: int = 3
    search_more_s: float = 6.0
    join_snr_db: float = 10.0
    weak_search_s: float = 60.0
    weak_snr_db: float = 7.0
    stronger_db: float = 2.0
    weak_ear_db: float = 8.0
    tree_weak_db: float = 5.0
    ear_memory_s: float = 1800.0
    weak_stay_s: float = 30.0
    weak_stay_s_max: float = 600.0
    detour_s: float = 60.0
    detour_cost: int = 10
    hop_penalty: int = 4
    beacon_age_s_max: float = 60.0
    avoid_s: float = 45.0
    control_repeat_s: float = 5.0
    register_repeat_s: float = 2.0
    move_repeat_s: float = 1.2
    move_repeats_max: int = 6
    control_repeats_max: int = 4
    tree_repeats_max: int = 12
    elsewhere_repeats_max: int = 3
    open_repeats_max: int = 8
    register_spread_s: float = 0.5
    late_spread_s: float = 6.0
    missed_beacons_max: int = 5
    switch_silence_s_min: float = 15.0
    switch_patience: float = 1.5
    promotion_period_s: float = 5.0
    promotions_max: int = 2
    promotion_backoff_max: float = 4.0

    promotion_wait_s: float = 4.0
    promotion_quality_min: int = 4
    promotion_ignore_max: int = 3
    promotion_calls_first: int = 3
    trunk_ear_db: float = 11.0
    promotion_hush_s: float = 8.0
    promotion_window_s: float = 1.5
    promotion_settle_s: float = 25.0
    switches_max: int = 64
    idle_switch_s: float = 600.0
    switch_hold_s: float = 120.0
    switch_doubt_s: float = 50.0
    sid_rest_s: float = 900.0
    switch_entry_s: float = 8192.0

    keep_alive_code: int = 2
    keep_alive_steps: tuple[tuple[int, int], ...] = ((20, 4), (60, 7))

    transmit_attempts_max: int = 5
    access_rounds_max: int = 4
    access_margin_s: float = 0.004
    beacon_lead_s: float = 0.08
    pipeline: bool = True
    queue_max: int = 64
    data_ahead: int = 2
    uplink_aggregation: bool = True
    hop_repeats_max: int = 5
    hop_signs: bool = True
    crowded_queue: int = 10
    hop_wait_s: float = 0.5
    hop_memory_s: float = 3.0
    data_memory_s: float = 16.0

    window: int = 31
    window_start: int = 4
    retransmit_s_min: float = 1.0
    retransmit_hop_s: float = 8.0
    transmissions_max: int = 12
    flush_hold_s: float = 0.05
    acknowledge_hold_s: float = 1.5
    burst_s: float = 2.0
    segment_bytes: int = 128
    reassembly_s_max: float = 900.0
    sdus_max: int = 32
    reopen_s_min: float = 10.0
    reopen_s_max: float = 60.0
    nodes_max: int = 2000
    groups_max: int = 32
    broadcasts: int = 2
    broadcast_bytes_max: int = 300

    def slot_symbols(self, *, stock: bool) -> int:
        """Length of a beacon slot [symbols] with this firmware."""
        return self.beacon_slot_symbols or (SLOT_SYMBOLS_MAX if stock else 5)
