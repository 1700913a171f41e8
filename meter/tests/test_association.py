"""The meter read by a third party, the client of the `dlms-cosem` library over TCP; and an attacker at its door."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from dlms_cosem import cosem, enumerations, exceptions, security, utils
from dlms_cosem.client import DataResultError, DlmsClient, HLSError
from dlms_cosem.cosem.association import AccessRight
from dlms_cosem.io import BlockingTcpIO, TcpTransport
from dlms_cosem.parsers import AssociationObjectListParser
from dlms_cosem.protocol import acse, xdlms
from hypothesis import given
from hypothesis import strategies as st

from meter.association import OBIS_ASSOCIATION, OBIS_COUNTER, PUBLIC_OBJECTS, Association, Clients, Level
from meter.core import RelayObserved
from meter.cosem_door import CONNECTIONS_MAX, cosem_door, listen
from meter.cosem_server import OBIS_DEVICE_NAME, OBIS_LIMITER, REGISTERS
from meter.tests.far_end import KEYS, counters
from meter.tests.test_cosem_server import READING, UTC_S, server
from shared.axdr import obis_bytes, octets, to_obis
from shared.cosem import OBIS_GRANT, OBIS_NOMINAL_LIMIT, AccessResult, encode_read_request
from shared.cosem_security import CLASS_CLOCK, OBIS_CLOCK, OBIS_SECURITY_SETUP, date_time, encode_clock
from shared.messages import RelayState
from shared.protection import protect, protect_group
from shared.secret_files import CounterFile
from shared.session import BLOCK, End, InvocationCounter, Own

T = TypeVar("T")
TITLE = b"THIRD-01"
UNKNOWN = {f"1-0:{group}.7.0.255" for group in (63, 64, 71, 72, 76)}


@dataclass
class Meter:
    """A meter's objects, and what a client has set."""

    clients: Clients
    clock: list[float]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The library tells every byte."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def meter(seed: int = 1, counter: InvocationCounter | None = None) -> Meter:
    draw = random.Random(seed)
    clock: list[float] = []
    served, core = server()
    core.handle(RelayObserved(RelayState.NOMINAL), 0.0)
    own = Own.start(End.METER, counter or counters(), draw)
    own.counter.take()
    return Meter(Clients(served, KEYS.client, own, draw, clock.append), clock)


class Client:
    """The library's client at our door."""

    def __init__(self, port: int) -> None:
        self._port = port

    def _client(self, level: Level, authentication: Any, **keys: Any) -> DlmsClient:
        transport = TcpTransport(level.value, 1, BlockingTcpIO("127.0.0.1", self._port, timeout=5))
        return DlmsClient(transport=transport, authentication=authentication, **keys)

    def public(self) -> DlmsClient:
        return self._client(Level.PUBLIC, security.NoSecurityAuthentication())

    def reader(self, password: str = KEYS.client.password) -> DlmsClient:
        return self._client(Level.READER, security.LowLevelSecurityAuthentication(password.encode()))

    def management(self, counter: int = 10, pair: Any = KEYS.client.pair, **more: Any) -> DlmsClient:
        return self._client(
            Level.MANAGEMENT,
            security.HighLevelSecurityGmacAuthentication(challenge_length=16),
            encryption_key=pair.encryption,
            authentication_key=pair.authentication,
            client_system_title=TITLE,
            client_initial_invocation_counter=counter,
            **more,
        )


def at_the_door(of: Meter, use: Callable[[Client], T]) -> T:
    """Serve a meter's objects over TCP while a client, in a thread of its own, uses them."""

    async def world() -> T:
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]

        def associate() -> Callable[[int, bytes], bytes]:
            association = Association(of.clients)
            return lambda sap, apdu: association.handle(sap, apdu, 0.0)

        serving = asyncio.ensure_future(cosem_door(listening)(associate, lambda: None))
        try:
            return await asyncio.wait_for(asyncio.to_thread(use, Client(port)), 20.0)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    return asyncio.run(world())


@contextmanager
def session(client: DlmsClient) -> Iterator[DlmsClient]:
    """As the library's own, but the connection closes also when something goes wrong."""
    client.transport.connect()
    try:
        client.associate()
        yield client
        client.release_association()
    finally:
        client.transport.disconnect()


