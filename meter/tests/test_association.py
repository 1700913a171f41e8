"""The meter read by a third party, the client of the `dlms-cosem` library over TCP; and an attacker at its door."""

from __future__ import annotations

import asyncio
import logging
import os
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
from dlms_cosem.client import ActionError, DataResultError, DlmsClient, HLSError
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
from shared.protection import (
    PairKeys,
    as_dedicated,
    as_global,
    is_protected,
    parse,
    protect,
    protect_group,
    reveal,
)
from shared.secret_files import CounterFile
from shared.session import BLOCK, End, InvocationCounter, Own

T = TypeVar("T")
TITLE = b"THIRD-01"
SET = encode_clock(UTC_S)
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


class Gmac(security.HighLevelSecurityGmacAuthentication):
    """The answer to the challenge is made under the global key, whatever its envelope is under."""

    def hls_generate_reply_data(self, connection: Any) -> bytes:
        with _global(connection):
            return super().hls_generate_reply_data(connection)

    def hls_meter_data_is_valid(self, data: bytes, connection: Any) -> bool:
        with _global(connection):
            return super().hls_meter_data_is_valid(data, connection)


@contextmanager
def _global(connection: Any) -> Iterator[None]:
    used, connection.global_encryption_key = connection.global_encryption_key, connection.first_encryption_key
    yield
    connection.global_encryption_key = used


class Manager(DlmsClient):
    """The library's client as a manager. It names dedicated ciphering and does not do it, so that is done here.

    Attributes:
        dedicated: key that it brings in its request, and uses from the challenge on.
    """

    dedicated: bytes

    def aarq(self) -> Any:
        """Its request, not sealed yet."""
        request = self.dlms_connection.get_aarq()
        request.user_information.content.dedicated_key = self.dedicated
        return request

    def associate(self, association_request: Any = None) -> Any:
        connection: Any = self.dlms_connection
        connection.first_encryption_key = connection.global_encryption_key
        return super().associate(association_request or self.aarq())

    def send_hls_reply(self) -> Any:
        self.dlms_connection.global_encryption_key = self.dedicated
        return super().send_hls_reply()

    def send(self, *events: Any) -> None:
        for event in events:
            data = self.dlms_connection.send(event)
            answer = self.transport.send_request(as_dedicated(data) if is_protected(data) else data)
            self.dlms_connection.receive_data(as_global(answer) or answer)


class Client:
    """The library's client at our door."""

    def __init__(self, port: int) -> None:
        self._port = port

    def _transport(self, level: Level) -> TcpTransport:
        return TcpTransport(level.value, 1, BlockingTcpIO("127.0.0.1", self._port, timeout=5))

    def _client(self, level: Level, authentication: Any) -> DlmsClient:
        return DlmsClient(transport=self._transport(level), authentication=authentication)

    def public(self) -> DlmsClient:
        return self._client(Level.PUBLIC, security.NoSecurityAuthentication())

    def reader(self, password: str = KEYS.client.password) -> DlmsClient:
        return self._client(Level.READER, security.LowLevelSecurityAuthentication(password.encode()))

    def management(
        self, counter: int = 10, pair: PairKeys = KEYS.client.pair, dedicated: bytes | None = None
    ) -> Manager:
        gmac: Any = Gmac(challenge_length=16)
        client = Manager(
            transport=self._transport(Level.MANAGEMENT),
            authentication=gmac,
            encryption_key=pair.encryption,
            authentication_key=pair.authentication,
            client_system_title=TITLE,
            client_initial_invocation_counter=counter,
        )
        client.dedicated = os.urandom(16) if dedicated is None else dedicated
        return client


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

    tested = meter()
    at_the_door(tested, use)
    assert tested.clients.refused == {"read not permitted": 3}


def test_a_block_of_nothing_is_refused() -> None:
    """Who asks for the next block of an answer that was not long."""
    tested, connection = meter(), Client(1).reader().dlms_connection
    association = Association(tested.clients)
    association.handle(Level.READER.value, connection.send(connection.get_aarq()), 0.0)
    assert association.level is Level.READER
    answer = association.handle(Level.READER.value, bytes.fromhex("c0028100000001"), 0.0)
    assert answer[-1] == AccessResult.NO_LONG_GET_IN_PROGRESS
    assert tested.clients.refused == {"no such block": 1}


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
    assert tested.clients.refused == {"write not permitted": 6, "not a time": 1}


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


