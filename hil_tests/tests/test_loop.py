"""The loop whose time jumps."""

from __future__ import annotations

import asyncio
import time

import pytest

from hil_tests.virtual.loop import DeadlockError, run_virtual


def test_a_day_passes_in_a_moment() -> None:
    """Sleeping a day costs no time and arrives at the second."""

    async def main() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    started = time.perf_counter()
    assert run_virtual(main) == pytest.approx(86_400)
    assert time.perf_counter() - started < 5


def test_timers_fire_in_the_order_of_their_time() -> None:
    """Two sleepers and a timeout interleave exactly as their seconds say."""

    async def main() -> list[str]:
        seen: list[str] = []

        async def sleeper(name: str, period_s: float) -> None:
            for _ in range(3):
                await asyncio.sleep(period_s)
                seen.append(name)

        try:
            async with asyncio.timeout(2.5):
                await asyncio.gather(sleeper("a", 1.0), sleeper("b", 0.9))
        except TimeoutError:
            seen.append("timeout")
        return seen

    assert run_virtual(main) == ["b", "a", "b", "a", "timeout"]


@pytest.mark.parametrize("strangers", range(8))
def test_timers_of_one_instant_fire_in_the_order_in_which_they_were_armed(strangers: int) -> None:
    """However many timers of others lie in the heap, armed before, between and after, cancelled or not."""

    async def main() -> list[int]:
        loop, seen = asyncio.get_running_loop(), list[int]()
        for number in range(20):
            for other in range(strangers):
                stranger = loop.call_at(0.5 + 0.1 * ((number + other) % 10), lambda: None)
                if (number + other) % 3 == 0:
                    stranger.cancel()
            loop.call_at(1.0, seen.append, number)
        await asyncio.sleep(2.0)
        return seen

    assert run_virtual(main) == list(range(20))


def test_a_world_that_cannot_go_on_says_so() -> None:
    """Waiting for what nobody will ever do is an error, not a hang."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="nothing is scheduled"):
        run_virtual(main)


def test_threads_are_refused() -> None:
    """Work outside the loop would stop the clock; asking for it fails at once."""

    async def main() -> None:
        await asyncio.to_thread(lambda: None)

    with pytest.raises(AssertionError, match="virtual time"):
        run_virtual(main)
