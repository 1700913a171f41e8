"""Where the broker is and whom to trust there; known to the configuration, which needs no MQTT for it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import ConfigError, DecodeError, Fault


@dataclass(frozen=True, slots=True)
class Address:
    """Where the broker listens."""

    host: str
    port: int
    tls: bool


def parse_broker(url: str) -> Address:
    """From ``mqtts://host:8883``; ``mqtt://`` only on the own machine, for benches.

    Raises:
        DecodeError: neither.
    """
    expected = "mqtts://host[:port], or mqtt://127.0.0.1:port for a bench's own broker"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise DecodeError(f"url: seen {url!r}, expected {expected}") from error
    bare = not (parts.path or parts.query or parts.fragment or parts.username)
    if host and bare and parts.scheme == "mqtts":
        return Address(host, 8883 if port is None else port, tls=True)
    if host == "127.0.0.1" and bare and parts.scheme == "mqtt" and port is not None:
        return Address(host, port, tls=False)
    raise DecodeError(f"url: seen {url!r}, expected {expected}")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The pinned authority, and who we are."""

    authority: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 that trusts this authority alone and shows our certificate.

        Raises:
            ConfigError: a file that is missing or no such thing, or a key that is not the certificate's.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        _load(
            "utility.ca_file",
            self.authority,
            "certificates in PEM",
            lambda: context.load_verify_locations(self.authority),
        )
        wanted = "a certificate in PEM, with its key in utility.key_file"
        _load(
            "utility.certificate_file",
            self.certificate,
            wanted,
            lambda: context.load_cert_chain(self.certificate, self.key),
        )
        return context


def _load(key: str, path: Path, wanted: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(str(path), [Fault(key, error.strerror or str(error), wanted)]) from error