def attribute(class_id: int, obis: str, number: int) -> cosem.CosemAttribute:
    return cosem.CosemAttribute(enumerations.CosemInterface(class_id), to_obis(obis), number)


def value(client: DlmsClient, class_id: int, obis: str, number: int = 2) -> Any:
    return utils.parse_as_dlms_data(client.get(attribute(class_id, obis, number)))


def listed(client: DlmsClient) -> dict[str, Any]:
    """The object list as the library reads it."""
    items = AssociationObjectListParser.parse_bytes(client.get(attribute(15, OBIS_ASSOCIATION, 2)))
    return {item.logical_name.to_string(): item for item in items}


def read_everything(client: DlmsClient) -> dict[tuple[str, int], Any]:
    """Every attribute the list says may be read; L3 is not connected, and its values are unknown."""
    found: dict[tuple[str, int], Any] = {}
    for obis, item in listed(client).items():
        for number, right in item.attribute_access_rights.items():
            assert AccessRight.READ_ACCESS in right.access_rights, (obis, number)
            if number == 2 and obis in UNKNOWN:
                with pytest.raises(DataResultError, match="TEMPORARY_FAILURE"):
                    value(client, int(item.interface), obis, number)
            elif (obis, number) != (OBIS_ASSOCIATION, 2):
                found[obis, number] = value(client, int(item.interface), obis, number)
    return found


def test_a_public_client_reads_who_this_is_and_no_more() -> None:
    """Without any key: name, clock, counter and the list; a register is not even there."""

    def use(client: Client) -> None:
        with session(client.public()) as public:
            assert listed(public).keys() == PUBLIC_OBJECTS
            assert bytes(value(public, 1, OBIS_DEVICE_NAME)) == b"HDR024844520101"
            assert value(public, 1, OBIS_COUNTER) == 0
            for class_id, obis in ((3, "1-0:32.7.0.255"), (71, OBIS_LIMITER), (64, OBIS_SECURITY_SETUP)):
                with pytest.raises(DataResultError, match="OBJECT_UNDEFINED"):
                    value(public, class_id, obis)

    at_the_door(meter(), use)


@pytest.mark.parametrize("level", ["reader", "management"])
def test_who_shows_himself_reads_every_listed_object(level: str) -> None:
    """By password and by HLS-GMAC: the list comes in blocks, names every object, and each attribute is readable."""

    def use(client: Client) -> dict[tuple[str, int], Any]:
        with session(getattr(client, level)()) as known:
            assert known.dlms_connection.state.current_state.__name__ == "READY"
            return read_everything(known)

    found = at_the_door(meter(), use)
    objects = {obis for obis, _ in found}
    assert set(REGISTERS) | PUBLIC_OBJECTS | {OBIS_LIMITER, OBIS_GRANT, OBIS_NOMINAL_LIMIT} <= objects
    assert found["1-0:32.7.0.255", 2] == 10 * (READING.u_v[0] or 0.0)
    assert bytes(found["1-0:32.7.0.255", 1]) == obis_bytes("1-0:32.7.0.255")
    assert found[OBIS_LIMITER, 4] == 12000
    assert bytes(found[OBIS_CLOCK, 2]) == date_time(UTC_S)
    assert len(found) > 80


