"""Work spread over processes, its results the same for any number of them; progress, and an end that can be resumed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Final, TextIO

THREAD_VARIABLES: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Bits of a matrix product may depend on the threads behind it: every worker has one."""
TELL_S: Final = 0.5

_context: Any = None


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work: its name (equal names are done once), a module-level function and its arguments.

    The function is called with what `Workers` was given to build and the arguments.
    """

    name: Hashable
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Workers:
    """A pool of processes that each build the same context once. `count` 0 does everything in this process."""

    def __init__(self, count: int, build: Callable[[Any], Any], payload: Any) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._own: Any = None
        self.count = max(count, 1)
        if count == 0:
            self._own = build(payload)
            return
        for name in THREAD_VARIABLES:
            os.environ[name] = "1"
        self._pool = ProcessPoolExecutor(count, get_context("spawn"), _begin, (build, payload))

    def submit(self, task: Task) -> Future[Any]:
        """The task's result, now or later."""
        if self._pool is not None:
            return self._pool.submit(_do, task)
        future: Future[Any] = Future()
        future.set_result(task.function(self._own, *task.arguments))
        return future

    def close(self) -> None:
        """Let go of the processes; what waits is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _begin(build: Callable[[Any], Any], payload: Any) -> None:
    global _context  # noqa: PLW0603 one context for each worker process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _context = build(payload)


def _do(task: Task) -> Any:
    return task.function(_context, *task.arguments)


Driver = Generator[list[Task], list[Any], Any]
"""Asks for tasks, gets their results in the same order, returns its own result."""


def drive(workers: Workers, drivers: dict[str, Driver]) -> dict[str, Any]:
    """Run drivers side by side until each has returned; equal tasks are done once."""
    known: dict[Hashable, Future[Any]] = {}
    waiting: dict[str, list[Future[Any]]] = {}
    done: dict[str, Any] = {}

    def step(name: str, results: list[Any] | None) -> None:
        try:
            tasks = drivers[name].send(results) if results is not None else next(drivers[name])
        except StopIteration as end:
            done[name] = end.value
            waiting.pop(name, None)
            return
        for task in tasks:
            if task.name not in known:
                known[task.name] = workers.submit(task)
        waiting[name] = [known[task.name] for task in tasks]

    for name in drivers:
        step(name, None)
    while waiting:
        ready = [name for name, futures in waiting.items() if all(f.done() for f in futures)]
        if not ready:
            wait([f for futures in waiting.values() for f in futures if not f.done()], return_when=FIRST_COMPLETED)
            continue
        for name in ready:
            step(name, [f.result() for f in waiting[name]])
    return {name: done[name] for name in drivers}


class Progress:
    """One line that says where a study stands; on a terminal it is renewed, elsewhere nothing is written."""

    def __init__(self, out: TextIO | None = None, *, silent: bool = False) -> None:
        self._out = out or sys.stderr
        self.live = not silent and self._out.isatty()
        self._began = time.monotonic()
        self._told = 0.0
        self.states = 0

    def add(self, states: int, text: str, share: float | None) -> None:
        """So many states more; `share` of the whole that is done, where that can be said."""
        self.states += states
        now = time.monotonic()
        if not self.live or now - self._told < TELL_S:
            return
        self._told = now
        spent = max(now - self._began, 1e-9)
        left = f", about {spent * (1 - share) / share:.0f} s left" if share else ""
        self._out.write(f"\r\x1b[K{text}: {self.states:,} states, {self.states / spent:,.0f} states/s{left}")
        self._out.flush()

    def end(self) -> None:
        """Leave the line."""
        if self.live and self._told:
            self._out.write("\r\x1b[K")
            self._out.flush()
