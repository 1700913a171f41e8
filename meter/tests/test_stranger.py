"""The meter read by a client that shares no line with it: Gurux's, over TCP.

`test_association` uses the client of the library that our own APDUs are built with; what both sides of that get wrong
alike would not show. This one has its own APDUs, ciphering and interface classes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meter.association import OBIS_ASSOCIATION, OBIS_COUNTER, PUBLIC_OBJECTS, Level
from meter.cosem_door import HEADER_BYTES
from meter.cosem_server import OBIS_LIMITER, REGISTERS
from meter.tests.far_end import KEYS
from meter.tests.test_association import UNKNOWN, at_the_door, meter
from meter.tests.test_cosem_server import READING, UTC_S
from shared.cosem_security import OBIS_CLOCK
from shared.secret_files import CounterFile

pytest.importorskip("gurux_dlms", reason="gurux-dlms is not installed")

from gurux_dlms import GXByteBuffer, GXDateTime, GXReplyData
from gurux_dlms.ConnectionState import ConnectionState
from gurux_dlms.enums import Authentication, InterfaceType, Security
from gurux_dlms.objects import GXDLMSClock, GXDLMSData
from gurux_dlms.secure import GXDLMSSecureClient

TITLE = b"GRX\x00\x00\x00\x00\x07"
MECHANISM = {
    Level.PUBLIC: Authentication.NONE,
    Level.READER: Authentication.LOW,
    Level.MANAGEMENT: Authentication.HIGH_GMAC,
}


class RefusedError(Exception):
    """The meter has answered with a result that is not success."""


@dataclass
class Stranger:
    """Gurux's client and its connection.

    Attributes:
        tags: first bytes of the APDUs that were said and heard, in their order, without repetitions.
    """

    client: Any
    link: socket.socket
    tags: dict[int, None] = field(default_factory=dict)

    def ask(self, frames: list[bytes]) -> Any:
        """The whole answer, blocks put together."""
        reply = GXReplyData()
        for frame in frames:
            reply.clear()
            self._exchange(frame, reply)
            while reply.isMoreData():
                self._exchange(self.client.receiverReady(reply), reply)
        return reply

    def _exchange(self, frame: bytes, reply: Any) -> None:
        self.link.sendall(bytes(frame))
        self.tags[frame[HEADER_BYTES]] = None
        received, pushed = GXByteBuffer(), GXReplyData()
        while not self.client.getData(received, reply, pushed):
            more = self.link.recv(4096)
            assert more, "the meter hung up"
            if not received.size:
                self.tags[more[HEADER_BYTES]] = None
            received.set(more)
        if reply.error:
            raise RefusedError(str(reply.error))

    def value(self, one: Any, number: int) -> Any:
        return self.client.updateValue(one, number, self.ask([self.client.read(one, number)[0]]).value)


@contextmanager
def associated(port: int, level: Level, pdu_bytes_max: int = 1000, counter: int = 100) -> Iterator[Stranger]:
    """He shows who he is in the way that this level asks for, from this counter on, and leaves in an orderly way."""
    password = KEYS.client.password if level is Level.READER else None
    client = GXDLMSSecureClient(True, level.value, 1, MECHANISM[level], password, InterfaceType.WRAPPER)
    client.maxReceivePDUSize = pdu_bytes_max
    if level is Level.MANAGEMENT:
        ciphering = client.ciphering
        ciphering.security, ciphering.systemTitle = Security.AUTHENTICATION_ENCRYPTION, TITLE
        ciphering.blockCipherKey = KEYS.client.pair.encryption
        ciphering.authenticationKey = KEYS.client.pair.authentication
        ciphering.invocationCounter = counter
        ciphering.dedicatedKey = os.urandom(16)
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as link:
        stranger = Stranger(client, link)
        client.parseAareResponse(stranger.ask(client.aarqRequest()).data)
        if level is Level.MANAGEMENT:
            client.settings.connected |= ConnectionState.DLMS  # else its answer goes under the global key
            answer = stranger.ask(client.getApplicationAssociationRequest())
            client.parseApplicationAssociationResponse(answer.data)
        yield stranger
        stranger.ask(client.releaseRequest())


def read_everything(stranger: Stranger) -> tuple[dict[tuple[str, int], Any], set[str]]:
    """Every attribute that the meter lists, by what Gurux makes of it; and the objects it could not have of."""
    answer = stranger.ask([stranger.client.getObjectsRequest()])
    found: dict[tuple[str, int], Any] = {}
    refused: set[str] = set()
    for one in stranger.client.parseObjects(answer.data, True):
        obis = one.logicalName.replace(".", "-", 1).replace(".", ":", 1)
        for attribute in one.attributes:
            try:
                found[obis, attribute.index] = stranger.value(one, attribute.index)
            except RefusedError:
                refused.add(obis)
    return found, refused


@pytest.mark.parametrize("pdu_bytes_max", [128, 1000])
@pytest.mark.parametrize("level", list(Level))
def test_a_stranger_reads_all_that_is_listed_for_him(level: Level, pdu_bytes_max: int) -> None:
    """By no credentials, by password, by HLS-GMAC with everything ciphered; the list in a few blocks, and in many."""
    tested = meter()

    def use(client: Any) -> tuple[dict[tuple[str, int], Any], set[str]]:
        with associated(client._port, level, pdu_bytes_max) as stranger:
            found = read_everything(stranger)
            if level is Level.MANAGEMENT:  # request, challenge; then the dedicated key
                assert list(stranger.tags) == [0x60, 0x61, 0xDC]
            return found

    found, refused = at_the_door(tested, use)
    objects = {obis for obis, _ in found}
    assert found[OBIS_CLOCK, 2].value.timestamp() == UTC_S
    assert tested.clients.refused == {}
    if level is Level.PUBLIC:
        assert objects == PUBLIC_OBJECTS
        assert not refused
        return
    assert refused == UNKNOWN, "a phase that is not connected has no value, and nothing else is refused"
    assert set(REGISTERS) | {OBIS_LIMITER, OBIS_ASSOCIATION, OBIS_COUNTER} <= objects
    assert found["1-0:32.7.0.255", 2] == 10 * (READING.u_v[0] or 0.0)
    assert float(found["1-0:32.7.0.255", 3][0]) == 0.1


def test_a_stranger_goes_on_reading_after_a_restart(tmp_path: Path) -> None:
    """He asks the public object for his counter and takes the next one, before the restart and after it."""
    disk = CounterFile(tmp_path / "counters.json")
    told: list[int] = []

    def use(client: Any) -> set[str]:
        with associated(client._port, Level.PUBLIC) as stranger:
            told.append(stranger.value(GXDLMSData(OBIS_COUNTER.replace("-", ".").replace(":", ".")), 2))
        with associated(client._port, Level.MANAGEMENT, counter=told[-1] + 1) as stranger:
            return read_everything(stranger)[1]

    for seed in (1, 2):
        tested = meter(seed, disk.start())
        assert at_the_door(tested, use) == UNKNOWN
        assert tested.clients.refused == {}
        told.append(tested.clients.counter)
    assert told == sorted(told)


@pytest.mark.parametrize("level", list(Level))
def test_a_stranger_sets_the_clock_as_a_manager_only(level: Level) -> None:
    """In UTC; of the others the wish is refused, and nothing has changed."""
    tested = meter()

    def use(client: Any) -> bool:
        with associated(client._port, level) as stranger:
            clock = GXDLMSClock(OBIS_CLOCK.replace("-", ".").replace(":", "."))
            clock.time = GXDateTime(datetime.fromtimestamp(UTC_S + 60, UTC))
            try:
                stranger.ask(stranger.client.write(clock, 2))
            except RefusedError:
                return False
            return True

    taken = at_the_door(tested, use)
    assert taken is (level is Level.MANAGEMENT)
    assert tested.clock == ([UTC_S + 60] if taken else [])
