"""The composed meter on ports in memory and jumping time: what the core says is done, in order, on any disk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dlms_cosem.connection import DlmsConnection
from dlms_cosem.security import NoSecurityAuthentication

from meter import daemon
from meter.association import Level
from meter.config import MeterConfig
from meter.core import Forget, HouseholdAsked, Persist, SendUp
from meter.daemon import PAPERS_MAX, TICK_S, MeterDaemon, Ports, Secretary, build
from meter.outbox import MemoryStore, SqliteStore
from meter.real import ThreadedStore, held, warn_of_open_token
from meter.rules import READING_S_MAX
from meter.tests.far_end import DCU, FakeVault, far_end
from meter.tests.jumping import run_jumping
from meter.tests.test_config import GOOD
from meter.tests.test_outbox import REPORT, report
from prime_plc import sap
from prime_plc.modem_host import FrameReceived, ModemReady
from prime_plc.pdu import Beacon
from prime_plc.phy import Scheme
from shared.clock import LoopClock
from shared.config import check_config
from shared.cosem import (
    CLIENT_SAP,
    SERVER_SAP,
    Pushed,
    ReadAnswer,
    WriteAnswer,
    decode_apdu,
    encode_down,
    encode_read_request,
)
from shared.em330_map import BLOCK_1, BLOCK_2, REGISTERS
from shared.errors import DeviceError
from shared.ids import Epoch, format_eui48, parse_eui48
from shared.messages import (
    Acknowledgement,
    DecisionId,
    Grant,
    LimitSource,
    NominalLimit,
    RelayState,
    Release,
    Report,
    Request,
    Upward,
)
from shared.modbus import ModbusSilence

CONFIG = check_config("meter.toml", dict(GOOD), MeterConfig)


class FakeRegisters:
    """An EM330 behind a gateway: 240 V, exporting 1200 W on L1, its last digit never at rest."""

    def __init__(self) -> None:
        self.silent = False
        self.connected = False
        self._count = 0

    async def reopen(self) -> None:
        if self.silent:
            raise ModbusSilence("no connection")
        self.connected = True

    async def read(self, address: int, count: int) -> list[int]:
        if self.silent:
            raise ModbusSilence("no answer")
        if address in {BLOCK_1[0], BLOCK_2[0]} and count > 2:
            self._count += 1
            return self._measurements()[address : address + count]
        values = {"identity": 331, "mode": 1, "system": 0, "ct_ratio": 10, "vt_ratio": 10}
        known = {REGISTERS[name].address: value for name, value in values.items()}
        return [known.get(address, 0)] + [0] * (count - 1)

    def _measurements(self) -> list[int]:
        words = [0] * (BLOCK_1[1] + BLOCK_2[1])
        for name, value in {"u_l1": 2400 + self._count % 3, "i_l1": -5000, "p_l1": -12000, "p_total": -12000}.items():
            at = REGISTERS[name].address
            words[at], words[at + 1] = value & 0xFFFF, value >> 16 & 0xFFFF
        words[REGISTERS["frequency"].address] = 500
        return words

    async def close(self) -> None:
        self.connected = False


class FakeRelay:
    """A relay whose contact follows at once."""

    def __init__(self) -> None:
        self.commanded = RelayState.NOMINAL
        self.closed = False
        self.broken = False
        self.turns: list[float] = []

    def raise_export(self) -> None:
        if self.broken:
            raise DeviceError("relay pin GPIO5: gone")
        self.commanded = RelayState.RAISED

    def to_nominal(self) -> None:
        self.commanded = RelayState.NOMINAL

    def beat(self, turned_s: float) -> None:
        self.turns.append(turned_s)

    def read_back(self) -> RelayState:
        return self.commanded

    def close(self) -> None:
        self.to_nominal()
        self.closed = True


class FakeStore:
    """`StorePort` in memory, with a disk that can be slow or broken.

    Attributes:
        gate: closed while the disk does not answer.
        error: what it raises, if anything.
        calls: what was asked of it.
    """

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.calls: list[str] = []

    async def put(self, kept: Report) -> None:
        await self._disk(f"put {kept.seq}")
        self.memory.put(kept)

    async def forget(self, seqs: list[int]) -> None:
        await self._disk(f"forget {seqs}")
        self.memory.forget(seqs)

    async def _disk(self, call: str) -> None:
        self.calls.append(call)
        await self.gate.wait()
        if self.error is not None:
            raise self.error


class FakeRunner:
    """A power line without a line: what the meter sends is opened and kept, and the test speaks for the DCU."""

    newest: FakeRunner

    def __init__(self, _stack: Any, _open: Any, _clock: Any, heard: Callable[[sap.Output], None], _url: str) -> None:
        self.heard = heard
        self.sent: list[sap.SendData] = []
        self.dcu = far_end()
        self.peer = DCU
        FakeRunner.newest = self

    async def run(self, progress: Callable[[], None]) -> None:
        while True:
            progress()
            await asyncio.sleep(5.0)

    def send(self, item: sap.SendData) -> bool:
        if item.dsap != CLIENT_SAP:
            self.sent.append(item)
            return True
        loop = asyncio.get_running_loop()
        arrival = self.dcu.receive(item.data, loop.time())
        for answer in arrival.answers:
            loop.call_soon(self.inject, answer)
        if arrival.plain is not None:
            self.sent.append(replace(item, data=arrival.plain))
        return True

    def messages(self) -> list[Upward]:
        """Everything the meter pushed."""
        apdus = [decode_apdu(item.data) for item in self.sent]
        return [apdu.message for apdu in apdus if isinstance(apdu, Pushed)]

    def say(self, data: bytes) -> None:
        """An APDU of the DCU arrives."""
        self.inject(self.dcu.protect(data) or b"")

    def inject(self, data: bytes) -> None:
        """These very bytes arrive, whoever has sent them."""
        self.heard(sap.DataReceived(self.peer, SERVER_SAP, CLIENT_SAP, data))


class House:
    """A running meter and everything around it."""

    def __init__(self, seed: int = 5) -> None:
        self.relay = FakeRelay()
        self.registers = FakeRegisters()
        self.store = FakeStore()
        self.vault = FakeVault()
        ports = Ports(
            clock=LoopClock(utc=lambda: 1_790_000_000.0),
            draw=random.Random(seed),
            open_plc=_nowhere,
            registers=self.registers,
            relay=self.relay,
            store=self.store,
            stored=self.store.memory.load(),
            vault=self.vault,
        )
        self.meter: MeterDaemon = build(CONFIG, ports)
        self.line = FakeRunner.newest
        self.line.dcu = far_end(seed=77 + seed)
        self.task = asyncio.ensure_future(self.meter.run())

    async def link(self) -> None:
        await asyncio.sleep(2.0)
        self.line.heard(sap.LinkUp(DCU, b"meter-1", 5))
        await asyncio.sleep(0.01)
        self.line.say(encode_down(NominalLimit(DecisionId(Epoch(3), 0), 1200.0), 1))
        await asyncio.sleep(0.2)

    async def granted(self) -> None:
        await self.link()
        assert self.meter.ask(HouseholdAsked(2400.0, 2400.0)) is None
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        request = self.line.messages()[-1]
        assert isinstance(request, Request)
        self.line.say(encode_down(Grant(DecisionId(Epoch(3), 1), request.request_id, request.nonce, 2400.0, 60.0), 2))
        await asyncio.sleep(0.01)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def _nowhere(_factory: Callable[[], asyncio.Protocol]) -> tuple[Any, Any]:
    raise OSError("no line here")


@pytest.fixture(autouse=True)
def _fake_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "StackRunner", FakeRunner)


def test_a_household_is_granted_and_its_lease_ends() -> None:
    """From the wish to the relay and back to nominal in silence, through the whole daemon."""

    async def world() -> None:
        house = House()
        await house.granted()
        assert house.relay.commanded is RelayState.RAISED
        await asyncio.sleep(0.2)
        reports = [message for message in house.line.messages() if isinstance(message, Report)]
        newest = reports[-1]
        assert (newest.applied, newest.relay) == (DecisionId(Epoch(3), 1), RelayState.RAISED)
        assert newest.reading is not None
        assert newest.reading.export_w == 1200.0
        assert house.meter.status()["limited_by"] == "grant"
        await asyncio.sleep(60.0)
        state: RelayState = house.relay.read_back()
        assert state is RelayState.NOMINAL
        assert house.meter.status()["source"] == LimitSource.LEASE_ENDED.name
        await house.end()

    run_jumping(world)


def test_confirmed_writes_are_answered_and_reads_too() -> None:
    """A SET gets its answer, a GET its value; the unconfirmed acknowledgement gets nothing."""

    async def world() -> None:
        house = House()
        await house.link()
        assert [decode_apdu(item.data) for item in house.line.sent[:1]] == [WriteAnswer(1, 0)]
        before = len(house.line.sent)
        house.line.say(encode_down(Acknowledgement(Epoch(3), 0), 4))
        house.line.say(encode_read_request(3, "1-0:32.7.0.255", 2, 6))
        answers = [decode_apdu(item.data) for item in house.line.sent[before:]]
        (answer,) = answers
        assert isinstance(answer, ReadAnswer)
        assert answer.value in {2400, 2401, 2402}
        assert {(item.peer, item.dsap, item.ssap) for item in house.line.sent} == {(None, CLIENT_SAP, SERVER_SAP)}
        await house.end()

    run_jumping(world)


def test_a_stranger_on_the_power_line_reads_what_is_public() -> None:
    """An unprotected association from the public client's address: the name, no register, and no password taken."""

    async def world() -> None:
        house = House()
        await house.link()
        before = len(house.line.sent)

        def ask(apdu: bytes) -> bytes:
            house.line.heard(sap.DataReceived(DCU, SERVER_SAP, Level.PUBLIC.value, apdu))
            assert house.line.sent[-1].dsap == Level.PUBLIC.value
            return house.line.sent[-1].data

        nobody: Any = NoSecurityAuthentication()
        connection = DlmsConnection(nobody, None)
        assert ask(connection.send(connection.get_aarq()))[0] == 0x61
        answers = [
            decode_apdu(ask(encode_read_request(*what, 3)))
            for what in (
                (1, "0-0:42.0.0.255", 2),
                (3, "1-0:32.7.0.255", 2),
            )
        ]
        assert answers == [ReadAnswer(3, 0, b"HDR024844520101"), ReadAnswer(3, 4, None)]
        assert ask(encode_down(NominalLimit(DecisionId(Epoch(9), 1), 0.0), 1))[:3] == bytes((0xC5, 1, 0xC1))
        assert house.meter.status()["epoch"] == 3
        assert len(house.line.sent) == before + 4
        await house.end()

    run_jumping(world)


