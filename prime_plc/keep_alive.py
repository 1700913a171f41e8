"""A service node's side of keep-alive: how long the base may be silent, and the answer to its question."""

from __future__ import annotations

from prime_plc.control import TIME_S, Alv
from prime_plc.settings import MacSettings


class KeepAlive:
    """Part of a service node.

    Attributes:
        by_s: when the registration ends without a word of the base [s]; None while there is no registration.
        period_s: the time it may be silent [s].
    """

    def __init__(self, settings: MacSettings) -> None:
        self._settings = settings
        self.end()

    def end(self) -> None:
        """No registration any more."""
        self.by_s: float | None = None
        self.period_s = float(TIME_S[self._settings.keep_alive_code])
        self._received = 0
        self._sent = 0

    def begin(self, code: int, now: float) -> None:
        """Registered, with this code of the TIME table."""
        self.period_s = float(TIME_S[code])
        self.by_s = now + self.period_s

    def heard(self, now: float) -> None:
        """A packet for us alone came: the base knows us."""
        if self.by_s is not None:
            self.by_s = now + self.period_s

    def answer(self, alv: Alv, ssid: int, now: float) -> Alv:
        """The answer to a question, with both ends' counters modulo 8."""
        self.begin(alv.time, now)
        self._received = (self._received + 1) % 8
        answer = Alv(self._received, self._sent, alv.time, ssid)
        self._sent = (self._sent + 1) % 8
        return answer
