"""The power line's table of a configuration: what may be another in a foreign network is set, within its range."""

from __future__ import annotations

import pytest

from prime_plc.config import Mac, Plc
from prime_plc.pib import read_attribute
from prime_plc.settings import MacSettings
from prime_plc.tests.ether import Ether, chain
from shared.config import check_config
from shared.errors import ConfigError

EDGES: dict[str, tuple[float, float]] = {
    "beacon_slot_symbols": (6, 7),
    "beacon_slots_max": (1, 5),
    "search_s": (16.0, 32.0),
    "promotions_max": (1, 4),
    "promotion_period_s": (2.0, 8.0),
    "promotion_ignore_max": (0, 15),
    "missed_beacons_max": (2, 20),
    "control_repeats_max": (3, 5),
    "transmit_attempts_max": (2, 5),
    "ema_smoothing": (0, 7),
    "keep_alive_code": (0, 7),
    "window_start": (1, 31),
}
ATTRIBUTES = {
    0x0010: "search_s",
    0x0011: "promotions_max",
    0x0012: "promotion_period_s",
    0x0013: "beacon_slots_max",
    0x0014: "transmit_attempts_max",
    0x0015: "control_repeat_s",
    0x0018: "control_repeats_max",
    0x0019: "ema_smoothing",
}


def settings(**mac: float) -> MacSettings:
    return check_config("dcu.toml", {"url": "/dev/plc0", "mac": mac}, Plc).stack_settings.mac


def test_every_key_has_its_setting_and_its_edges() -> None:
    """Both edges arrive where they are used; a step beyond is refused with the key; what is left out is as it was."""
    assert EDGES.keys() == Mac.model_fields.keys()
    assert settings() == MacSettings()
    for key, edges in EDGES.items():
        assert {getattr(settings(**{key: edge}), key) for edge in edges} == set(edges)
        for beyond in (edges[0] - 1, edges[1] + 1):
            with pytest.raises(ConfigError, match=key):
                settings(**{key: beyond})


def test_a_slot_holds_the_beacon_of_its_firmware() -> None:
    """Five symbols do without stock firmware's three bytes only."""
    transparent: dict[str, object] = {"url": "/dev/plc0", "framing": "transparent", "mac": {"beacon_slot_symbols": 5}}
    assert check_config("dcu.toml", transparent, Plc).stack_settings.mac.beacon_slot_symbols == 5
    with pytest.raises(ConfigError, match="beacon_slot_symbols of at least 6"):
        check_config("dcu.toml", transparent | {"framing": "stock"}, Plc)


def test_a_firmware_is_taken_when_it_is_named() -> None:
    """One version unless others are named; four bytes in hexadecimal, one of them at least."""
    table: dict[str, object] = {"url": "/dev/plc0"}
    assert check_config("dcu.toml", table, Plc).stack_settings.modem.firmware == ("23.00.01.02",)
    named = table | {"firmware": ["23.00.01.02", "23.00.02.0A"]}
    assert check_config("dcu.toml", named, Plc).stack_settings.modem.firmware == ("23.00.01.02", "23.00.02.0A")
    for wrong in ([], ["23.0.1.2"], ["any"], ["23.00.01.02.03"], "23.00.01.02", ["23.00.01.02"] * 9):
        with pytest.raises(ConfigError, match="firmware"):
            check_config("dcu.toml", table | {"firmware": wrong}, Plc)


def test_what_is_configured_is_what_the_attributes_say() -> None:
    """Each read-write attribute is settable, and fits its byte at both edges."""
    for edge in (0, 1):
        chosen = settings(**{key: edges[edge] for key, edges in EDGES.items()})
        base = Ether(chain(), settings=chosen).add_base()
        for number, key in ATTRIBUTES.items():
            assert read_attribute(base, number) == bytes((round(getattr(chosen, key)),))


@pytest.mark.parametrize("edge", [0, 1])
def test_a_network_grows_at_the_edges_too(edge: int) -> None:
    """A switch and a node behind it; with one beacon slot there is no switch, so that edge has two."""
    chosen = settings(**{key: edges[edge] for key, edges in EDGES.items()} | ({} if edge else {"beacon_slots_max": 2}))
    ether = Ether(chain(), settings=chosen)
    ether.add_base()
    for number in (1, 2):
        ether.add_node(number)
    assert ether.run_until(ether.connected, 300.0) < 300.0