def serve(association: Association, data: bytes) -> bytes:
    """The answer to a management client."""
    return association.handle(Level.MANAGEMENT.value, data, 0.0)


def wired(
    tested: Meter, client: Manager, between: Callable[[Association, bytes], bytes] = serve
) -> tuple[Manager, Association, list[bytes]]:
    """The library's client on a direct wire, its association, and all it sends; perhaps with somebody between."""
    association = Association(tested.clients)
    sent: list[bytes] = []

    class Wire(TcpTransport):
        """The library's transport without a connection."""

        def connect(self) -> None:
            """There is nothing to connect."""

        def send_request(self, data: bytes) -> bytes:
            sent.append(bytes(data))
            return between(association, bytes(data))

    client.transport = Wire(1, 1, client.transport.io)
    client.transport.connect()
    return client, association, sent


def set_clock(client: Manager) -> None:
    """To an hour that the tests look for."""
    client.set(attribute(CLASS_CLOCK, OBIS_CLOCK, 2), octets(date_time(UTC_S)).to_bytes())


def play(association: Association, messages: list[bytes]) -> None:
    """Each of them is refused."""
    for data in messages:
        assert serve(association, data)[0] == xdlms.ExceptionResponse.TAG


def test_a_wrong_answer_to_the_challenge_opens_nothing_and_uses_the_challenge_up() -> None:
    """One bit of his GMAC is wrong; with the right one to the same challenge he comes too late."""
    tested = meter()
    right: list[bytes] = []

    class Guess(Gmac):
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
    assert tested.clients.refused == {"wrong answer to the challenge": 1, "challenge not answered": 1}
    assert association._reply_to_hls(right[0]) is None


def test_what_an_associated_manager_does_not_cipher_is_not_his() -> None:
    """Somebody else writes on his connection: plain, as a broadcast, with an old counter, from another address."""
    tested = meter()
    client, association, sent = wired(tested, Client(1).management(7))
    client.associate()
    assert association.level is Level.MANAGEMENT
    listed(client)
    pair, own = PairKeys(client.dedicated, KEYS.client.pair.authentication), 1000
    write, read = encode_clock(UTC_S), encode_read_request(8, OBIS_CLOCK, 2, 1)
    right, own_form = (as_dedicated(protect(write, pair, TITLE, own, named=named)) for named in (True, False))
    for data, refusal in (
        (write, "protection"),
        (read, "protection"),
        (as_dedicated(protect_group(write, pair, TITLE, own)), "deciphering"),
        (as_dedicated(protect(write, KEYS.pair, TITLE, own)), "deciphering"),
        (as_dedicated(protect(write, KEYS.client.pair, TITLE, own)), "deciphering"),
        (protect(write, KEYS.client.pair, TITLE, own - 1), "deciphering"),
        (protect(write, pair, TITLE, own), "deciphering"),
        (right.replace(TITLE, b"THIRD-02"), "deciphering"),
        *((bytes((tag,)) + own_form[1:], "deciphering") for tag in (0xD0, 0xD3, 0xD4, 0xD5, 0xD7)),
        *((said, "deciphering") for said in sent[1:]),
    ):
        before = tested.clients.refused[refusal]
        assert association.handle(Level.MANAGEMENT.value, data, 0.0)[0] == xdlms.ExceptionResponse.TAG
        assert tested.clients.refused[refusal] == before + 1
    for sap in (Level.PUBLIC, Level.READER):
        answer = association.handle(sap.value, right, 0.0)
        assert answer[0] == xdlms.ExceptionResponse.TAG
    assert tested.clients.refused["not associated"] == 2
    assert tested.clock == []
    association.handle(Level.MANAGEMENT.value, right, 0.0)
    assert tested.clock == [UTC_S]
    association.handle(Level.MANAGEMENT.value, right, 0.0)
    assert tested.clock == [UTC_S]
    association.handle(Level.MANAGEMENT.value, as_dedicated(protect(write, pair, TITLE, own + 1)), 0.0)
    assert tested.clock == [UTC_S, UTC_S]


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


