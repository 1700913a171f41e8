"""The data as JSON, documented; and nothing for those who may not look."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dcu.ledger.note import Verifier
from dcu.ledger.policy import Policy
from dcu.ledger.receipt import check_receipt
from dcu.web import models
from dcu.web.app import Page, make_app
from dcu.web.entry import COOKIE
from dcu.web.guard import OPEN
from dcu.web.page import LOOPBACK_NAMES
from dcu.web.tests.world import TOKEN, World, make_page, write_ledger

BEARER = {"authorization": f"Bearer {TOKEN}"}
PATHS: dict[str, type[models.Answer]] = {
    "/api/street": models.Street,
    "/api/feeder": models.Feeder,
    "/api/traces": models.Traces,
    "/api/traces?meter=meter-1": models.Traces,
    "/api/line": models.Line,
    "/api/quality": models.Qualities,
    "/api/ledger": models.Ledger,
}


@pytest.fixture
async def page(tmp_path: Path) -> Page:
    ledger = write_ledger(tmp_path)
    ledger.close()
    made, _ = make_page(World(), tmp_path)
    await made.feed.look()
    return made


@pytest.fixture
async def client(page: Page) -> AsyncIterator[httpx.AsyncClient]:
    app: Any = make_app(page, LOOPBACK_NAMES, secure=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as asking:
        yield asking


@pytest.mark.parametrize("path", PATHS)
async def test_each_answer_is_what_the_documentation_says(path: str, client: httpx.AsyncClient) -> None:
    """Every field, and no other."""
    answer = await client.get(path, headers=BEARER)
    assert answer.status_code == 200
    PATHS[path].model_validate(answer.json())
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_decisions_can_be_asked_for_by_customer(client: httpx.AsyncClient) -> None:
    """All, or one customer's."""
    everything = (await client.get("/api/decisions", headers=BEARER)).json()
    assert [models.Decision.model_validate(row).kind for row in everything] == ["start", "grant", "denial"]
    one = (await client.get("/api/decisions?meter=meter-2", headers=BEARER)).json()
    assert [row["headline"] for row in one] == ["Denied"]
    assert (await client.get("/api/decisions?count=0", headers=BEARER)).status_code == 422


async def test_the_documentation_covers_every_path(client: httpx.AsyncClient) -> None:
    """OpenAPI names what is answered, and only reading."""
    told = (await client.get("/api/openapi.json", headers=BEARER)).json()
    assert {path.partition("?")[0] for path in PATHS} <= set(told["paths"])
    assert {method for path in told["paths"].values() for method in path} == {"get"}
    assert "description" in told["components"]["schemas"]["Customer"]["properties"]["headroom_w"]


async def test_the_documentation_says_how_one_is_let_in_and_what_comes(client: httpx.AsyncClient) -> None:
    """Token or session on every path, which refuse with 401; each answer has the type that is documented."""
    told = (await client.get("/api/openapi.json", headers=BEARER)).json()
    schemes = {(scheme["type"], scheme.get("in")) for scheme in told["components"]["securitySchemes"].values()}
    assert schemes == {("http", None), ("apiKey", "cookie")}
    for path, methods in told["paths"].items():
        assert len(methods["get"]["security"]) == 2, path
        assert "401" in methods["get"]["responses"], path
        if path == "/api/stream":
            assert list(methods["get"]["responses"]["200"]["content"]) == ["text/event-stream"]
            continue
        asked = path.replace("{position}", "0") + ("?meter=meter-1" if path == "/api/readings" else "")
        answer = await client.get(asked, headers=BEARER)
        assert list(methods["get"]["responses"]["200"]["content"]) == [answer.headers["content-type"].partition(";")[0]]