def test_garbage_from_the_line_is_counted_and_changes_nothing() -> None:
    """Random bytes, half an APDU, an APDU that only a meter sends."""

    async def world() -> None:
        house = House()
        await house.granted()
        garbage = random.Random(8)
        grant = encode_down(NominalLimit(DecisionId(Epoch(9), 0), 0.0), 1)
        for data in (*(garbage.randbytes(40) for _ in range(200)), b"", grant, grant[:-1], grant + b"\0"):
            house.line.inject(data)
        for data in (garbage.randbytes(40), grant[:-1], grant + b"\0"):
            house.line.say(data)
        await asyncio.sleep(1.0)
        assert house.relay.commanded is RelayState.RAISED
        status = house.meter.status()
        assert (status["epoch"], status["plc"]["undecodable"]) == (3, 3)
        assert sum(status["protection"]["refused"].values()) == 204
        await house.end()

    run_jumping(world)


def test_a_slow_disk_holds_reports_but_not_the_relay() -> None:
    """While the disk stands still no report leaves, and the lease ends on time all the same."""

    async def world() -> None:
        house = House()
        await house.granted()
        await asyncio.sleep(0.2)
        house.store.gate.clear()
        before = len(house.line.messages())
        await asyncio.sleep(61.0)
        assert not [message for message in house.line.messages()[before:] if isinstance(message, Report)]
        assert house.relay.commanded is RelayState.NOMINAL
        house.store.gate.set()
        await asyncio.sleep(1.0)
        assert [message for message in house.line.messages()[before:] if isinstance(message, Report)]
        await house.end()

    run_jumping(world)