@pytest.mark.parametrize("seed", [1, 2], ids=["this start", "another start"])
def test_a_client_with_the_meters_own_title_opens_nothing(seed: int) -> None:
    """Our own answers would be his questions."""
    tested, title = meter(1), meter(seed).clients.own.title
    manager = Client(1).management(7)
    manager.dlms_connection.client_system_title = manager.client_system_title = title
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
    play(association, sent[1:])
    assert association.level is Level.MANAGEMENT
    assert len(tested.clock) == 1


def public_counter(of: Meter) -> int:
    """What the counter object tells anybody."""

    def use(client: Client) -> int:
        with session(client.public()) as known:
            return int(value(known, 1, OBIS_COUNTER))

    return at_the_door(of, use)


@pytest.mark.parametrize("dedicated", [None, bytes(16)], ids=["a key drawn", "a key of his configuration"])
@pytest.mark.parametrize("first", [7, BLOCK - 6])
def test_a_restart_brings_no_counter_of_a_client_back(first: int, dedicated: bytes | None, tmp_path: Path) -> None:
    """He has used a few counters of a start, or its last; after the next start, whose disk is the same, he goes on
    where the object says. What was recorded before is refused in his new association, and his own is not."""
    disk = CounterFile(tmp_path / "counters.json")
    before = meter(1, disk.start())
    client, _, recorded = wired(before, Client(1).management(first, dedicated=dedicated))
    client.associate()
    set_clock(client)
    assert before.clock == [UTC_S]
    after = meter(2, disk.start())
    told = public_counter(after)
    assert told >= before.clients.counter
    client, association, _ = wired(after, Client(1).management(told + 1, dedicated=dedicated))
    client.associate()
    assert association.level is Level.MANAGEMENT
    for data in recorded[1:]:
        assert association.handle(Level.MANAGEMENT.value, data, 0.0)[0] == xdlms.ExceptionResponse.TAG
    assert after.clock == []
    assert after.clients.refused == {"deciphering": len(recorded) - 1}
    set_clock(client)
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
    dedicated = PairKeys(client.dedicated, KEYS.client.pair.authentication)
    ahead = as_dedicated(protect(SET, dedicated, TITLE, BLOCK))
    assert serve(association, ahead)[0] == xdlms.ExceptionResponse.TAG
    assert tested.clock == []
    tested.clients.own.counter.extend(2 * BLOCK)
    serve(association, ahead)
    assert tested.clock == [UTC_S]


def test_what_a_manager_said_is_over_with_his_association() -> None:
    """After his release, on the same connection; after his next request on it; after a minute in which nothing of his
    has opened, however much else came."""
    tested = meter()
    client, association, _ = wired(tested, Client(1).management(7))
    client.associate()
    kept = [PairKeys(client.dedicated, KEYS.client.pair.authentication)]
    with pytest.raises(ActionError):
        client.send_hls_reply()
    assert tested.clients.refused == {"action not permitted": 1}
    client.release_association()
    assert serve(association, as_dedicated(protect(SET, kept[0], TITLE, 50)))[0] == 0xD8
    assert tested.clients.refused == {"action not permitted": 1, "not associated": 1}

    manager = Client(1).management(100)
    for data in (manager.dlms_connection.send(manager.aarq()), as_dedicated(protect(SET, kept[0], TITLE, 150))):
        answer = serve(association, data)
    assert answer[0] == 0xD8
    assert tested.clients.refused["deciphering"] == 1

    client, association, _ = wired(tested, Client(1).management(200))
    client.associate()
    kept.append(PairKeys(client.dedicated, KEYS.client.pair.authentication))
    late = as_dedicated(protect(SET, kept[1], TITLE, 250))
    for second in range(62):
        assert association.handle(1, b"\xdc\x00\x13" + bytes(19), float(second))[0] == 0xD8
    assert association.handle(1, late, 62.0)[0] == 0xD8
    assert association.level is None
    assert tested.clock == []