async def test_a_receipt_verifies_with_the_ledger_s_own_command(client: httpx.AsyncClient) -> None:
    """What the page hands out is a receipt like any other."""
    key = (await client.get("/api/ledger", headers=BEARER)).json()["key"]
    data = (await client.get("/api/receipts/1?meter=meter-1", headers=BEARER)).content
    receipt = check_receipt(data, Policy.of_log(Verifier.parse(key)))
    assert receipt.entry["limit_w"] == 2000.0
    assert receipt.customer == "meter-1"
    assert (await client.get("/api/receipts/99", headers=BEARER)).status_code == 404
    assert (await client.get("/api/receipts/-1", headers=BEARER)).status_code == 404
    assert (await client.get("/api/receipts/x", headers=BEARER)).status_code == 422


async def test_without_the_private_parts_a_receipt_opens_nobody_s_values(page: Page, tmp_path: Path) -> None:
    """The page's own user reads what is public; the proof is as good."""
    key = page.ledger.key()
    assert key is not None
    page.ledger._show_parts = False
    receipt = check_receipt(page.ledger.receipt(1, "meter-1"), Policy.of_log(key))
    assert receipt.customer is None
    assert receipt.closed > 0
    assert "request" not in receipt.entry


async def test_metrics_are_prometheus_text(client: httpx.AsyncClient) -> None:
    """By customer and phase, and about this process."""
    text = (await client.get("/metrics", headers=BEARER)).text
    assert 'headroom_voltage_volts{meter="meter-1",phase="L1"} 236.0' in text
    assert "headroom_dcu_up 1.0" in text
    assert "headroom_web_viewers 0.0" in text


async def test_of_a_dcu_that_is_silent_no_metric_is_told_as_if_it_were_measured(
    client: httpx.AsyncClient, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the last values, whose age would stand still, nor zeros; that it is down, alarms, and the page's own."""
    monkeypatch.setitem(page.feed.street, "state", "down")
    rows = (await client.get("/metrics", headers=BEARER)).text.splitlines()
    told = {row.partition("{")[0].partition(" ")[0] for row in rows if not row.startswith("#")}
    assert "headroom_dcu_up 0.0" in rows
    assert {name for name in told if not name.startswith("headroom_web_")} == {"headroom_dcu_up", "headroom_alarms"}


async def test_strangers_see_the_way_in_and_nothing_else(client: httpx.AsyncClient, page: Page) -> None:
    """Every route of the application, without a token and with a wrong one."""
    app: Any = make_app(page, LOOPBACK_NAMES, secure=False)
    paths = {getattr(route, "path", "") for route in app._app.routes} | {
        "/static/main.js",
        "/static/verify.js",
        "/none",
    }
    for path in {path.replace("{name}", "main.js").replace("{position}", "1") for path in paths} - OPEN:
        method = "POST" if path == "/logout" else "GET"
        for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": f"{COOKIE}=x"}):
            answer = await client.request(method, path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.text == "401 Unauthorized\n"
    for path in OPEN:
        assert (await client.get(path)).status_code == 200


async def test_a_browser_is_sent_to_the_form_and_back(client: httpx.AsyncClient) -> None:
    """Cookie: not for scripts, not for other sites."""
    answer = await client.get("/", headers={"accept": "text/html,*/*"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    wrong = await client.post("/login", data={"token": "wrong"})
    assert (wrong.status_code, wrong.headers["location"]) == (303, "/login?wrong")
    assert "set-cookie" not in wrong.headers
    right = await client.post("/login", data={"token": TOKEN})
    assert (right.status_code, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert (await client.get("/")).status_code == 200
    assert (await client.post("/logout")).headers["location"] == "/login"
    assert (await client.get("/api/street")).status_code == 401


async def test_a_meter_s_name_is_only_ever_text(page: Page, client: httpx.AsyncClient) -> None:
    """JSON, with a type that no browser takes for a page; the script puts it in as text (see the browser's test)."""
    world = World()
    told = world.told
    assert isinstance(told, dict)
    told["meters"][0]["id"] = "<script>alert(1)</script>"
    page.feed._ask = world.ask
    await page.feed.look()
    answer = await client.get("/api/street", headers=BEARER)
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.text)["customers"][0]["id"] == "<script>alert(1)</script>"
    assert base64.b64encode(b"<script>") not in answer.content
