"""The page in a real browser: accessible in light, dark and on a phone; receipts verify in it; names are only text."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dcu.web.app import Page
from dcu.web.tests.chromium import FLAGS
from dcu.web.tests.world import TOKEN, World, served, snapshot, write_ledger

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not CHROMIUM or not CHROMEDRIVER:
    pytest.skip("chromium and chromedriver are not installed (requirements/system.sh)", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver")

from axe_core_python.selenium import Axe  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
VIEWS = ("street", "customers", "decisions", "line", "quality", "ledger")
WAIT_S = 10.0
EVIL = '<img src=x onerror="window.evil=1">'
FoundT = TypeVar("FoundT")


class Browser:
    """A browser on a page that knows a street."""

    def __init__(self, driver: Any, address: str, page: Page, world: World) -> None:
        self.driver, self.address, self.page, self.world = driver, address, page, world

    def until(self, ready: Callable[[Any], FoundT]) -> FoundT:
        found: FoundT = WebDriverWait(self.driver, WAIT_S, poll_frequency=0.05).until(ready)
        return found

    def look_like(self, *, dark: bool, width: int) -> None:
        height, mobile = 900, width < 500
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def view(self, name: str) -> None:
        self.driver.get(f"{self.address}/#/{name}")
        self.until(lambda driver: driver.find_element(By.ID, name).is_displayed())
        self.until(lambda driver: driver.find_element(By.ID, "state-words").text == "live")

    def text(self, selector: str) -> str:
        return str(self.driver.find_element(By.CSS_SELECTOR, selector).text)

    def log(self) -> list[str]:
        """Complaints in the console since the last time."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] in {"SEVERE", "WARNING"}]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    directory = tmp_path_factory.mktemp("ledger")
    write_ledger(directory).close()
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    world = World()
    with served(world, directory) as (address, page):
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
        try:
            made = Browser(driver, address, page, world)
            driver.get(f"{address}/login#{page.entry.link()}")
            made.until(lambda driver: driver.current_url.rstrip("/") == address)
            yield made
        finally:
            driver.quit()


@pytest.fixture(autouse=True)
def quiet(browser: Browser) -> Iterator[None]:
    """No test leaves a complaint in the console, and each begins with the usual street."""
    browser.world.told = snapshot()
    browser.look_like(dark=False, width=1280)
    browser.log()
    yield
    assert browser.log() == []


def violations(browser: Browser) -> list[str]:
    found = Axe().run(browser.driver)["violations"]
    return [f"{one['id']}: {one['help']} {[node['target'] for node in one['nodes']]}" for one in found]


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 1280), (False, 390)])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_accessible_and_fits(browser: Browser, view: str, dark: bool, width: int) -> None:
    """axe finds nothing, in light and dark, on a desk and on a phone; nothing sticks out at the side."""
    browser.look_like(dark=dark, width=width)
    browser.view(view)
    assert violations(browser) == []
    assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width
    ends = "return [...document.querySelectorAll('nav a')].map(link => link.getBoundingClientRect().right)"
    assert max(browser.driver.execute_script(ends)) <= width, "every view can be seen and chosen without scrolling"


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 390)])
def test_the_way_in_is_accessible(browser: Browser, dark: bool, width: int) -> None:
    """The form, and what it says to a wrong token."""
    browser.look_like(dark=dark, width=width)
    browser.driver.get(f"{browser.address}/login?wrong")
    assert violations(browser) == []
    assert "not the token" in browser.text("#said")


def test_the_street_says_what_is(browser: Browser) -> None:
    """Voltages, limits and reasons with their units, in words."""
    browser.view("street")
    browser.until(lambda driver: "meter-1" in driver.find_element(By.ID, "detail").text or True)
    figures = browser.text("#figures")
    assert "242.0 V" in figures
    assert "BEYOND" in figures
    detail = browser.text("#customer")
    assert "the voltage at meter-2 L2 would rise too high" in detail
    assert "kW" in detail
    assert "voltage above 241.5 V" in browser.text("#alarms")
    assert "2.00 kW of 2.40 kW asked" in browser.text("#latest")