def test_a_manager_draws_a_key_for_each_association() -> None:
    """Who brings none, a short one, one that is known, or the last one again, gets nothing."""
    tested = meter()
    client, association, _ = wired(tested, Client(1).management(7, dedicated=bytes(16)))
    client.associate()
    assert association.level is Level.MANAGEMENT
    pair = KEYS.client.pair
    wrong = [b"", bytes(15), bytes(17), bytes(16), pair.encryption, pair.authentication]
    for counter, dedicated in enumerate(wrong, 100):
        client, association, _ = wired(tested, Client(1).management(counter, dedicated=dedicated))
        with pytest.raises(exceptions.DlmsClientException, match="AUTHENTICATION_REQUIRED"):
            client.associate()
        assert association.level is None
    assert tested.clients.refused == {"no dedicated key of this association": len(wrong)}


def test_a_challenge_is_answered_under_the_dedicated_key_alone() -> None:
    """Right in every other way, but under the global one: it would be as right for another's request. Its counter is
    used, so that the object sends nobody there again."""
    tested, manager = meter(), Client(1).management(7)
    dedicated = PairKeys(manager.dedicated, KEYS.client.pair.authentication)

    def between(association: Association, data: bytes) -> bytes:
        if data[0] == acse.ApplicationAssociationRequest.TAG:
            return serve(association, data)
        envelope = parse(as_global(data) or b"")
        answer = reveal(envelope, dedicated, TITLE) or b""
        return serve(association, protect(answer, KEYS.client.pair, TITLE, envelope.counter, named=True))

    client, association, _ = wired(tested, manager, between)
    with pytest.raises(exceptions.LocalDlmsProtocolError, match="ExceptionResponse"):
        client.associate()
    assert association.level is None
    assert tested.clients.refused == {"challenge not answered": 1, "deciphering": 1}
    assert tested.clients.counter == 8


