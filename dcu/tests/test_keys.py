"""Keys of a street: made once, carried as files of one user, rotated, revoked, and shown to nobody."""

from __future__ import annotations

import json
import random
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcu.keys import COUNT_MAX, METERS_MAX, KeyRing, load_ring, new_ring, ring_content, save_ring
from dcu.keys_cli import main
from shared.errors import ConfigError, DeviceError
from shared.ids import MeterId, format_eui48, parse_eui48
from shared.keys import load_meter_keys, meter_content

DCU = "02:48:44:52:00:01"
EXAMPLE = Path(__file__).parents[2] / "deploy" / "dcu.toml"
ONE, TWO = "02:48:44:52:01:01", "02:48:44:52:01:02"
ELSEWHERE = "02:48:44:52:01:03"
METER = MeterId("meter-1")


def ring() -> KeyRing:
    draw = random.Random(4)
    made = new_ring(parse_eui48(DCU), draw.randbytes)
    return made.made({METER: parse_eui48(ONE), MeterId("meter-2"): parse_eui48(TWO)}, draw.randbytes)


def made(path: Path) -> Path:
    """A file of keys made by the command."""
    keys = path / "keys.json"
    assert main(["make", str(keys), "--dcu", DCU, "--meter", f"meter-1={ONE}", "--meter", f"meter-2={TWO}"]) == 0
    return keys


def secrets_in(content: Any) -> list[str]:
    """Every key and password of a file."""
    if isinstance(content, dict):
        hidden = {"encryption", "authentication", "master", "password"}
        found = [value for key, value in content.items() if key in hidden and isinstance(value, str)]
        return found + [secret for value in content.values() for secret in secrets_in(value)]
    return [secret for value in content for secret in secrets_in(value)] if isinstance(content, list) else []


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    """Newest and previous keys, generations, a revoked meter."""
    draw = random.Random(5)
    changed = ring().rotated(METER, draw.randbytes).without([MeterId("meter-2")], draw.randbytes).acknowledged(METER)
    save_ring(tmp_path / "k", changed)
    assert load_ring(tmp_path / "k") == changed
    assert changed.meters[METER].generation == 2
    assert changed.meters[METER].earlier == (ring().meters[METER].pair,)
    assert changed.meters[MeterId("meter-2")].revoked
    assert (changed.group.generation, changed.group.earlier) == (2, ring().group.newest)


def test_a_meter_gets_its_own_keys_and_nobody_elses(tmp_path: Path) -> None:
    """Two exports share the street's group keys and nothing else; both load."""
    keys = made(tmp_path)
    for name in ("meter-1", "meter-2"):
        assert main(["export", str(keys), name, "--out", str(tmp_path / name)]) == 0
    one, two = load_meter_keys(tmp_path / "meter-1"), load_meter_keys(tmp_path / "meter-2")
    assert (one.meter, one.eui48, one.dcu_eui48) == ("meter-1", parse_eui48(ONE), parse_eui48(DCU))
    assert one.group == two.group
    own = {one.master, one.pair.encryption, one.pair.authentication, one.client.pair.encryption}
    other = {two.master, two.pair.encryption, two.pair.authentication, two.client.pair.encryption}
    assert len(own) == 4
    assert own.isdisjoint(other)


def test_files_belong_to_one_user_and_open_ones_are_refused(tmp_path: Path) -> None:
    """0600 whatever the umask, also where a left-over had another mode; a file that others can read is not used."""
    keys = made(tmp_path)
    (tmp_path / "keys.json.new").write_text("left by a power cut")
    (tmp_path / "keys.json.new").chmod(0o666)
    assert main(["rotate", str(keys), "meter-1"]) == 0
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    keys.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 600"):
        load_ring(keys)