def test_only_management_sets_and_only_the_clock() -> None:
    """Everybody else, and every other object, is refused, and nothing has changed."""
    tested = meter()
    when = octets(date_time(UTC_S + 60.0)).to_bytes()

    def use(client: Client) -> list[AccessResult]:
        results = []
        for known in (client.public(), client.reader(), client.management()):
            with session(known) as associated:
                answer = associated.set(attribute(CLASS_CLOCK, OBIS_CLOCK, 2), when)
                results.append(AccessResult(int(answer.result)))
        with session(client.management(100)) as manager:
            rights = listed(manager)[OBIS_CLOCK].attribute_access_rights[2].access_rights
            assert AccessRight.WRITE_ACCESS in rights
            wrong = [
                manager.set(attribute(1, OBIS_GRANT, 2), when),
                manager.set(attribute(71, OBIS_LIMITER, 4), when),
                manager.set(attribute(CLASS_CLOCK, OBIS_CLOCK, 3), when),
                manager.set(attribute(1, "0-0:96.1.0.255", 2), when),
                manager.set(attribute(CLASS_CLOCK, OBIS_CLOCK, 2), octets(b"soon").to_bytes()),
            ]
        return results + [AccessResult(int(answer.result)) for answer in wrong]

    denied = AccessResult.READ_WRITE_DENIED
    results = at_the_door(tested, use)
    assert results[:3] == [denied, denied, AccessResult.SUCCESS]
    assert results[3:] == [denied, denied, denied, AccessResult.OBJECT_UNDEFINED, AccessResult.TYPE_UNMATCHED]
    assert tested.clock == [UTC_S + 60.0]


def test_wrong_credentials_open_nothing() -> None:
    """A wrong password, a wrong key, a counter used before, a password where HLS is asked for."""
    tested = meter()

    def use(client: Client) -> None:
        with session(client.management(50)):
            pass
        swapped = type(KEYS.pair)(KEYS.client.pair.authentication, KEYS.client.pair.encryption)
        wrong = [
            client.reader("reading-onlx"),
            client.reader(""),
            client.management(100, KEYS.pair),
            client.management(100, swapped),
            client.management(10),
            client._client(Level.MANAGEMENT, security.LowLevelSecurityAuthentication(b"reading-only")),
            client._client(Level.READER, security.NoSecurityAuthentication()),
            client._client(Level.PUBLIC, security.LowLevelSecurityAuthentication(b"reading-only")),
        ]
        for one in wrong:
            one.transport.connect()
            with pytest.raises(exceptions.DlmsClientException, match="Unable to perform Association"):
                one.associate()
            one.transport.disconnect()

    at_the_door(tested, use)
    assert sum(tested.clients.refused.values()) == 8


def wired(tested: Meter, client: DlmsClient) -> tuple[DlmsClient, Association, list[bytes]]:
    """The library's client on a direct wire, its association, and everything it sends."""
    association = Association(tested.clients)
    sent: list[bytes] = []

    class Wire(TcpTransport):
        """The library's transport without a connection."""

        def connect(self) -> None:
            """There is nothing to connect."""

        def send_request(self, data: bytes) -> bytes:
            sent.append(bytes(data))
            return association.handle(Level.MANAGEMENT.value, bytes(data), 0.0)

    client.transport = Wire(1, 1, client.transport.io)
    client.transport.connect()
    return client, association, sent


def test_a_wrong_answer_to_the_challenge_opens_nothing_and_uses_the_challenge_up() -> None:
    """One bit of his GMAC is wrong; with the right one to the same challenge he comes too late."""
    tested = meter()
    right: list[bytes] = []

    class Guess(security.HighLevelSecurityGmacAuthentication):
        def hls_generate_reply_data(self, connection: Any) -> bytes:
            right.append(super().hls_generate_reply_data(connection))
            return right[-1][:-1] + bytes((right[-1][-1] ^ 1,))

    manager = Client(1).management(7)
    client, association, _ = wired(tested, manager)
    guess: Any = Guess(challenge_length=16)
    client.authentication = client.dlms_connection.authentication = guess
    with pytest.raises(HLSError):
        client.associate()
    assert association.level is None
    assert len(right) == 1
    assert tested.clients.refused == {"wrong answer to the challenge": 1}
    assert association._reply_to_hls(right[0]) is None