class Life:
    """A meter's disk, and a manager who sets the clock at each start and goes on where the counter object says.

    Attributes:
        recorded: what he said, a list for each start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.recorded: list[list[bytes]] = []
        CounterFile(path).start()
        self._image = path.read_bytes()

    def restore(self) -> None:
        """The disk is as it was before the first of these starts."""
        self._path.write_bytes(self._image)

    def start(self, seed: int, reserved: int = 0) -> Meter:
        """The meter starts; it has gone on since until it has reserved this many counters."""
        counter = CounterFile(self._path).start()
        counter.extend(max(reserved, counter.end))
        return meter(seed, counter)

    def managed(
        self, tested: Meter, between: Callable[[Association, bytes], bytes] = serve, first: int | None = None
    ) -> tuple[Manager, Association]:
        """He associates."""
        first = public_counter(tested) + 1 if first is None else first
        client, association, said = wired(tested, Client(1).management(first), between)
        self.recorded.append(said)
        client.associate()
        return client, association

    def live(self, starts: int) -> list[int]:
        """So many starts; how far his counters had come when he was associated."""
        used = []
        for seed in range(starts):
            tested = self.start(seed)
            client, _ = self.managed(tested)
            used.append(tested.clients.counter)
            set_clock(client)
            listed(client)
            assert tested.clock == [UTC_S]
            assert tested.clients.refused == {}
        return used


def test_after_an_old_disk_image_recordings_open_nothing(tmp_path: Path) -> None:
    """Since the image the meter has started three times. It is restored, and the manager follows the counter object,
    which has gone back with it: what he says now has counters that he has used. All that was recorded is played to
    whoever may take it: at his challenge, in his association, in its own order; in the form of a dedicated key and
    of a global one."""
    life = Life(tmp_path / "counters.json")
    used = life.live(3)
    sessions = life.recorded[:]
    envelopes = [data for said in sessions for data in said[1:]]
    messages = envelopes + [as_global(data) or b"" for data in envelopes]
    life.restore()

    def between(association: Association, data: bytes) -> bytes:
        answer = serve(association, data)
        if data[0] == acse.ApplicationAssociationRequest.TAG:
            play(association, messages)
        return answer

    tested = life.start(4, 5 * BLOCK)
    client, association = life.managed(tested, between)
    assert tested.clients.counter == used[0] < used[1] < used[2], "the object has gone back"
    refused = tested.clients.refused
    assert refused == {"deciphering": len(messages)}
    play(association, messages)
    assert refused == {"deciphering": 2 * len(messages)}
    assert tested.clock == []
    set_clock(client)
    assert tested.clock == [UTC_S]
    for said in sessions:
        before, again = refused.total(), Association(tested.clients)
        for data in said:
            serve(again, data)
            assert again.level is None
        assert refused.total() - before == len(said)
    assert refused["challenge not answered"] == 2
    play(association, messages)
    assert tested.clock == [UTC_S]


@pytest.mark.parametrize("remembers", [False, True], ids=["follows the object", "remembers his counter"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_nobody_answers_a_challenge_for_a_recorded_request(at: int, remembers: bool, tmp_path: Path) -> None:
    """Somebody between a meter of an old image and the manager puts what was recorded of a request into his, and hands
    everything else on: the manager's answer is under a key that the recorded request did not bring."""
    life = Life(tmp_path / "counters.json")
    used = life.live(3)
    recorded = life.recorded[at]
    parse_aarq: Callable[[bytes], Any] = acse.ApplicationAssociationRequest.from_bytes
    life.restore()
    tested = life.start(4, 5 * BLOCK)
    attacked: list[Association] = []

    def between(association: Association, data: bytes) -> bytes:
        if data[0] == acse.ApplicationAssociationRequest.TAG:
            request = parse_aarq(data)
            request.user_information = parse_aarq(recorded[0]).user_information
            data = request.to_bytes()
        answer = serve(association, data)
        attacked.append(association)
        assert association._pending, "the recorded request was taken"
        return answer

    with pytest.raises(exceptions.LocalDlmsProtocolError, match="ExceptionResponse"):
        life.managed(tested, between, used[-1] + 100 if remembers else None)
    assert len(attacked) == 2
    for data in recorded[1:]:
        serve(attacked[-1], data)
        assert attacked[-1].level is None
    assert tested.clock == []
    assert tested.clients.refused == {
        "deciphering": 1,
        "wrong answer to the challenge": 1,
        "not associated": len(recorded) - 2,
        "challenge not answered": 1,
    }


def test_before_the_challenge_is_answered_nothing_is_served() -> None:
    """A right AARQ alone, as a recording would be: neither GET nor SET, ciphered or plain."""
    tested = meter()
    association = Association(tested.clients)
    manager = Client(1).management(5)
    answer = serve(association, manager.dlms_connection.send(manager.aarq()))
    assert answer[0] == acse.ApplicationAssociationResponse.TAG
    assert association._pending
    title, pair = tested.clients.own.title, KEYS.client.pair
    dedicated = PairKeys(manager.dedicated, pair.authentication)
    for counter, plain in ((10, encode_read_request(8, OBIS_CLOCK, 2, 1)), (12, SET)):
        for data in (plain, protect(plain, pair, TITLE, counter)):
            assert serve(association, data)[0] == xdlms.ExceptionResponse.TAG
            assert association.level is None
        sealed = as_dedicated(protect(plain, dedicated, TITLE, counter + 1))
        answered = reveal(parse(as_global(serve(association, sealed)) or b""), dedicated, title) or b""
        assert answered[0] == xdlms.ExceptionResponse.TAG
        assert association.level is None
    assert tested.clock == []
    assert tested.clients.refused["not associated"] == 2


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
    manager = Client(1).management(5, dedicated=bytes(16))
    aarq = manager.dlms_connection.send(manager.aarq())
    damaged = bytearray(aarq)
    damaged[data.draw(st.integers(0, len(aarq) - 1))] ^= data.draw(st.integers(1, 255))
    serve(association, bytes(damaged))
    assert association.level is None
    whole = Association(meter().clients)
    serve(whole, aarq)
    assert whole._pending, "undamaged it is taken"


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