def test_the_keyboard_is_enough(browser: Browser) -> None:
    """From the diagram with arrow keys to the next customer."""
    browser.view("street")
    houses = browser.until(lambda driver: driver.find_element(By.CSS_SELECTOR, "#diagram [role=listbox]"))
    browser.driver.execute_script("arguments[0].focus()", houses)
    browser.driver.switch_to.active_element.send_keys(Keys.HOME)
    browser.until(lambda _: browser.text("#h-customer") == "meter-1")
    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    browser.until(lambda _: browser.text("#h-customer") == "meter-2")
    assert houses.get_attribute("aria-activedescendant") == "house-meter-2"


def test_a_name_is_never_markup(browser: Browser) -> None:
    """A meter called like an attack is called that, on every view, and nothing of it runs."""
    told = snapshot((EVIL, "meter-2"))
    told["news"][1] |= {"meter": EVIL, "binding": EVIL}
    browser.world.told = told
    browser.view("street")
    browser.until(lambda _: EVIL in browser.text("#alarms") or EVIL in browser.text("#pick"))
    for view in VIEWS:
        browser.view(view)
        assert browser.driver.find_elements(By.CSS_SELECTOR, "img[src=x]") == []
    assert browser.driver.execute_script("return window.evil") is None


def test_a_silent_dcu_is_said_to_be_silent(browser: Browser) -> None:
    """What is shown is called old; alarms say it; and back again."""
    browser.view("street")
    browser.world.told = ConnectionRefusedError(111, "Connection refused")
    browser.world.now += 60.0
    browser.until(lambda _: browser.text("#state-words") == "DCU does not answer")
    assert "What you see is from" in browser.text("#notice")
    assert violations(browser) == []
    browser.world.told = snapshot()
    browser.until(lambda _: browser.text("#state-words") == "live")


def fetch(browser: Browser, position: int) -> None:
    browser.view("ledger")
    browser.until(lambda driver: driver.find_element(By.ID, "keys").get_attribute("value"))
    field = browser.driver.find_element(By.ID, "position")
    field.clear()
    field.send_keys(str(position), Keys.ENTER)
    browser.until(lambda _: browser.text("#verdict") != "")


def test_a_receipt_verifies_in_the_browser(browser: Browser) -> None:
    """Inclusion proof and signature, by this browser's own cryptography."""
    fetch(browser, 1)
    verdict = browser.text("#verdict")
    assert verdict.startswith("It verifies")
    assert "right (Ed25519)" in verdict
    assert "seal" in verdict
    assert violations(browser) == []


def spoil_entry(text: str) -> str:
    """Another limit, in the entry itself."""
    import base64  # noqa: PLC0415

    lines = text.split("\n")
    extra = base64.b64decode(lines[1][6:])
    assert b"2000" in extra or b"1200" in extra
    lines[1] = "extra " + base64.b64encode(extra.replace(b"2000", b"9000").replace(b"1200", b"9200")).decode()
    return "\n".join(lines)


def flip(line_of: Callable[[list[str]], int]) -> Callable[[str], str]:
    def spoil(text: str) -> str:
        lines = text.split("\n")
        at = line_of(lines)
        middle = len(lines[at]) // 2
        other = "A" if lines[at][middle] != "A" else "B"
        lines[at] = lines[at][:middle] + other + lines[at][middle + 1 :]
        return "\n".join(lines)

    return spoil


