"""`headroom-plc survey`: the tree as it is, measured links and no invented ones, as text, JSON and a picture."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from prime_plc.cli import main
from prime_plc.survey import LinkSeen, Survey
from prime_plc.tests.ether import Ether, chain
from prime_plc.tree_picture import picture
from shared.errors import DecodeError

UNTIL_S = 300.0


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    """Of a base with three nodes in a row behind it: two of them must be switches."""
    ether = Ether(chain())
    ether.add_base()
    for number in (1, 2, 3):
        ether.add_node(number)
    assert ether.run_until(ether.connected, UNTIL_S) < UNTIL_S
    found: dict[str, Any] = json.loads(json.dumps(ether.base().summary()))
    return found | {"sent_s": {"beacons": 2.0, "other": 1.0}}  # which a whole stack adds


def test_the_tree_is_the_one_that_grew(summary: dict[str, Any]) -> None:
    """A chain: one node at each depth, two switches; only the first link is the base's own to measure."""
    survey = Survey.of(summary)
    assert [depth for depth, _ in survey.walk()] == [1, 2, 3]
    assert (survey.levels, survey.switches) == (3, 2)
    assert [node.link is not None for _, node in survey.walk()] == [True, False, False]
    first = next(node for _, node in survey.walk())
    assert first.link is not None
    assert first.link.heard > 0


def test_airtime_is_a_share_of_the_time(summary: dict[str, Any]) -> None:
    """Seconds on air over those since the modem is ready."""
    survey = Survey.of(summary)
    assert survey.airtime["sent beacons"] == pytest.approx(2.0 / survey.running_s, abs=1e-5)
    assert survey.airtime["heard up"] > 0
    assert sum(survey.airtime.values()) < 1


