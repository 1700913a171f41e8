"""Associations of reading tools: who a DLMS client is, and what he may read and set. Pure.

Three kinds of client, by the address he connects from:

===  ===========  ====================================================  ==============================================
SAP  client       shows who he is by                                    may
===  ===========  ====================================================  ==============================================
16   public       nothing                                               read name, clock, counter, this list
2    reader       password (LLS), which anybody on the line overhears   read everything
1    management   HLS-GMAC (mechanism 5), every APDU ciphered           read everything, set the clock
                  under a dedicated key
===  ===========  ====================================================  ==============================================

None of them is the DCU: its session is another (`shared.session`), with other keys, and the objects that raise a limit
are written there alone. So the keys of a reading tool, and its faults, raise nothing.

Class, attribute and method numbers are recalled from the Blue Book and not checked against it. Suite 0 as in
`shared.protection`. A management client's counters rise, over restarts too: each start takes them from the block that
it has reserved on disk for its own counters only, and 0-0:43.1.0.255 says where they are.

A meter that was restored from an old disk image has forgotten how far they had come, and a client's title never
changes: what he said before would open under the same keys once more. So he draws a dedicated key for each association
and brings it in his request. Everything after that is under it, his answer to our challenge first of all: who has put a
recorded request in the place of his gets an answer that does not open, and who plays his request again gets none.
"""

from __future__ import annotations

import hmac
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from dlms_cosem import dlms_data, enumerations, security
from dlms_cosem.protocol import acse, xdlms
from dlms_cosem.protocol.xdlms.conformance import Conformance

from meter.cosem_server import CLASS_DATA, OBIS_DEVICE_NAME, CosemServer
from shared.axdr import CosemValue, enum, null, obis_bytes, octets, structure
from shared.cosem import AccessResult, ReadRequest, decode_apdu, encode_read_answer, encode_write_answer
from shared.cosem_security import CLASS_SECURITY_SETUP, OBIS_CLOCK, OBIS_SECURITY_SETUP, decode_clock
from shared.errors import DecodeError
from shared.keys import ClientKeys
from shared.protection import (
    KEY_BYTES,
    TITLE_BYTES,
    PairKeys,
    Spliced,
    as_dedicated,
    as_global,
    is_protected,
    parse,
    protect,
    reveal,
)
from shared.session import End, Own

CLASS_ASSOCIATION: Final = 15
OBIS_ASSOCIATION: Final = "0-0:40.0.0.255"
OBIS_COUNTER: Final = "0-0:43.1.0.255"
REPLY_TO_HLS: Final = 1

READ: Final = 1
READ_WRITE: Final = 3
"""Access modes of an attribute; 0 is none."""

PDU_BYTES_MAX: Final = 1021
"""Longest APDU we take, and give unless the client takes less."""

PDU_BYTES_MIN: Final = 64
"""A client that takes less gets nothing."""

BLOCK_OVERHEAD: Final = 48
"""Of an answer in blocks: its header, and the envelope round it."""

CHALLENGE_BYTES: Final = 16

QUIET_S_MAX: Final = 60.0
"""[s] A management client who says nothing for so long is not associated any more: what somebody has kept back of him
comes too late then. Only what opens counts as said."""

VERSIONS: Final = {CLASS_ASSOCIATION: 1}
"""Versions of interface classes that are not 0."""

_GMAC: Final = security.SecurityControlField(0, authenticated=True, encrypted=False)
_GMAC_BYTE: Final = b"\x10"
_UNANSWERED: Final = "challenge not answered"
_DIAGNOSTICS: Final = enumerations.AcseServiceUserDiagnostics
_MECHANISM: Final = enumerations.AuthenticationMechanism


class Level(Enum):
    """Who a client is; the value is the address he connects from."""

    PUBLIC = 16
    READER = 2
    MANAGEMENT = 1


PUBLIC_OBJECTS: Final = frozenset((OBIS_CLOCK, OBIS_DEVICE_NAME, OBIS_COUNTER, OBIS_ASSOCIATION))
_MECHANISMS: Final = {Level.READER: _MECHANISM.LLS, Level.MANAGEMENT: _MECHANISM.HLS_GMAC}