TAMPERED: dict[str, Callable[[str], str]] = {
    "the entry": spoil_entry,
    "the index": lambda text: text.replace("index 1\n", "index 2\n"),
    "a hash of the path": flip(lambda lines: 3),
    "the root of the head": flip(lambda lines: len(lines) - 4),
    "the size of the head": lambda text: text.replace("\n3\n", "\n4\n"),
    "the signature": flip(lambda lines: len(lines) - 2),
    "no signature": lambda text: text[: text.rindex("\u2014")],
    "nonsense": lambda text: "nonsense",
    "nothing": lambda text: "",
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_receipt_does_not_verify(browser: Browser, what: str) -> None:
    """One thing changed, whichever."""
    fetch(browser, 1)
    good = str(browser.driver.find_element(By.ID, "receipt").get_attribute("value"))
    bad = TAMPERED[what](good)
    assert bad != good
    box = "const box = document.getElementById('receipt');"
    put = f"{box} box.value = arguments[0]; box.dispatchEvent(new Event('input'))"
    browser.driver.execute_script(put, bad)
    assert browser.text("#verdict") == ""
    browser.driver.find_element(By.ID, "verify").click()
    browser.until(lambda _: browser.text("#verdict") != "")
    assert browser.text("#verdict").startswith("It does NOT verify")


def test_a_receipt_under_a_key_that_is_not_trusted_does_not_verify(browser: Browser) -> None:
    """The server may hand out a receipt and a key that fit each other; a key from paper tells."""
    fetch(browser, 1)
    other = "headroom/dcu-1+0e85ec17+Aab0ZeFrzrJgyG5lC3s33ZEmB1KRDnLk9G05yyt32o0C"
    browser.driver.execute_script("document.getElementById('keys').value = arguments[0]", other)
    browser.driver.execute_script("document.getElementById('verdict').replaceChildren()")
    browser.driver.find_element(By.ID, "verify").click()
    browser.until(lambda _: browser.text("#verdict") != "")
    assert browser.text("#verdict").startswith("It does NOT verify")
    browser.driver.refresh()


def test_nothing_comes_from_elsewhere(browser: Browser) -> None:
    """Every resource the page loads is its own."""
    browser.view("street")
    names = browser.driver.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert names
    assert all(name.startswith(browser.address) for name in names)


def test_customers_can_be_sorted_and_filtered(browser: Browser) -> None:
    """By voltage, highest first; only who has a grant."""
    browser.view("customers")
    heading = browser.driver.find_element(By.XPATH, "//th/button[text()='Voltage [V]']")
    for _ in range(2):
        heading.click()
    rows = [row.text for row in browser.driver.find_elements(By.CSS_SELECTOR, "#customer-table tbody th")]
    assert rows == ["meter-3", "meter-2", "meter-1"]
    Select(browser.driver.find_element(By.ID, "which")).select_by_value("granted")
    rows = [row.text for row in browser.driver.find_elements(By.CSS_SELECTOR, "#customer-table tbody th")]
    assert rows == ["meter-1"]
    Select(browser.driver.find_element(By.ID, "which")).select_by_value("all")


def test_logging_out_ends_it(browser: Browser, tmp_path: Path) -> None:
    """The last test of this browser's session; another one begins with the token typed in."""
    browser.view("street")
    browser.driver.find_element(By.CSS_SELECTOR, "form[action='/logout'] button").click()
    browser.until(lambda driver: driver.current_url.endswith("/login"))
    browser.driver.get(f"{browser.address}/")
    assert browser.driver.current_url.endswith("/login")
    browser.driver.find_element(By.ID, "token").send_keys(TOKEN, Keys.ENTER)
    browser.until(lambda driver: driver.current_url.rstrip("/") == browser.address)
    browser.view("street")


def test_a_day_comes_from_the_store_or_is_said_to_be_missing(browser: Browser) -> None:
    """Here there is no store; the curves stay where they are, and back."""
    browser.view("street")
    day = browser.until(lambda driver: driver.find_element(By.XPATH, "//button[text()='24 h']"))
    day.click()
    browser.until(lambda _: "has no readings" in browser.text("#detail"))
    assert day.get_attribute("aria-pressed") == "true"
    assert violations(browser) == []
    browser.driver.find_element(By.XPATH, "//button[text()='15 min']").click()
    browser.until(lambda _: "has no readings" not in browser.text("#detail"))
