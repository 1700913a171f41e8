"""What the operator's page costs: the DCU, its own process, and a browser that shows 55 meters once a second.

A street of cores on the European feeder plays in this process in wall-clock time, and its DCU's page socket is served
from the loop that decides. Three conditions, in turn and several rounds of them, as the street's work and the machine's
change in the meantime: nobody asks; a page without viewers; a page with ten viewers. Then a browser (headless Chromium,
software rendering) looks at it alone: first paint, and the processor time of all its processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any, Final

from dcu.web.tests.chromium import FLAGS
from hil_tests.live_street import Lag, LiveSettings, LiveStreet
from hil_tests.page import PageProcess, start_page

VIEWERS: Final = 10
PAINTS: Final = 7
WARM_S: Final = 5.0
VIEWER: Final = """
import asyncio, sys
async def look(port, token):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = ("GET /api/stream HTTP/1.1", "host: 127.0.0.1", f"authorization: Bearer {token}", "", "")
    writer.write("\\r\\n".join(lines).encode())
    while await reader.read(65536):
        pass
async def main():
    await asyncio.gather(*(look(int(sys.argv[1]), sys.argv[2]) for _ in range(int(sys.argv[3]))))
asyncio.run(main())
"""
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--rounds", type=int, default=5, help="of the three conditions (default 5)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each condition in each round (default 60)")
    parser.add_argument("--browser-seconds", type=float, default=60.0, help="of each view (default 60)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hr-web-") as directory:
        found = asyncio.run(measure(Path(directory), options))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "web.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


async def measure(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    street = LiveStreet(LiveSettings(), directory, directory / "page.sock")
    playing = asyncio.create_task(street.run())
    while not street.lag.late_s:  # noqa: ASYNC110  # it warms up in one go
        await asyncio.sleep(0.2)
    without, no_viewer, ten_viewers = (Condition(options.seconds) for _ in range(3))
    for _ in range(options.rounds):
        await without.watch(street, None)
        page = await start_page(directory, street.socket, street.ledger, street.network_file)
        await no_viewer.watch(street, page)
        viewers = await asyncio.create_subprocess_exec(
            sys.executable, "-c", VIEWER, page.address.rstrip("/").rpartition(":")[2], page.token, str(VIEWERS)
        )
        await ten_viewers.watch(street, page)
        viewers.terminate()
        await viewers.wait()
        await page.stop()
    page = await start_page(directory, street.socket, street.ledger, street.network_file)
    found: dict[str, Any] = {
        "meters": 55,
        "without_page": without.told(),
        "page_no_viewer": no_viewer.told(),
        "page_ten_viewers": ten_viewers.told(),
        "browser": await asyncio.to_thread(browse, page, options.browser_seconds),
    }
    found["web_rss_mib"], found["web_rss_mib_max"] = resident_mib(page.process.pid)
    playing.cancel()
    await page.stop()
    return found


class Condition:
    """What the DCU's process, and the page's, did in several whiles of one kind."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._lags: list[Lag] = []
        self._cpu_s = self._web_s = 0.0

    async def watch(self, street: LiveStreet, page: PageProcess | None) -> None:
        """A while of it, once things are warm."""
        await asyncio.sleep(WARM_S)
        lag = street.lag = Lag()
        cpu_s, web_s = time.process_time(), process_s(page.process.pid) if page else 0.0
        await asyncio.sleep(self._span_s)
        self._cpu_s += time.process_time() - cpu_s
        self._web_s += process_s(page.process.pid) - web_s if page else 0.0
        self._lags.append(lag)

    def told(self) -> dict[str, Any]:
        """Of all of them together, and the 99th percentile of each."""
        lags, span_s = self._lags, self._span_s * len(self._lags)
        every = Lag(
            *(list(chain(*values)) for values in zip(*((x.step_s, x.cpu_s, x.late_s) for x in lags), strict=True))
        )
        return {
            "steps": len(every.step_s),
            "median_ms": every.below_ms(0.5),
            "p99_ms": every.below_ms(0.99),
            "p99_ms_by_round": [lag.below_ms(0.99) for lag in lags],
            "process_cpu_share": round(self._cpu_s / span_s, 4),
            "web_cpu_share": round(self._web_s / span_s, 4),
        }


def browse(page: PageProcess, view_s: float) -> dict[str, Any]:
    """First paint of the page itself, and the processor time of all the browser's processes while it is shown."""
    chromium, driver_file = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver_file:
        return {"skipped": "no chromium (requirements/system.sh)"}
    from selenium import webdriver  # noqa: PLC0415

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory(prefix="hr-chromium-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1280,1000"):
            options.add_argument(flag)
        service = webdriver.ChromeService(driver_file)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            return _browse(driver, service.process.pid, page, view_s)
        finally:
            driver.quit()


def _browse(driver: Any, root: int, page: PageProcess, view_s: float) -> dict[str, Any]:
    driver.get(page.link)
    time.sleep(2.0)
    paints, shown = [], []
    for _ in range(PAINTS):
        driver.get("about:blank")
        driver.get(page.address)
        time.sleep(1.5)
        script = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
        paints.append(float(driver.execute_script(script)))
        script = "return performance.getEntriesByType('resource').map((one) => one.responseEnd)"
        shown.append(max(float(end) for end in driver.execute_script(script)))
    found: dict[str, Any] = {
        "first_paint_ms_median": round(statistics.median(paints)),
        "first_paint_ms_max": round(max(paints)),
        "last_resource_ms_median": round(statistics.median(shown)),
    }
    for view in ("street", "customers"):
        driver.get(f"{page.address}#/{view}")
        time.sleep(WARM_S)
        before = tree_s(root)
        time.sleep(view_s)
        found[f"cpu_share_{view}"] = round((tree_s(root) - before) / view_s, 4)
    found["console"] = [line["message"] for line in driver.get_log("browser") if line["level"] == "SEVERE"]
    return found


def process_s(pid: int) -> float:
    """Processor time of a process so far [s]."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def tree_s(root: int) -> float:
    """The same of a process and all below it that live; those that ended count with their parents."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="ascii", errors="replace").rpartition(") ")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    below, found = {root}, 0.0
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    for pid in below - {root}:
        try:
            found += process_s(pid)
        except OSError:
            continue
    return found


def resident_mib(pid: int) -> tuple[float, float]:
    """Resident memory of a process now and at most [MiB]."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    kib = {name: int(line.split()[1]) for line in lines for name in ("VmRSS", "VmHWM") if line.startswith(name)}
    return round(kib["VmRSS"] / 1024, 1), round(kib["VmHWM"] / 1024, 1)


if __name__ == "__main__":
    main()