class NotHimError(Exception):
    """A client that did not show who he is; ``diagnostic`` goes to him, the words to our counters."""

    def __init__(self, diagnostic: enumerations.AcseServiceUserDiagnostics, words: str) -> None:
        super().__init__(words)
        self.diagnostic = diagnostic


@dataclass
class Clients:
    """What all associations of one meter share.

    Attributes:
        server: the objects.
        keys: of the reading tools.
        own: title and counters of this start.
        draw: source of challenges.
        set_clock: called with the time a management client sets [s].
        counter: highest that a management client has used; his next has to be above it, under whichever key. Before he
            comes it stands behind everything that an earlier start has reserved.
        dedicated: the dedicated key that was brought last; who brings it again has not drawn one.
        refused: what was refused, by words; a challenge counts until it is answered.
    """

    server: CosemServer
    keys: ClientKeys
    own: Own
    draw: random.Random
    set_clock: Callable[[float], None]
    counter: int = field(init=False)
    dedicated: bytes = field(init=False, default=b"", repr=False)
    refused: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.counter = self.own.counter.next - 1

    def take(self, counter: int) -> bool:
        """Whether a client's counter rises, and is reserved, so that no later start takes it; it is used up then."""
        if not self.counter < counter < self.own.counter.end:
            return False
        self.counter = counter
        return True

    def answered(self) -> None:
        """A challenge was."""
        self.refused -= Counter({_UNANSWERED: 1})

    def draws(self, dedicated: bytes) -> bool:
        """Whether a management client brings a key for one association, as far as we can tell."""
        known = (self.keys.pair.encryption, self.keys.pair.authentication, self.dedicated)
        if len(dedicated) != KEY_BYTES or dedicated in known:
            return False
        self.dedicated = dedicated
        return True