def test_no_key_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not by any command, in words or JSON, not by a fault in a file, and not by a repr."""
    keys = made(tmp_path)
    for form in ([], ["--json"]):
        for command in ("rotate", "export", "list", "acknowledge", "revoke", "rotate --group"):
            names = [] if command in {"list", "rotate --group"} else ["meter-1" if not form else "meter-2"]
            out = ["--out", str(tmp_path / f"out{len(form)}")] if command == "export" else []
            word, *flags = command.split()
            assert main([word, str(keys), *flags, *names, *out, *form]) == 0
    content = ring_content(ring())
    content["meters"]["meter-1"]["pair"]["encryption"] = "Z" * 31
    (tmp_path / "bad").write_text(json.dumps(content))
    (tmp_path / "bad").chmod(0o600)
    assert main(["list", str(tmp_path / "bad")]) == 2
    shown = "".join(capsys.readouterr()) + repr(ring()) + repr(ring().exported(METER))
    hidden = secrets_in(json.loads(keys.read_text())) + secrets_in(content)
    assert len(hidden) > 20
    assert [secret for secret in hidden if secret in shown] == []
    assert repr(ring().group.newest.encryption) not in shown


def test_rotation_and_revocation_keep_their_rules() -> None:
    """Making again changes nothing; a revoked meter has no keys until it is made again; another address is refused."""
    draw = random.Random(6)
    before = ring()
    assert before.made({METER: parse_eui48(ONE)}, draw.randbytes) == before
    with pytest.raises(DeviceError, match="enrolled as"):
        before.made({METER: parse_eui48(TWO)}, draw.randbytes)
    shut = before.without([METER], draw.randbytes)
    for refused in (lambda: shut.exported(METER), lambda: shut.rotated(METER, draw.randbytes)):
        with pytest.raises(DeviceError, match="revoked"):
            refused()
    again = shut.made({METER: parse_eui48(ONE)}, draw.randbytes)
    assert again.exported(METER).generation == 2
    assert shut.made({METER: parse_eui48(ELSEWHERE)}, draw.randbytes).meters[METER].eui48 == parse_eui48(ELSEWHERE)
    assert again.exported(METER).pair != before.exported(METER).pair


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It has one previous pair, or none."""
    changed = ring().rotated(METER, random.Random(5).randbytes)
    content = ring_content(changed)
    for entry in content["meters"].values():
        before = entry.pop("earlier")
        entry["previous"] = before[0] if before else None
    (tmp_path / "k").write_text(json.dumps(content))
    (tmp_path / "k").chmod(0o600)
    assert load_ring(tmp_path / "k") == changed


def test_no_two_meters_share_an_address(tmp_path: Path) -> None:
    """Not when they are made, not in a file; but a device may go from a revoked meter to another one."""
    draw = random.Random(6)
    with pytest.raises(DeviceError, match="the address of meter-1"):
        ring().made({MeterId("meter-3"): parse_eui48(ONE)}, draw.randbytes)
    given = ring().without([METER], draw.randbytes).made({MeterId("meter-3"): parse_eui48(ONE)}, draw.randbytes)
    assert [name for name, entry in given.meters.items() if entry.eui48 == parse_eui48(ONE)] == [METER, "meter-3"]
    content = ring_content(ring())
    content["meters"]["meter-2"]["eui48"] = ONE
    (tmp_path / "k").write_text(json.dumps(content))
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(ConfigError, match="the address of meter-1"):
        load_ring(tmp_path / "k")


