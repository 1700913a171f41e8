"""Whether a node should hang on another switch than the one it has, and on which.

A switch that is silent, that has no way to the base, that is hardly heard or hardly hears us is left; for less a tree
is not moved. Where to is chosen from the beacons heard (`search.py`), never from our own tree, nor from another
subnetwork while there is a way in ours: a neighbouring street's base may be near.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from prime_plc.following import Following
from prime_plc.links import PARENT
from prime_plc.search import BeaconsHeard, Heard
from prime_plc.settings import MacSettings
from prime_plc.switching import Switching
from prime_plc.transmitter import Transmitter
from prime_plc.uplink import Uplink

LEVEL_MAX: Final = 63
DEAF_DB: Final = 0.0
"""[dB] What a switch hears of us at best that takes nothing of what we send."""

DEEPER_MAX: Final = 1
"""Levels that a switch may hang deeper with its tree than it ever did, for the sake of a better way: each costs whoever
is below a hop, and small steps would make a chain of the tree."""

OWN_TREE_AVOID_S: Final = 120.0
"""[s] Switches below us go on beaconing for a while after we have lost the network; they lead nowhere."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The present switch is to be left: for another one, or to look for any."""

    reason: str
    to: Heard | None


class Leaving:
    """Part of a service node, asked when something may have changed."""

    def __init__(
        self,
        settings: MacSettings,
        transmitter: Transmitter,
        uplink: Uplink,
        following: Following,
        switching: Switching,
        beacons: BeaconsHeard,
    ) -> None:
        self._settings = settings
        self._transmitter = transmitter
        self._uplink = uplink
        self._following = following
        self._switching = switching
        self._beacons = beacons
        self._look_s = 0.0

    @property
    def _own_tree(self) -> set[int]:
        """Numbers of switches that are nowhere else to go to: the one above, ourselves, and those below us."""
        own = set() if self._switching.lsid is None else {self._switching.lsid}
        return {self._uplink.sid, *own, *self._switching.table.entries}

    @property
    def _level_max(self) -> int:
        """Of another switch to go to: one that has a tree of its own goes little deeper, for its tree does too."""
        return LEVEL_MAX if self._switching.lsid is None else self._switching.least_level - 1 + DEEPER_MAX

    @property
    def _better_level_max(self) -> int:
        """Of one to go to although we have one: never much deeper."""
        return min(self._level_max, self._uplink.level + DEEPER_MAX)

    def elsewhere(self, now: float) -> Heard | None:
        """The best other switch, of whatever subnetwork."""
        return self._beacons.best(now, self._settings.join_snr_db, self._own_tree)

    def avoid_tree(self, now: float) -> None:
        """We have lost the network, and whoever is below us with us."""
        for sid in self._own_tree - {self._uplink.sid}:
            self._beacons.avoid(self._uplink.sna, sid, now + OWN_TREE_AVOID_S)

    def silence(self, now: float) -> Leave | None:
        """The switch above is silent, or says that it has no way to the base; for want of another one its word is
        waited for."""
        sna, sid = self._uplink.sna, self._uplink.sid
        other = self._beacons.best(now, self._settings.join_snr_db, self._own_tree, sna)
        reason = "beacons missed" if self._following.doubted_s is None else "the switch has lost the network"
        if self._following.silent(now):
            reason = "no beacon for too long"
            self._beacons.forget(sna, sid)
        elif other is None or other.beacon.level > self._level_max:
            self._following.wait(now)
            return None
        self._beacons.avoid(sna, sid, now + self._settings.avoid_s)
        return Leave(reason, other)

    def weakness(self, now: float) -> Leave | None:
        """The switch above is weak, and another one clearly better."""
        if not self._following.weak(now):
            return None
        hardly = self._following.hardly(now)
        other = self._beacons.stronger(now, self._uplink.sna, self._own_tree, self._better_level_max)
        if other is None and hardly:
            other = self._beacons.stronger(now, self._uplink.sna, self._own_tree, self._level_max)
            other = other or self._beacons.bearable(now, self._uplink.sna, self._own_tree, self._level_max)
        if other is None or not (hardly or self._beacons.cost(other)[0] < self._cost):
            return None
        return Leave("a better switch is heard", other)

    @property
    def _cost(self) -> float:
        """Of the present way, as other ways are compared (`BeaconsHeard.cost`)."""
        parent = self._following.parent
        if parent is None:
            return math.inf
        hop = self._transmitter.links.hop_cost(PARENT) + self._settings.hop_penalty * parent.level
        return parent.up_cost + parent.down_cost + 2 * hop

    def detour(self, now: float) -> Leave | None:
        """The way over the switch above is much longer than over another one."""
        if now < self._look_s or now < self._following.since_s + self._settings.detour_s:
            return None
        self._look_s = now + self._settings.detour_s
        cost_max = self._cost - self._settings.detour_cost
        other = self._beacons.shorter(now, self._uplink.sna, self._own_tree, self._uplink.level - 1, cost_max)
        return None if other is None else Leave("a shorter way is heard", other)

    def takes_nothing(self, now: float) -> bool:
        """Whether the switch above takes hardly anything of what we send; said once for what is known."""
        if not self._transmitter.links.deaf(PARENT):
            return False
        until_s = now + self._settings.ear_memory_s
        self._beacons.ear(self._uplink.sna, self._uplink.sid, DEAF_DB, until_s)
        return True

    def deafness(self, now: float) -> Leave | None:
        """The switch above hears us too badly: another one that is not below us, if there is one."""
        other = self._beacons.other_ear(now, self._uplink.sna, self._own_tree, self._better_level_max)
        if other is None:
            other = self._beacons.other_ear(now, self._uplink.sna, self._own_tree, self._level_max)
        return None if other is None else Leave("the switch hardly hears us", other)