def test_a_failing_disk_ends_the_grant_and_is_left_alone() -> None:
    """Nominal, an alarm in the next report, and no second attempt at the store."""

    async def world() -> None:
        house = House()
        await house.granted()
        house.store.error = OSError("No space left on device")
        await asyncio.sleep(20.0)
        assert house.relay.commanded is RelayState.NOMINAL
        calls = len(house.store.calls)
        await asyncio.sleep(60.0)
        assert len(house.store.calls) == calls
        live = [message for message in house.line.messages() if isinstance(message, Report) and message.nonce]
        assert live[-1].alarms.name == "STORAGE_FAILED"
        objection = house.meter.ask(HouseholdAsked(2400.0, 2400.0))
        assert objection is not None
        assert objection.seen == "storage failed"
        await house.end()

    run_jumping(world)


def test_a_silent_em330_ends_the_grant() -> None:
    """Three seconds after the last reading, although nobody says anything."""

    async def world() -> None:
        house = House()
        await house.granted()
        house.registers.silent = True
        await asyncio.sleep(READING_S_MAX + 0.1)
        assert house.relay.commanded is RelayState.NOMINAL
        assert house.meter.status()["alarms"] == ["METER_SILENT"]
        await house.end()

    run_jumping(world)


def test_a_relay_that_does_not_obey_ends_the_daemon() -> None:
    """Its state is unknown: stop, and let the pins fall back."""

    async def world() -> int:
        house = House()
        house.relay.broken = True
        await house.granted()
        return await house.task

    assert run_jumping(world) == 1