def test_what_an_associated_manager_does_not_cipher_is_not_his() -> None:
    """Somebody else writes on his connection: plain, as a broadcast, with an old counter, from another address."""
    tested = meter()
    client, association, sent = wired(tested, Client(1).management(7))
    client.associate()
    assert association.level is Level.MANAGEMENT
    pair, own = KEYS.client.pair, 1000
    write, read = encode_clock(UTC_S), encode_read_request(8, OBIS_CLOCK, 2, 1)
    for data, refusal in (
        (write, "protection"),
        (read, "protection"),
        (protect_group(write, pair, TITLE, own), "deciphering"),
        (protect(write, KEYS.pair, TITLE, own), "deciphering"),
        (sent[-1], "deciphering"),
    ):
        before = tested.clients.refused[refusal]
        assert association.handle(Level.MANAGEMENT.value, data, 0.0)[0] == xdlms.ExceptionResponse.TAG
        assert tested.clients.refused[refusal] == before + 1
    for sap in (Level.PUBLIC, Level.READER):
        answer = association.handle(sap.value, protect(write, pair, TITLE, own), 0.0)
        assert answer[0] == xdlms.ExceptionResponse.TAG
    assert tested.clients.refused["not associated"] == 2
    assert tested.clock == []
    association.handle(Level.MANAGEMENT.value, protect(write, pair, TITLE, own), 0.0)
    assert tested.clock == [UTC_S]


