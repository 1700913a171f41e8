"""The operator's page as a person sees it: headless Chromium before the page's own process, beside real daemons."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcu.web.tests.chromium import FLAGS
from hil_tests.page import PageProcess
from hil_tests.player import Ear
from hil_tests.scenario import load_scenario
from hil_tests.wall import WallStreet
from hil_tests.world import DCU

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not CHROMIUM or not CHROMEDRIVER:
    pytest.skip("chromium and chromedriver are not installed (requirements/system.sh)", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver")

from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

WAIT_S = 60.0
"""[s] Seven processes begin on a busy machine."""


class Screen:
    """What stands on the page; its calls wait in a thread, so that the street goes on."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1280,1000"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))

    def text(self, selector: str) -> str:
        return str(self.driver.find_element(By.CSS_SELECTOR, selector).text)

    def enter(self, page: PageProcess) -> None:
        self.driver.get(page.link)
        self.until(lambda: self.text("#state-words") == "live")

    def until(self, true: Callable[[], Any]) -> None:
        wait = WebDriverWait(self.driver, WAIT_S, ignored_exceptions=[StaleElementReferenceException])
        wait.until(lambda _: true())

    def complaints(self) -> list[str]:
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]


@pytest.mark.street
@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_person_sees_a_grant_and_a_dcu_that_dies_and_comes_back(tmp_path: Path) -> None:
    """DCU, meters and page as processes. The street is live; a household asks, and the grant stands there with its
    customer; the DCU is killed, and the page says so instead of showing what was; it comes back, and is live again."""
    pages: list[PageProcess] = []
    ear = Ear(asyncio.get_running_loop())
    (tmp_path / "street").mkdir()
    scenario = load_scenario("granted")
    street = WallStreet(scenario, ear, tmp_path / "street", 1, on_page=pages.append)
    screen: Screen | None = None
    try:
        await street.start()
        async with asyncio.timeout(WAIT_S):
            while not await street.ready():  # noqa: ASYNC110  # asks other processes
                await asyncio.sleep(0.2)
        screen = await asyncio.to_thread(Screen, tmp_path / "profile")
        await asyncio.to_thread(screen.enter, pages[0])
        await asyncio.to_thread(screen.until, lambda: "client2" in screen.text("#detail") + screen.text("#diagram"))
        await street.ask("client1", scenario.site.contract_limit_w)
        await asyncio.to_thread(screen.until, lambda: "2.40 kW" in screen.text("#latest"))
        assert "client1" in await asyncio.to_thread(screen.text, "#latest")
        await street.kill(DCU)
        await asyncio.to_thread(screen.until, lambda: screen.text("#state-words") != "live")
        await street.launch(DCU)
        await asyncio.to_thread(screen.until, lambda: screen.text("#state-words") == "live")
        assert await asyncio.to_thread(screen.complaints) == []
    finally:
        if screen is not None:
            await asyncio.to_thread(screen.driver.quit)
        await street.stop()