@pytest.mark.parametrize(
    "arguments",
    [
        ["make", "{dir}/new.json"],
        ["make", "{dir}/new.json", "--meter", f"meter-1={ONE}"],
        ["make", "{keys}", "--dcu", ONE, "--meter", f"meter-9={TWO}"],
        ["make", "{keys}", "--meter", f"meter-1={TWO}"],
        ["make", "{keys}", "--meter", "meter-9"],
        ["make", "{keys}", "--meter", f"a meter={ONE}"],
        ["make", "{keys}", "--meter", "meter-9=+2:48:44:52:01:01"],
        ["make", "{keys}", "--meter", f"meter-9={DCU}"],
        ["make", "{keys}", "--meter", "meter-9=FF:FF:FF:FF:FF:FF"],
        ["make", "{keys}", "--meter", "meter-9=00:00:00:00:00:00"],
        ["make", "{keys}", "--meter", "meter-9=02:48:44:52:01:09", "--meter", "meter-9=02:48:44:52:01:0A"],
        ["make", "{dir}/new.json", "--dcu", "01:00:00:00:00:01", "--meter", f"meter-1={ONE}"],
        ["make", "{keys}", "--config", "{example}", "--dcu", ONE],
        ["make", "{keys}", "--config", "{example}", "--meter", f"meter-1={TWO}"],
        ["export", "{keys}", "meter-1", "--out", "{dir}/link"],
        ["make", "{dir}/file/new.json", "--dcu", DCU, "--meter", f"meter-1={ONE}"],
        ["make", "{dir}/new.json", "--config", "{dir}/none.toml"],
        ["export", "{keys}", "meter-3", "--out", "{dir}/x"],
        ["export", "{keys}", "meter-1", "--out", "{keys}"],
        ["export", "{dir}/none", "meter-1", "--out", "{dir}/x"],
        ["rotate", "{keys}", "nobody"],
        ["revoke", "{keys}", "meter-1", "nobody"],
        ["acknowledge", "{keys}", "nobody"],
        ["revoke", "{dir}", "meter-1"],
        ["list", "{dir}/file"],
        ["list", "{dir}/deep"],
        ["list", "{dir}/twice"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """No traceback, and the keys are what they were."""
    keys = made(tmp_path)
    before = keys.read_bytes()
    for name, text in (("file", "keys"), ("deep", "[" * 100_000), ("twice", '{"format": "a", "format": "b"}')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main([word.format(dir=tmp_path, keys=keys, example=EXAMPLE) for word in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert keys.read_bytes() == before
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["rotate", "{dir}/nofile", "meter-1"],
        ["rotate", "{dir}/nofile", "--group"],
        ["revoke", "{dir}/nofile", "meter-1"],
        ["acknowledge", "{dir}/nofile", "meter-1"],
        ["rotate", "{dir}/no/such/file", "meter-1"],
        ["make", "{dir}/nofile", "--meter", f"meter-1={ONE}"],
        ["make", "{dir}/no/such/file", "--dcu", DCU, "--meter", f"meter-1={DCU}"],
        ["make", "{dir}/nofile", "--dcu", "01:00:00:00:00:01", "--meter", f"meter-1={ONE}"],
        ["rotate", "{keys}", "nobody"],
        ["make", "{keys}", "--meter", f"meter-1={TWO}"],
        ["export", "{keys}", "meter-1", "--out", "{dir}/stick/meter-1.key"],
        ["export", "{keys}", "meter-1", "--client", "--out", "{dir}/not/mounted/tool.key"],
        ["export", "{keys}", "meter-1", "--out", "{keys}/meter-1.key"],
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """No lock beside a file that is not there, and no directory where a stick would have been mounted."""
    keys = tmp_path / "keys.json"
    save_ring(keys, ring())
    assert main([word.format(dir=tmp_path, keys=keys) for word in arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [keys]


def test_at_the_limit_a_change_is_refused_and_the_file_still_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One below it every command passes; at it each says what is full, in one line, and changes nothing."""
    keys, meter = tmp_path / "keys.json", ring().meters[METER]
    below = replace(meter, generation=COUNT_MAX - 1, acknowledged=COUNT_MAX - 1)
    group = replace(ring().group, generation=COUNT_MAX - 1)
    save_ring(keys, replace(ring(), group=group, meters={**ring().meters, METER: below}))
    changes = [["rotate", "meter-1"], ["rotate", "--group"], ["acknowledge", "meter-1"]]
    for command, whose in changes:
        assert main([command, str(keys), whose]) == 0
    full, before = load_ring(keys), keys.read_bytes()
    assert full.meters[METER].generation == full.meters[METER].acknowledged == full.group.generation == COUNT_MAX
    capsys.readouterr()
    for command, whose in [*changes, ["revoke", "meter-2"]]:
        assert main([command, str(keys), whose]) == 2
        assert f"seen {COUNT_MAX}, the last" in capsys.readouterr().err
        assert keys.read_bytes() == before
    shut = replace(full.meters[METER], master=None, pair=None, earlier=())
    save_ring(keys, replace(full, meters={METER: shut}))
    assert main(["make", str(keys), "--meter", f"meter-1={ONE}"]) == 2
    assert load_ring(keys).meters[METER].revoked


def test_more_meters_than_a_file_holds_are_not_made(tmp_path: Path) -> None:
    """The last one is; the one behind it is refused before anything is written."""
    client = ring().meters[METER]
    many = {MeterId(f"m{number}"): replace(client, pair=None, master=None) for number in range(METERS_MAX - 1)}
    keys = tmp_path / "keys.json"
    save_ring(keys, replace(ring(), meters=many))
    assert main(["make", str(keys), "--meter", f"meter-1={ONE}"]) == 0
    before = keys.read_bytes()
    assert main(["make", str(keys), "--meter", f"meter-2={TWO}"]) == 2
    assert keys.read_bytes() == before
    assert len(load_ring(keys).meters) == METERS_MAX


@pytest.mark.parametrize("wrong", ["01:00:5E:00:00:01", "FF:FF:FF:FF:FF:FF", "00:00:00:00:00:00", "03:48:44:52:01:01"])
@pytest.mark.parametrize("whose", ["DCU", "meter-1", "revoked", "own", "own DCU"])
def test_an_address_that_no_device_has_is_not_read_from_a_file(tmp_path: Path, wrong: str, whose: str) -> None:
    """Written in by hand, for the DCU or a meter, in the street's file or a meter's own."""
    file = tmp_path / "k"
    if whose.startswith("own"):
        content = meter_content(ring().exported(METER))
        content["eui48" if whose == "own" else "dcu_eui48"] = wrong
        load: Callable[[Path], object] = load_meter_keys
    else:
        content, load = ring_content(ring().without([METER], random.Random(1).randbytes)), load_ring
        meters = content["meters"]
        ({"DCU": content, "meter-1": meters["meter-2"], "revoked": meters["meter-1"]}[whose])["eui48"] = wrong
    file.write_text(json.dumps(content))
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="expected a device's address, of no group and not zero"):
        load(file)


@pytest.mark.parametrize("spelt", [str.upper, str.lower, lambda text: text.replace(":", "-")])
def test_a_meter_with_the_address_of_another_is_not_read_however_it_is_spelt(
    tmp_path: Path, spelt: Callable[[str], str]
) -> None:
    """The DCU's in the street's file and in a meter's own, and another meter's."""
    draw = random.Random(3)
    dcu, one, two = (parse_eui48(text) for text in ("02:48:44:52:0A:01", "02:48:44:52:0A:02", "02:48:44:52:0A:03"))
    street = new_ring(dcu, draw.randbytes).made({METER: one, MeterId("meter-2"): two}, draw.randbytes)
    file = tmp_path / "k"
    for eui48, said in ((dcu, "the address of the DCU"), (two, "the address of meter")):
        content = ring_content(street)
        content["meters"]["meter-1"]["eui48"] = spelt(format_eui48(eui48))
        file.write_text(json.dumps(content))
        file.chmod(0o600)
        with pytest.raises(ConfigError, match=said):
            load_ring(file)
    file.write_text(json.dumps(meter_content(street.exported(METER)) | {"eui48": spelt(format_eui48(dcu))}))
    with pytest.raises(ConfigError, match="another address than the DCU's"):
        load_meter_keys(file)


def test_by_another_name_it_is_the_same_file(tmp_path: Path) -> None:
    """A link to the file of keys: what is rotated behind it is rotated for the DCU that reads the file itself."""
    keys = made(tmp_path)
    (tmp_path / "link").symlink_to(keys)
    assert main(["rotate", str(tmp_path / "link"), "meter-1"]) == 0
    assert load_ring(keys).meters[METER].generation == 2
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "keys.json.lock", "link"]


def test_who_is_revoked_never_gets_the_group_keys_that_come_with_it(tmp_path: Path) -> None:
    """They change in the same replacement of the file; who is left, and who comes back, gets them by export; to revoke
    somebody again, or another one that does not exist, changes nothing."""
    keys = made(tmp_path)
    before = load_ring(keys)
    assert main(["revoke", str(keys), "meter-1"]) == 0
    ring = load_ring(keys)
    assert ring.group.newest != before.group.newest
    assert (ring.group.generation, ring.group.earlier) == (2, before.group.newest)
    with pytest.raises(DeviceError, match="revoked"):
        ring.exported(METER)
    assert ring.exported(MeterId("meter-2")).group == ring.group.newest
    assert main(["revoke", str(keys), "meter-1"]) == 0
    assert load_ring(keys) == ring
    assert main(["make", str(keys), "--meter", f"meter-1={ONE}"]) == 0
    assert load_ring(keys).exported(METER).group == ring.group.newest


def test_group_keys_are_rotated_for_all_or_one_meters_pair_is(tmp_path: Path) -> None:
    """Neither touches the other; to name both, or nothing, is a mistake."""
    keys = made(tmp_path)
    before = load_ring(keys)
    assert main(["rotate", str(keys), "--group"]) == 0
    ring = load_ring(keys)
    assert ring.meters == before.meters
    assert ring.group.newest not in {before.group.newest, *(entry.pair for entry in ring.meters.values())}
    assert main(["rotate", str(keys), "meter-1"]) == 0
    assert load_ring(keys).group == ring.group
    for wrong in ([], ["meter-1", "--group"]):
        with pytest.raises(SystemExit) as left:
            main(["rotate", str(keys), *wrong])
        assert left.value.code == 2


def test_a_street_that_was_never_changed_writes_what_earlier_versions_read() -> None:
    """A rotation, a revoke or an acknowledgement adds entries that they do not know; nothing else does."""
    content = ring_content(ring())
    assert content.keys() == {"format", "eui48", "group", "meters"}
    known = {"eui48", "generation", "master", "pair", "earlier", "client"}
    assert all(entry.keys() == known for entry in content["meters"].values())


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the command and of each part."""
    for part in ([], ["make"], ["export"], ["rotate"], ["revoke"], ["acknowledge"], ["list"]):
        with pytest.raises(SystemExit) as left:
            main([*part, "--help"])
        assert left.value.code == 0
        assert "headroom-keys make /etc/headroom/keys.json" in capsys.readouterr().out