class Association:
    """One client's connection, from his AARQ to his release."""

    def __init__(self, clients: Clients, levels: frozenset[Level] = frozenset(Level)) -> None:
        """A connection on which nobody has introduced himself.

        Args:
            clients: of this meter.
            levels: who may associate here; a password has no business on a line where others listen.
        """
        self._clients = clients
        self._levels = levels
        self._forget()

    @property
    def level(self) -> Level | None:
        """Who is associated."""
        return None if self._pending else self._level

    def handle(self, sap: int, data: bytes, now: float) -> bytes:
        """The answer to an APDU from a client's address at ``now`` [s]; whatever comes, there is one."""
        try:
            return self._handle(sap, data, now)
        except (
            DecodeError,
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AssertionError,
            AttributeError,
            NotImplementedError,
        ):
            return self._exception("malformed", enumerations.ServiceException.OTHER_REASON)

    def _forget(self) -> None:
        self._level: Level | None = None
        self._pending = False
        self._sap = 0
        self._title = b""
        self._to_client = b""
        self._to_server = b""
        self._pdu_bytes_max = PDU_BYTES_MAX
        self._blocks: list[bytes] = []
        self._dedicated: PairKeys | None = None
        self._heard_s = -math.inf

    def _handle(self, sap: int, data: bytes, now: float) -> bytes:
        if not data or len(data) > PDU_BYTES_MAX:
            return self._exception("too long", enumerations.ServiceException.PDU_TOO_LONG)
        if data[0] == acse.ApplicationAssociationRequest.TAG:
            self._forget()
            self._heard_s = now
            return self._associate(sap, data)
        if self._level is Level.MANAGEMENT and now - self._heard_s > QUIET_S_MAX:
            self._forget()
        if self._level is None or sap != self._sap:
            return self._exception("not associated", enumerations.ServiceException.OPERATION_NOT_POSSIBLE)
        if data[0] == acse.ReleaseRequest.TAG:
            self._forget()
            return _bytes(acse.ReleaseResponse(enumerations.ReleaseResponseReason.NORMAL))
        dedicated = as_global(data)
        ciphered = dedicated is not None or is_protected(data)
        if ciphered != (self._level is Level.MANAGEMENT):
            return self._exception("protection", enumerations.ServiceException.OPERATION_NOT_POSSIBLE)
        if not ciphered:
            return self._serve(data, now)
        if dedicated is None:
            self._opened(data, self._clients.keys.pair)  # it opens nothing, but its counter has been used
        keys = self._dedicated
        if keys is None or dedicated is None or (plain := self._opened(dedicated, keys)) is None:
            return self._exception("deciphering", enumerations.ServiceException.DECIPHERING_ERROR)
        self._heard_s, counter = now, self._counter()
        return as_dedicated(protect(self._serve(plain, now), keys, self._clients.own.title, counter, named=True))

    # ---- who he is ---------------------------------------------------------------------------------------------------

    def _associate(self, sap: int, data: bytes) -> bytes:
        parse_request: Callable[[bytes], Any] = acse.ApplicationAssociationRequest.from_bytes
        request = parse_request(data)
        try:
            level = self._identified(sap, request)
            initiate = self._initiated(level, request)
        except NotHimError as error:
            self._clients.refused[str(error)] += 1
            return _bytes(_rejected(error.diagnostic, ciphered=bool(request.ciphered)))
        taken = initiate.client_max_receive_pdu_size or PDU_BYTES_MAX
        self._pdu_bytes_max = min(PDU_BYTES_MAX, taken)
        self._level, self._sap = level, sap
        self._pending = level is Level.MANAGEMENT
        return _bytes(self._accepted(level))

    def _identified(self, sap: int, request: Any) -> Level:
        """The level of this address, if he has shown what it asks for.

        Raises:
            NotHimError: he has not.
        """
        level = next((level for level in self._levels if level.value == sap), None)
        if level is None:
            raise NotHimError(_DIAGNOSTICS.NO_REASON_GIVEN, "unknown client address")
        wanted = _MECHANISMS.get(level, _MECHANISM.NONE)
        if (request.authentication or _MECHANISM.NONE) != wanted:
            raise NotHimError(_DIAGNOSTICS.AUTHENTICATION_MECHANISM_NAME_NOT_RECOGNIZED, "another mechanism")
        if bool(request.ciphered) != (level is Level.MANAGEMENT):
            raise NotHimError(_DIAGNOSTICS.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED, "another context")
        value = bytes(request.authentication_value or b"")
        if level is Level.READER and not hmac.compare_digest(value, self._clients.keys.password.encode()):
            raise NotHimError(_DIAGNOSTICS.AUTHENTICATION_FAILED, "wrong password")
        if level is Level.MANAGEMENT:
            self._title, self._to_server = bytes(request.system_title or b""), value
            if len(self._title) != TITLE_BYTES or self._title.startswith(End.METER.value):
                raise NotHimError(_DIAGNOSTICS.CALLING_AP_TITLE_NOT_RECOGNIZED, "no system title of his own")
            if not 8 <= len(value) <= 64:
                raise NotHimError(_DIAGNOSTICS.AUTHENTICATION_REQUIRED, "no challenge")
        return level

    def _initiated(self, level: Level, request: Any) -> xdlms.InitiateRequest:
        """What he proposes, deciphered.

        Raises:
            NotHimError: it is not there, or not under his keys, or its counter was used before or is not reserved, or
                it brings no dedicated key.
        """
        content: Any = getattr(request.user_information, "content", None)
        if level is Level.MANAGEMENT and isinstance(content, xdlms.GlobalCipherInitiateRequest):
            pair = self._clients.keys.pair
            control, counter = content.security_control, content.invocation_counter
            try:
                plain = security.decrypt(
                    control, self._title, counter, pair.encryption, content.ciphered_text, pair.authentication
                )
            except Exception as error:
                raise NotHimError(_DIAGNOSTICS.AUTHENTICATION_FAILED, "wrong key") from error
            if not (
                control.authenticated and control.encrypted and not control.broadcast_key
            ) or not self._clients.take(counter):
                raise NotHimError(_DIAGNOSTICS.AUTHENTICATION_FAILED, "counter not in its range")
            content = xdlms.InitiateRequest.from_bytes(bytes(plain))
        elif level is Level.MANAGEMENT:
            raise NotHimError(_DIAGNOSTICS.AUTHENTICATION_REQUIRED, "initiate request not ciphered")
        if not isinstance(content, xdlms.InitiateRequest):
            raise NotHimError(_DIAGNOSTICS.NO_REASON_GIVEN, "no initiate request")
        if level is Level.MANAGEMENT:
            dedicated = content.dedicated_key or b""
            if not self._clients.draws(dedicated):
                raise NotHimError(_DIAGNOSTICS.AUTHENTICATION_REQUIRED, "no dedicated key of this association")
            self._dedicated = PairKeys(dedicated, self._clients.keys.pair.authentication)
        if 0 < content.client_max_receive_pdu_size < PDU_BYTES_MIN:
            raise NotHimError(_DIAGNOSTICS.NO_REASON_GIVEN, "takes too little")
        return content

    def _accepted(self, level: Level) -> acse.ApplicationAssociationResponse:
        ciphered = level is Level.MANAGEMENT
        conformance = Conformance(
            general_protection=ciphered,
            block_transfer_with_get_or_read=True,
            get=True,
            set=ciphered,
            action=ciphered,
        )
        content: Any = xdlms.InitiateResponse(conformance, PDU_BYTES_MAX)
        if ciphered:
            self._to_client = self._clients.draw.randbytes(CHALLENGE_BYTES)
            self._clients.refused[_UNANSWERED] += 1
            counter = self._counter()
            pair, title = self._clients.keys.pair, self._clients.own.title
            control = security.SecurityControlField(0, authenticated=True, encrypted=True)
            sealed = security.encrypt(control, title, counter, pair.encryption, content.to_bytes(), pair.authentication)
            content = xdlms.GlobalCipherInitiateResponse(control, counter, sealed)
        diagnostic = _DIAGNOSTICS.AUTHENTICATION_REQUIRED if ciphered else _DIAGNOSTICS.NULL
        return acse.ApplicationAssociationResponse(
            enumerations.AssociationResult.ACCEPTED,
            diagnostic,
            ciphered=ciphered,
            authentication=_MECHANISMS.get(level),
            system_title=self._clients.own.title if ciphered else None,
            authentication_value=self._to_client if ciphered else None,
            user_information=acse.UserInformation(content),
        )

    def _reply_to_hls(self, data: bytes) -> bytes | None:
        """Our answer to his challenge, if his to ours is right: control byte, counter, GMAC; None if it is not."""
        pair = self._clients.keys.pair
        if len(data) != 5 + security.TAG_LENGTH or data[:1] != _GMAC_BYTE:
            return None
        counter = int.from_bytes(data[1:5], "big")
        keys = (pair.encryption, pair.authentication)
        expected = security.gmac(_GMAC, self._title, counter, *keys, self._to_client)
        if not hmac.compare_digest(expected, data[5:]):
            return None
        own = self._counter()
        mine = security.gmac(_GMAC, self._clients.own.title, own, *keys, self._to_server)
        return bytes(_GMAC_BYTE + own.to_bytes(4, "big") + mine)

    # ---- envelopes ---------------------------------------------------------------------------------------------------

    def _opened(self, data: bytes, keys: PairKeys) -> bytes | None:
        """What is in an envelope of his under these keys; None if it is not, or was there before."""
        envelope = parse(data)
        if envelope.group or envelope.title not in {b"", self._title}:
            return None
        try:
            plain = reveal(envelope, keys, self._title)
        except Spliced:
            return None
        return plain if plain is not None and self._clients.take(envelope.counter) else None

    def _counter(self) -> int:
        """A counter nobody had (ValueError if there is none: then nothing is answered)."""
        counter = self._clients.own.counter.take()
        if counter is None:
            raise ValueError("no counter is left")
        return counter

    # ---- services ----------------------------------------------------------------------------------------------------

    def _serve(self, data: bytes, now: float) -> bytes:
        if data[0] == xdlms.ActionRequestNormal.TAG:
            return self._act(xdlms.ActionRequestNormal.from_bytes(data))
        if self._pending:
            return self._exception("not associated", enumerations.ServiceException.OPERATION_NOT_POSSIBLE)
        if data[:2] == b"\xc0\x02" and len(data) == 7:
            return self._next_block(data[2] & 0xF, int.from_bytes(data[3:], "big"))
        if data[0] == xdlms.SetRequestNormal.TAG:
            return self._set(xdlms.SetRequestNormal.from_bytes(data))
        request = decode_apdu(data) if data[0] == xdlms.GetRequestNormal.TAG else None
        if not isinstance(request, ReadRequest):
            return self._exception("unknown service", enumerations.ServiceException.SERVICE_NOT_SUPPORTED)
        value = self.read(request, now)
        if isinstance(value, AccessResult) and value is not AccessResult.TEMPORARY_FAILURE:
            self._clients.refused["read not permitted"] += 1
        return self._in_blocks(request.invoke_id, value)

    def read(self, request: ReadRequest, now: float) -> CosemValue | AccessResult:
        """The value of one attribute, or why this client does not get it."""
        known = self._objects().get(request.obis)
        if known is None or self._level is None:
            return AccessResult.OBJECT_UNDEFINED
        class_id, attributes = known
        if request.class_id != class_id:
            return AccessResult.OBJECT_CLASS_INCONSISTENT
        if request.attribute not in attributes or self._mode(request.obis, request.attribute) == 0:
            return AccessResult.READ_WRITE_DENIED
        if request.attribute == 1:
            return octets(obis_bytes(request.obis))
        own = self._own_objects().get(request.obis)
        if own is not None:
            return own[1][request.attribute]()
        return self._clients.server.read(request.class_id, request.obis, request.attribute, now)

    def _set(self, request: xdlms.SetRequestNormal) -> bytes:
        attribute = request.cosem_attribute
        obis, invoke_id = attribute.instance.to_string(), request.invoke_id_and_priority.invoke_id
        known = self._objects().get(obis)
        if known is None:
            self._clients.refused["write not permitted"] += 1
            return encode_write_answer(invoke_id, AccessResult.OBJECT_UNDEFINED)
        if self._mode(obis, attribute.attribute) != READ_WRITE:
            self._clients.refused["write not permitted"] += 1
            return encode_write_answer(invoke_id, AccessResult.READ_WRITE_DENIED)
        try:
            written = decode_clock(request)
        except DecodeError:
            self._clients.refused["not a time"] += 1
            return encode_write_answer(invoke_id, AccessResult.TYPE_UNMATCHED)
        self._clients.set_clock(written.utc_s)
        return encode_write_answer(invoke_id, AccessResult.SUCCESS)

    def _act(self, request: xdlms.ActionRequestNormal) -> bytes:
        method, invoke = request.cosem_method, request.invoke_id_and_priority
        seen = (int(method.interface), method.instance.to_string(), method.method)
        wanted = (CLASS_ASSOCIATION, OBIS_ASSOCIATION, REPLY_TO_HLS)
        denied = xdlms.ActionResponseNormal(enumerations.ActionResultStatus.READ_WRITE_DENIED, invoke)
        if not self._pending or seen != wanted or request.data is None:
            self._clients.refused["action not permitted"] += 1
            return _bytes(denied)
        data = bytes(request.data)
        mine = self._reply_to_hls(data[2:]) if data[:1] == b"\x09" else None
        if mine is None:
            self._clients.refused["wrong answer to the challenge"] += 1
            self._level, self._pending = Level.MANAGEMENT, True
            self._to_client = self._clients.draw.randbytes(CHALLENGE_BYTES)  # one guess for each challenge
            return _bytes(denied)
        self._pending = False
        self._clients.answered()
        value = octets(mine).to_bytes()
        success = enumerations.ActionResultStatus.SUCCESS
        return _bytes(xdlms.ActionResponseNormalWithData(success, value, invoke))

    # ---- long answers ------------------------------------------------------------------------------------------------

    def _in_blocks(self, invoke_id: int, value: CosemValue | AccessResult) -> bytes:
        whole = encode_read_answer(invoke_id, value)
        self._blocks = []
        if isinstance(value, AccessResult) or len(whole) + BLOCK_OVERHEAD <= self._pdu_bytes_max:
            return whole
        data: bytes = value.to_bytes()
        size = self._pdu_bytes_max - BLOCK_OVERHEAD
        self._blocks = [data[at : at + size] for at in range(0, len(data), size)]
        return self._block(invoke_id, 1)

    def _next_block(self, invoke_id: int, acknowledged: int) -> bytes:
        if not 1 <= acknowledged < len(self._blocks):
            self._blocks = []
            self._clients.refused["no such block"] += 1
            return encode_read_answer(invoke_id, AccessResult.NO_LONG_GET_IN_PROGRESS)
        return self._block(invoke_id, acknowledged + 1)

    def _block(self, invoke_id: int, number: int) -> bytes:
        last = number == len(self._blocks)
        kind = xdlms.GetResponseLastBlock if last else xdlms.GetResponseWithBlock
        return _bytes(kind(self._blocks[number - 1], number, xdlms.InvokeIdAndPriority(invoke_id)))

    # ---- objects and rights ------------------------------------------------------------------------------------------

    def _mode(self, obis: str, attribute: int) -> int:
        """What this client may do with an attribute."""
        if self._level is Level.PUBLIC and obis not in PUBLIC_OBJECTS:
            return 0
        if self._level is Level.MANAGEMENT and (obis, attribute) == (OBIS_CLOCK, 2):
            return READ_WRITE
        return READ

    def _objects(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Everything there is for this client: class and attributes by OBIS code."""
        own = {obis: (kind, (1, *attributes)) for obis, (kind, attributes) in self._own_objects().items()}
        found = {**self._clients.server.listed(), **own}
        return {obis: item for obis, item in found.items() if self._mode(obis, 1)}

    def _own_objects(self) -> dict[str, tuple[int, dict[int, Callable[[], CosemValue]]]]:
        own = self._clients.own
        return {
            OBIS_ASSOCIATION: (
                CLASS_ASSOCIATION,
                {2: self._object_list, 3: self._partners, 8: lambda: enum(1 if self._pending else 2)},
            ),
            OBIS_COUNTER: (CLASS_DATA, {2: lambda: dlms_data.DoubleLongUnsignedData(max(0, self._clients.counter))}),
            OBIS_SECURITY_SETUP: (
                CLASS_SECURITY_SETUP,
                {
                    2: lambda: enum(3),  # everything authenticated and encrypted
                    3: lambda: enum(0),
                    4: lambda: octets(self._title),
                    5: lambda: octets(own.title),
                },
            ),
        }

    def _partners(self) -> CosemValue:
        return structure(dlms_data.IntegerData(self._sap), dlms_data.UnsignedLongData(1))

    def _object_list(self) -> CosemValue:
        return dlms_data.DataArray([self._entry(obis, *item) for obis, item in sorted(self._objects().items())])

    def _entry(self, obis: str, class_id: int, attributes: tuple[int, ...]) -> CosemValue:
        rights = [
            structure(dlms_data.IntegerData(number), enum(self._mode(obis, number)), null()) for number in attributes
        ]
        replies = obis == OBIS_ASSOCIATION and self._level is Level.MANAGEMENT
        methods = [structure(dlms_data.IntegerData(REPLY_TO_HLS), enum(1))] if replies else []
        return structure(
            dlms_data.UnsignedLongData(class_id),
            dlms_data.UnsignedIntegerData(VERSIONS.get(class_id, 0)),
            octets(obis_bytes(obis)),
            structure(dlms_data.DataArray(rights), dlms_data.DataArray(methods)),
        )

    def _exception(self, words: str, service: enumerations.ServiceException) -> bytes:
        self._clients.refused[words] += 1
        return _bytes(xdlms.ExceptionResponse(enumerations.StateException.SERVICE_NOT_ALLOWED, service))


def _rejected(
    diagnostic: enumerations.AcseServiceUserDiagnostics, *, ciphered: bool
) -> acse.ApplicationAssociationResponse:
    result = enumerations.AssociationResult.REJECTED_PERMANENT
    return acse.ApplicationAssociationResponse(result, diagnostic, ciphered=ciphered)


def _bytes(apdu: Any) -> bytes:
    return bytes(apdu.to_bytes())
