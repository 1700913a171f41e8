"""The management information base of a small tree, read by its numbers."""

from __future__ import annotations

from prime_plc.pib import ATTRIBUTES, read_attribute
from prime_plc.tests.ether import BASE, Ether, chain, eui


def test_every_attribute_of_every_role_can_be_read() -> None:
    """Base, switch and terminal answer each number they know with its width, and no other."""
    ether = Ether(chain())
    ether.add_base()
    for number in (1, 2):
        ether.add_node(number)
    ether.run_until(ether.connected, 200.0)
    base, switch, terminal = ether.base(), ether.node(1), ether.node(2)
    for node in (base, switch, terminal):
        assert all(read_attribute(node, number) is not None for number in ATTRIBUTES)
        assert read_attribute(node, 0x7777) is None
        assert read_attribute(node, 0x0023) == BASE
        assert read_attribute(node, 0x002D) == (276).to_bytes(2, "big")
    assert [read_attribute(node, 0x0024) for node in (base, switch, terminal)] == [b"\x03", b"\x02", b"\x01"]
    assert [read_attribute(node, 0x0026) for node in (base, switch, terminal)] == [b"\x00", b"\x01", b"\x02"]
    assert read_attribute(switch, 0x0021) == read_attribute(terminal, 0x0022)
    assert read_attribute(base, 0x0053) == b"\x00" + (read_attribute(switch, 0x0021) or b"")
    rows = read_attribute(base, 0x0050) or b""
    assert len(rows) == 2 * 16
    assert {rows[:6], rows[16:22]} == {eui(1), eui(2)}
    assert len(read_attribute(base, 0x0058) or b"") == 2 * 13
    assert int.from_bytes(read_attribute(base, 0x0043) or b"", "big") > 0


def test_settings_have_their_numbers() -> None:
    """The read-write attributes say what the node is configured with."""
    base = Ether(chain()).add_base()
    assert read_attribute(base, 0x0010) == b"\x18"
    assert read_attribute(base, 0x0014) == b"\x05"
    assert read_attribute(base, 0x0019) == b"\x03"