def test_every_form_says_the_same(summary: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, JSON and picture, from a status file as the DCU prints it."""
    status, drawn = tmp_path / "status.json", tmp_path / "tree.svg"
    status.write_text(json.dumps({"dcu": "d", "plc": summary}))
    assert main(["survey", "--status", str(status), "--svg", str(drawn)]) == 0
    text = capsys.readouterr().out
    assert main(["survey", "--status", str(status), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    picture_ = ET.fromstring(drawn.read_text())
    titles = [title.text or "" for title in picture_.iter("{http://www.w3.org/2000/svg}title")]
    for node in summary["nodes"]:
        assert node in text
        assert sum(node in title for title in titles) == 1
    assert {node["eui48"] for node in told["nodes"]} == set(summary["nodes"])
    assert text.count("signal not measured here") == 2
    assert 'class="s0"' in drawn.read_text()


def test_what_others_measured_fills_the_gaps(summary: dict[str, Any]) -> None:
    """On a bench the switches' own numbers are at hand; losses show, but not those of a few frames."""
    survey = Survey.of(summary)
    deep = [node.eui48 for _, node in survey.walk()][1:]
    links = {deep[0]: LinkSeen(20.0, "DQPSK", 9, 6, 2), deep[1]: LinkSeen(5.0, "DBPSK_C", 9, 3, 1)}
    full = survey.with_links(links, {deep[0]: LinkSeen(11.0, "DBPSK", 5, 10, 0)})
    drawn = picture(full)
    assert "down lost 25 %" in drawn
    assert drawn.count("lost 25") == 2  # beside the node and in its tooltip; four frames say nothing
    assert "up DBPSK, lost 0.0 %" in full.table()
    assert 'class="s0"/><text' not in drawn
    assert survey.nodes[1].link is None, "the survey itself is unchanged"


@pytest.mark.parametrize(("usual", "marked"), [(3, ["24", "24", "15"]), (40, [])])
def test_what_every_link_loses_marks_none(usual: int, marked: list[str], summary: dict[str, Any]) -> None:
    """In bursts all lose a third; only who loses half as much again as is usual stands out, but all say what they
    lose."""
    node = next(iter(summary["nodes"].values()))
    links = {f"00:00:00:00:00:{at:02X}": LinkSeen(20.0, "DQPSK", 99, 90, lost) for at, lost in enumerate([usual] * 9)}
    links |= {f"00:00:00:00:01:{at:02X}": LinkSeen(20.0, "DQPSK", 99, 85, lost) for at, lost in enumerate([15, 27, 27])}
    full = Survey.of(summary | {"nodes": dict.fromkeys(links, node)}).with_links(links, {})
    drawn = picture(full)
    assert f"a usual link loses {100 * usual / (90 + usual):.1f} % of its packets" in full.table()
    told = re.findall(r'class="(bad|quiet)"[^>]*>([^<]*lost[^<]*)<', drawn)
    assert sorted(text.split("lost ")[1][:2] for kind, text in told if kind == "bad") == sorted(marked)
    assert len(told) == len(links)


@pytest.mark.parametrize("name", ["40:40:22:01:C7:9A", "a subnetwork of a long name " * 9])
def test_a_picture_fits_its_page(name: str, summary: dict[str, Any]) -> None:
    """As wide as the page up to its own width, as high as that makes it; title, use of the line and legend are wrapped,
    so that no text leaves it."""
    survey = Survey.of(summary | {"sna": name, "sent_s": {f"kind {number}": 1.0 for number in range(30)}})
    deep = [node.eui48 for _, node in survey.walk()]
    far = LinkSeen(11.0, "ROBUST_DQPSK", 50, 20, 20)
    full = survey.with_links(dict.fromkeys(deep, far), dict.fromkeys(deep, LinkSeen(11.0, "DBPSK", 5, 10, 9)))
    root = ET.fromstring(picture(full))
    left, top, width, height = (float(number) for number in root.attrib["viewBox"].split())
    assert (left, top, root.attrib["width"], "height" in root.attrib) == (0, 0, "100%", False)
    assert f"max-width: {width:g}px; height: auto" in root.attrib["style"]
    space = "{http://www.w3.org/2000/svg}"
    seen = 0
    for group in root.iter():
        x0, y0 = (float(part) for part in group.get("transform", "translate(0 0)")[10:-1].split())
        for text in group.findall(f"{space}text"):
            letters = len("".join(text.itertext())) * (7.5 if text.get("class") == "title" else 5.2)
            assert 0 <= x0 + float(text.get("x", 0)) <= x0 + float(text.get("x", 0)) + letters <= width
            assert 0 <= y0 + float(text.get("y", 0)) <= height
            seen += 1
    assert seen > 3 + 1 + 7
    assert [text for text in root.itertext() if "↓ROBUST_DQPSK ↑DBPSK" in text]


def test_a_node_below_no_known_switch_is_shown(summary: dict[str, Any]) -> None:
    """A status in the middle of a change, and one with a ring: everybody once, no end that is not reached."""
    first, second, third = (dict(node) for node in summary["nodes"].values())
    first["sid"], first["lsid"], second["sid"], second["lsid"], third["sid"] = 7, 8, 8, 7, 99
    names = list(summary["nodes"])
    survey = Survey.of(summary | {"nodes": dict(zip(names, (first, second, third), strict=True))})
    assert sorted(node.eui48 for _, node in survey.walk()) == sorted(names)
    ET.fromstring(picture(survey))


@pytest.mark.parametrize("damage", [{}, {"nodes": 3}, {"nodes": {"x": {}}}, {"running_s": "long"}, {"sent_s": None}])
def test_another_summary_is_refused(damage: dict[str, Any], summary: dict[str, Any]) -> None:
    """An older daemon's, or nonsense: DecodeError and nothing else."""
    with pytest.raises(DecodeError):
        Survey.of(summary | damage if damage else {})


def test_a_number_that_no_node_has_is_refused(summary: dict[str, Any]) -> None:
    """JSON knows 1e999."""
    nodes = {name: node | {"lnid": float("inf")} for name, node in summary["nodes"].items()}
    with pytest.raises(DecodeError):
        Survey.of(summary | {"nodes": nodes})


@pytest.mark.parametrize("where", ["sid", "lnid", "hops", "lsid", "alive_asked", "alive_answered", "link", "running_s"])
@pytest.mark.parametrize("number", ["1" + 400 * "0", "1e400", "-1", "1" + 20 * "0", "[]"])
def test_a_file_with_a_number_that_no_node_has_is_one_clear_line(
    where: str, number: str, summary: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever it stands; nothing is divided by it first."""
    marked = json.loads(json.dumps(summary))
    node = marked["nodes"][next(one for _, one in Survey.of(summary).walk()).eui48]
    place = {"link": node["link"], "running_s": marked}.get(where, node)
    assert "heard" in node["link"]
    place["heard" if where == "link" else where] = "NUMBER"
    status = tmp_path / "status.json"
    status.write_text(json.dumps({"plc": marked}).replace('"NUMBER"', number))
    code = main(["survey", "--status", str(status)])
    out, err = capsys.readouterr()
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "expected the summary of a base node" in err


def test_names_of_a_file_steer_no_terminal(
    summary: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape sequences and line ends in every text that is printed."""
    evil = "\x1b[2J\r\n\x9b1m"
    nodes = {evil + name: node for name, node in summary["nodes"].items()}
    for node in nodes.values():
        node["link"] = (node["link"] or {"snr_db": 9, "heard": 1, "delivered": 1, "lost": 1}) | {"scheme": evil}
    status = tmp_path / "status.json"
    changed = summary | {"nodes": nodes, "sna": evil, "state": evil, "sent_s": {evil: 1.0}}
    status.write_text(json.dumps({"plc": changed}))
    assert main(["survey", "--status", str(status)]) == 0
    lines = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert len(lines) == 2 + len(nodes)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("snr_db", [float("nan"), float("inf")])
def test_a_signal_that_is_no_number_is_refused(snr_db: float, summary: dict[str, Any]) -> None:
    """JSON as Python reads it knows NaN."""
    (name, node), *_ = summary["nodes"].items()
    with pytest.raises(DecodeError):
        Survey.of(summary | {"nodes": {name: node | {"link": node["link"] | {"snr_db": snr_db}}}})


def test_names_of_a_file_make_no_broken_picture(summary: dict[str, Any]) -> None:
    """Control characters and markup, which XML does not hold."""
    nodes = dict(zip(("a\x01<b", "\x00&\ud800", "]]>\x1b"), summary["nodes"].values(), strict=True))
    drawn = picture(Survey.of(summary | {"nodes": nodes, "sna": "\x02<sna>"}))
    assert "?&lt;sna&gt;" in drawn.encode("utf-8").decode()
    ET.fromstring(drawn)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--socket", "none.sock"],
        ["--status", "missing.json"],
        ["--status", "text"],
        ["--status", "list"],
        ["--status", "empty"],
        ["--config", "text"],
        ["--config", "missing.toml"],
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody at the socket, files that are missing or something else: exit code 2, one line."""
    monkeypatch.chdir(tmp_path)
    for name, content in (("text", "= no"), ("list", "[]"), ("empty", "{}")):
        (tmp_path / name).write_text(content)
    code = main(["survey", *arguments])
    out, err = capsys.readouterr()
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_an_empty_subnetwork_has_a_picture(summary: dict[str, Any]) -> None:
    """Before anybody is there."""
    survey = Survey.of(summary | {"nodes": {}, "running_s": 0.0})
    assert "no nodes" in survey.table()
    assert ET.fromstring(picture(survey)).tag.endswith("svg")
