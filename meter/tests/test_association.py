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


class Manager(DlmsClient):
    """The library's client as a manager. It names dedicated ciphering and does not do it, so that is done here.

    Attributes:
        dedicated: key that it brings.
        associated: whether it is used already.
    """

    dedicated: bytes
    associated = False

    def associate(self, association_request: Any = None) -> Any:
        request = association_request or self.dlms_connection.get_aarq()
        request.user_information.content.dedicated_key = self.dedicated
        found = super().associate(request)
        self.associated, self.dlms_connection.global_encryption_key = True, self.dedicated
        return found

    def send(self, *events: Any) -> None:
        for event in events:
            data = self.dlms_connection.send(event)
            ciphered = self.associated and is_protected(data)
            answer = self.transport.send_request(as_dedicated(data) if ciphered else data)
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
        gmac: Any = security.HighLevelSecurityGmacAuthentication(challenge_length=16)
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
    listed(client)
    pair, own = PairKeys(client.dedicated, KEYS.client.pair.authentication), 1000
    write, read = encode_clock(UTC_S), encode_read_request(8, OBIS_CLOCK, 2, 1)
    right = as_dedicated(protect(write, pair, TITLE, own, named=True))
    for data, refusal in (
        (write, "protection"),
        (read, "protection"),
        (as_dedicated(protect_group(write, pair, TITLE, own)), "deciphering"),
        (as_dedicated(protect(write, KEYS.pair, TITLE, own)), "deciphering"),
        (as_dedicated(protect(write, KEYS.client.pair, TITLE, own)), "deciphering"),
        (protect(write, KEYS.client.pair, TITLE, own), "deciphering"),
        (protect(write, pair, TITLE, own), "deciphering"),
        (right.replace(TITLE, b"THIRD-02"), "deciphering"),
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
    assert tested.clients.counter == 8, "his request and his answer; what came then was under another key"
    again = Association(tested.clients)
    for data in sent:
        again.handle(Level.MANAGEMENT.value, data, 0.0)
        assert again.level is None
    for data in sent:
        association.handle(Level.MANAGEMENT.value, data, 0.0)
    assert len(tested.clock) == 1


def public_counter(of: Meter) -> int:
    """What the counter object tells anybody."""

    def use(client: Client) -> int:
        with session(client.public()) as known:
            return int(value(known, 1, OBIS_COUNTER))

    return at_the_door(of, use)


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
    told = public_counter(after)
    assert told >= before.clients.counter
    client, association, _ = wired(after, Client(1).management(told + 1))
    client.associate()
    assert association.level is Level.MANAGEMENT
    for data in recorded[1:]:
        assert association.handle(Level.MANAGEMENT.value, data, 0.0)[0] == xdlms.ExceptionResponse.TAG
    assert after.clock == []
    assert after.clients.refused == {"deciphering": len(recorded) - 1}
    client.set(attribute(CLASS_CLOCK, OBIS_CLOCK, 2), when)
    assert after.clock == [UTC_S]


def test_a_client_uses_no_counter_that_is_not_reserved() -> None:
    """The next start could say it again: refused in his request, and in his answer; a reservation opens it."""
    tested = meter()
    for first, refusal, error, words in (
        (BLOCK, "counter not in its range", exceptions.DlmsClientException, "Unable to perform Association"),
        (BLOCK - 1, "deciphering", exceptions.LocalDlmsProtocolError, "ExceptionResponse"),
    ):
        client, association, _ = wired(tested, Client(1).management(first))
        with pytest.raises(error, match=words):
            client.associate()
        assert tested.clients.refused.pop(refusal) == 1
        assert not tested.clients.refused
        assert association.level is None
    tested.clients.own.counter.extend(2 * BLOCK)
    client, association, _ = wired(tested, Client(1).management(BLOCK))
    client.associate()
    assert association.level is Level.MANAGEMENT


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


def test_a_manager_may_answer_the_challenge_under_his_dedicated_key() -> None:
    """Gurux and this library do so under the global one; the answer comes under the key of the question."""
    tested = meter()
    pair, title = KEYS.client.pair, tested.clients.own.title
    manager = Client(1).management(7)
    dedicated = PairKeys(manager.dedicated, pair.authentication)

    def between(association: Association, data: bytes) -> bytes:
        if not is_protected(data):
            return serve(association, data)
        asked = protect(reveal(parse(data), pair, TITLE) or b"", dedicated, TITLE, 0)
        answer = parse(as_global(serve(association, as_dedicated(asked))) or b"")
        return protect(reveal(answer, dedicated, title) or b"", pair, title, answer.counter, named=True)

    client, association, _ = wired(tested, manager, between)
    client.associate()
    assert association.level is Level.MANAGEMENT
    assert tested.clients.refused == {}
    assert tested.clients.counter == 7


def test_after_an_old_disk_image_recordings_open_nothing(tmp_path: Path) -> None:
    """Since the image the meter has started three times, and a manager has set the clock each time. It is restored, and
    he follows the counter object, which has gone back with it: what he says now has counters that he has used. All
    that was recorded is played to whoever may take it: at his challenge, in his association, and in its own order."""
    path = tmp_path / "counters.json"
    when = octets(date_time(UTC_S)).to_bytes()
    CounterFile(path).start()
    image = path.read_bytes()
    recorded: list[list[bytes]] = []

    def managed(seed: int, at_challenge: list[bytes], reserved: int = 0) -> tuple[Meter, Manager, Association]:
        """A start of the meter, and a manager who goes on where the counter object says."""
        counter = CounterFile(path).start()
        counter.extend(max(reserved, counter.end))
        tested = meter(seed, counter)

        def between(association: Association, data: bytes) -> bytes:
            answer = serve(association, data)
            if data[0] == acse.ApplicationAssociationRequest.TAG:
                play(association, at_challenge)
            return answer

        manager = Client(1).management(public_counter(tested) + 1)
        client, association, said = wired(tested, manager, between)
        recorded.append(said)
        client.associate()
        return tested, client, association

    def play(association: Association, messages: list[bytes]) -> None:
        for data in messages:
            assert serve(association, data)[0] == xdlms.ExceptionResponse.TAG

    used: list[int] = []
    for seed in (1, 2, 3):
        tested, client, _ = managed(seed, [])
        used.append(tested.clients.counter)
        client.set(attribute(CLASS_CLOCK, OBIS_CLOCK, 2), when)
        listed(client)
        assert tested.clock == [UTC_S]
    sessions = recorded[:]
    later = [data for said in sessions for data in said[2:]]
    path.write_bytes(image)

    tested, client, association = managed(4, later, 5 * BLOCK)
    refused = tested.clients.refused
    assert refused == {"deciphering": len(later)}
    assert recorded[-1][0] != sessions[0][0]
    assert tested.clients.counter == used[0] < used[1] < used[2], "the object has gone back"
    answers = [said[1] for said in sessions]
    play(association, later + answers)
    assert refused == {"deciphering": 2 * len(later) + len(answers)}
    assert tested.clock == []
    before = refused.total()
    for said in sessions:
        again = Association(tested.clients)
        for data in said:
            serve(again, data)
            assert again.level is None
    challenged = len(sessions) - refused["counter not in its range"]
    assert challenged == 2
    assert refused.total() - before == sum(len(said) for said in sessions) - challenged
    assert tested.clock == []
    client.set(attribute(CLASS_CLOCK, OBIS_CLOCK, 2), when)
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