@pytest.mark.parametrize("control", [(True, False, False), (False, True, False), (True, True, True)])
def test_a_proposal_that_is_not_authenticated_and_encrypted_opens_nothing(
    control: tuple[bool, bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the right keys, but authenticated only, encrypted only, or marked as a broadcast."""
    authenticated, encrypted, broadcast = control
    tested = meter()
    manager = Client(1).management(7)
    wrong = security.SecurityControlField(0, authenticated, encrypted, broadcast)
    monkeypatch.setattr(type(manager.dlms_connection), "security_control", property(lambda _: wrong))
    client, association, sent = wired(tested, manager)
    with pytest.raises(exceptions.DlmsClientException, match="Unable to perform Association"):
        client.associate()
    assert association.level is None
    assert len(sent) == 1
    assert tested.clients.counter == 0


def test_a_client_with_the_meters_own_title_opens_nothing() -> None:
    """Our own answers would be his questions."""
    tested = meter()
    manager = Client(1).management(7)
    manager.dlms_connection.client_system_title = manager.client_system_title = tested.clients.own.title
    client, association, _ = wired(tested, manager)
    with pytest.raises(exceptions.DlmsClientException, match="Unable to perform Association"):
        client.associate()
    assert association.level is None
    assert tested.clients.refused == {"no system title of his own": 1}


def test_a_client_finds_his_counter_and_a_replayed_association_stays_closed() -> None:
    """The counter object says where to go on; recorded bytes of a whole session are refused from the first one on."""
    tested = meter()
    client, association, sent = wired(tested, Client(1).management(7))
    client.associate()
    client.set(attribute(CLASS_CLOCK, OBIS_CLOCK, 2), octets(date_time(UTC_S)).to_bytes())
    assert association.level is Level.MANAGEMENT
    assert len(tested.clock) == 1
    assert tested.clients.counter == client.client_invocation_counter - 1
    again = Association(tested.clients)
    for data in sent:
        again.handle(Level.MANAGEMENT.value, data, 0.0)
        assert again.level is None
    for data in sent:
        association.handle(Level.MANAGEMENT.value, data, 0.0)
    assert len(tested.clock) == 1


@pytest.mark.parametrize("first", [7, BLOCK - 6])
def test_a_restart_brings_no_counter_of_a_client_back(first: int, tmp_path: Path) -> None:
    """He has used a few counters of a start, or its last; after the next start, whose disk is the same, he goes on
    where the object says. What was recorded before is refused in his new association, and his own is not."""
    disk = CounterFile(tmp_path / "counters.json")
    when = octets(date_time(UTC_S)).to_bytes()
    before = meter(1, disk.start())
    client, _, recorded = wired(before, Client(1).management(first))
    client.associate()
    client.set(attribute(CLASS_CLOCK, OBIS_CLOCK, 2), when)
    assert before.clock == [UTC_S]
    after = meter(2, disk.start())
    told: list[int] = []

    def use(public: Client) -> None:
        with session(public.public()) as known:
            told.append(value(known, 1, OBIS_COUNTER))

    at_the_door(after, use)
    assert told[0] >= before.clients.counter
    client, association, _ = wired(after, Client(1).management(told[0] + 1))
    client.associate()
    assert association.level is Level.MANAGEMENT
    for data in recorded[1:]:
        assert association.handle(Level.MANAGEMENT.value, data, 0.0)[0] == xdlms.ExceptionResponse.TAG
    assert after.clock == []
    assert after.clients.refused == {"deciphering": len(recorded) - 1}
    client.set(attribute(CLASS_CLOCK, OBIS_CLOCK, 2), when)
    assert after.clock == [UTC_S]


def test_a_client_uses_no_counter_that_is_not_reserved() -> None:
    """The next start could say it again: refused for an association, and within one; a reservation opens it."""
    tested = meter()
    client, _, _ = wired(tested, Client(1).management(BLOCK))
    with pytest.raises(exceptions.DlmsClientException, match="Unable to perform Association"):
        client.associate()
    assert tested.clients.refused == {"counter not in its range": 1}
    client, association, _ = wired(tested, Client(1).management(7))
    client.associate()
    ahead = protect(encode_clock(UTC_S), KEYS.client.pair, TITLE, BLOCK)
    assert association.handle(Level.MANAGEMENT.value, ahead, 0.0)[0] == xdlms.ExceptionResponse.TAG
    assert tested.clock == []
    tested.clients.own.counter.extend(2 * BLOCK)
    association.handle(Level.MANAGEMENT.value, ahead, 0.0)
    assert tested.clock == [UTC_S]


def test_before_the_challenge_is_answered_nothing_is_served() -> None:
    """A right AARQ alone, as a recording would be: neither GET nor SET, ciphered or plain."""
    tested = meter()
    association = Association(tested.clients)
    connection = Client(1).management(5).dlms_connection
    answer = association.handle(1, connection.send(connection.get_aarq()), 0.0)
    assert answer[0] == acse.ApplicationAssociationResponse.TAG
    assert association.level is None
    for plain in (encode_read_request(8, OBIS_CLOCK, 2, 1), encode_clock(UTC_S)):
        sealed, counter = connection.encrypt(plain)
        control = connection.security_control
        glo = xdlms.GeneralGlobalCipher(TITLE, control, counter, sealed).to_bytes()
        for data in (plain, glo):
            answered = association.handle(1, data, 0.0)
            assert b"\xc4" not in answered[:1]
            assert association.level is None
    assert tested.clock == []


@given(st.lists(st.tuples(st.sampled_from([1, 2, 16, 99]), st.binary(max_size=80)), max_size=5))
def test_garbage_gets_an_answer_and_nothing_else(frames: list[tuple[int, bytes]]) -> None:
    """Any bytes from any address: an exception response or a refusal, and nobody is associated."""
    tested = meter()
    association = Association(tested.clients)
    for sap, data in frames:
        assert association.handle(sap, data, 0.0)
        assert association.level is None
    assert tested.clock == []


@given(st.data())
def test_a_damaged_association_request_opens_no_management(data: st.DataObject) -> None:
    """One byte of a right AARQ changed: whatever is accepted still has to answer the challenge."""
    tested = meter()
    association = Association(tested.clients)
    connection = Client(1).management(5).dlms_connection
    aarq = bytearray(connection.send(connection.get_aarq()))
    aarq[data.draw(st.integers(0, len(aarq) - 1))] ^= data.draw(st.integers(1, 255))
    association.handle(1, bytes(aarq), 0.0)
    assert association.level is None


def test_a_door_cuts_off_what_is_no_wrapper() -> None:
    """A wrong version, another logical device, a length of nothing or of too much; and the fifth at a time."""

    def use(client: Client) -> None:
        for header in ("0002000100010001", "0001001000020001", "0001001000010000", "000100100001ffff"):
            with socket.create_connection(("127.0.0.1", client._port), timeout=5) as link:
                link.sendall(bytes.fromhex(header) + b"\x00")
                assert link.recv(100) == b""
        held = [client.public() for _ in range(CONNECTIONS_MAX)]
        for one in held:
            one.transport.connect()
            one.associate()
        with socket.create_connection(("127.0.0.1", client._port), timeout=5) as link:
            assert link.recv(100) == b""
        for one in held:
            one.transport.disconnect()

    at_the_door(meter(), use)