def test_the_control_tick_takes_the_relay_back_when_the_core_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that takes no turn for two seconds loses the relay, and the daemon ends to be started again."""

    async def hang(*_arguments: object) -> None:
        await asyncio.Event().wait()

    async def world() -> None:
        monkeypatch.setattr(daemon, "drive", hang)
        house = House()
        house.relay.raise_export()
        began_s = asyncio.get_running_loop().time()
        assert await house.task == 1
        assert house.relay.closed
        assert asyncio.get_running_loop().time() - began_s <= daemon.CONTROL_S_MAX + 2 * TICK_S

    run_jumping(world)


def test_every_control_tick_names_the_last_turn_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh while the core turns; the same again and again when it hangs, although the loop lives."""

    async def world() -> tuple[list[float], list[float]]:
        house = House()
        await asyncio.sleep(10.0)
        healthy = [asyncio.get_running_loop().time() - turned_s for turned_s in house.relay.turns[-5:]]
        await house.end()
        began_s = asyncio.get_running_loop().time()

        async def hang(*_arguments: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(daemon, "drive", hang)
        hung = House()
        await hung.task
        return healthy, [turned_s - began_s for turned_s in hung.relay.turns]

    healthy, hung = run_jumping(world)
    assert len(healthy) == 5
    assert max(healthy) <= 6 * TICK_S
    assert len(hung) >= 3
    assert set(hung) == {0.0}


def test_the_meter_registers_with_the_base_of_its_keys_alone() -> None:
    """Another street's base is heard as well as ours: its DCU has no keys for us."""

    async def world() -> list[str]:
        house = House()
        said: list[str] = []
        node = house.meter._stack._node
        node.handle(ModemReady("ATPL230", "23.00.01.02"), 0.0)
        for eui48 in (parse_eui48("02:48:44:52:07:00"), DCU):
            for seq in range(6):
                beacon = Beacon(7, 0, 0, 1, 0, 0, 0, seq, eui48, 0, 0).encode()
                frame = FrameReceived(beacon, Scheme.DBPSK_C, 0, 0.6 * seq, 0.011, 25.0, 80, precise=True)
                outputs = node.handle(frame, 0.6 * seq + 0.02)
                said += [output.detail for output in outputs if isinstance(output, sap.Happened)]
        await house.end()
        return said

    (detail,) = run_jumping(world)
    assert format_eui48(DCU) in detail


def test_stopping_leaves_the_relay_nominal_and_closed() -> None:
    """However the daemon ends."""

    async def world() -> House:
        house = House()
        await house.granted()
        await house.end()
        return house

    house = run_jumping(world)
    assert (house.relay.commanded, house.relay.closed, house.registers.connected) == (RelayState.NOMINAL, True, False)


def test_a_release_leaves_before_the_report_about_it() -> None:
    """Requests and releases do not wait for the disk."""

    async def world() -> None:
        house = House()
        await house.granted()
        house.store.gate.clear()
        assert house.meter.release() is None
        await asyncio.sleep(0.01)
        assert isinstance(house.line.messages()[-1], Release)
        assert house.relay.commanded is RelayState.NOMINAL
        await house.end()

    run_jumping(world)


def test_papers_are_limited() -> None:
    """A disk that never answers fills the tray; that is a storage failure, told once."""

    async def world() -> None:
        store, failures = FakeStore(), list[str]()
        store.gate.clear()
        secretary = Secretary(store, lambda _paper: None, failures.append)
        for number in range(PAPERS_MAX + 3):
            secretary.take(Persist(report(number)))
        assert failures == ["the disk does not keep up"]

    run_jumping(world)


def test_a_report_never_overtakes_its_record() -> None:
    """It leaves when the disk has answered, not before; after a failure it leaves all the same."""

    async def world() -> None:
        store, sent, failures = FakeStore(), list[SendUp](), list[str]()
        secretary = Secretary(store, sent.append, failures.append)
        working = asyncio.ensure_future(secretary.run(LoopClock(), lambda: None))
        store.gate.clear()
        secretary.take(Persist(REPORT))
        secretary.take(SendUp(REPORT))
        await asyncio.sleep(1.0)
        assert sent == []
        store.gate.set()
        await asyncio.sleep(1.0)
        assert sent == [SendUp(REPORT)]
        store.error = OSError("gone")
        for paper in (Persist(report(1)), SendUp(report(1)), Forget((0,)), SendUp(report(2))):
            secretary.take(paper)
        await asyncio.sleep(1.0)
        assert (len(sent), failures, store.calls) == (3, ["gone"], ["put 0", "put 1"])
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    run_jumping(world)


# ---- the real ports --------------------------------------------------------------------------------------------------


async def test_the_outbox_thread_is_durable_when_it_answers(tmp_path: Path) -> None:
    """What was awaited is there after the next start."""
    threaded = ThreadedStore(SqliteStore(tmp_path / "outbox.sqlite"))
    await threaded.put(report(0))
    await threaded.put(report(1))
    await threaded.forget([0])
    threaded.close()
    again = SqliteStore(tmp_path / "outbox.sqlite")
    assert again.load() == ([replace(report(1), nonce=None)], 2)
    again.close()


def test_a_second_instance_is_one_clear_error(tmp_path: Path) -> None:
    """And the meter is free again when the first has gone."""
    with (
        held(tmp_path / "state"),
        pytest.raises(DeviceError, match="another headroom-meter has this meter"),
        held(tmp_path / "state"),
    ):
        pass
    with held(tmp_path / "state"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="state directory"), held(tmp_path / "file" / "state"):
        pass


def test_a_token_that_everybody_can_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once, at start, with what it should be."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    warn_of_open_token(token)
    assert caplog.records == []
    token.chmod(0o644)
    warn_of_open_token(token)
    assert "readable by everybody" in caplog.text
