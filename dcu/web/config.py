"""Configuration of the operator's page, and what it refuses to start without."""

from __future__ import annotations

import ipaddress
import os
import secrets
import stat
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, model_validator

from shared.config import Section
from shared.errors import ConfigError, Fault

TOKEN_CHARACTERS_MIN: Final = 24
TOKEN_BYTES_MAX: Final = 4096
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-:\[\]]{1,253}$")]


class Web(Section):
    """Where the page listens and who may see it.

    ``token_file``: who knows its content may look. ``client_ca``: who has a certificate of this authority may look;
    with both, both are asked for. Beyond the loopback interface ``certificate`` and ``key`` are needed.
    ``names``: further host names by which browsers may call the page.
    """

    host: HostName = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8730
    names: Annotated[list[HostName], Field(max_length=16)] = Field(default_factory=list)
    token_file: FilePath | None = None
    certificate: FilePath | None = None
    key: FilePath | None = None
    client_ca: FilePath | None = None
    viewers_max: Annotated[int, Field(ge=1, le=200)] = 16

    @model_validator(mode="after")
    def _never_open(self) -> Web:
        if self.token_file is None and self.client_ca is None:
            raise ValueError("token_file or client_ca; there is no page without authentication (seen neither)")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key together (seen one of them)")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("certificate and key with client_ca (seen none)")
        if self.certificate is None and not is_loopback(self.host):
            raise ValueError(f"certificate and key beyond the loopback interface (seen host {self.host})")
        return self


class Source(Section):
    """The DCU whose street is shown: its page socket, and the directory of its ledger, of which only what is public is
    read. ``log_key`` is the log's key as `headroom-ledger head` prints it; unset, it is taken from the ledger's own key
    file where we may read that. ``store``: the directory of the DCU's store, for what was before this page was started.
    ``show_parts`` also opens a customer's own values in receipts, where the operating system lets us read them.
    """

    socket: Annotated[str, Field(min_length=1, max_length=100)]
    ledger: FilePath | None = None
    log_key: Annotated[str, Field(max_length=400)] | None = None
    store: FilePath | None = None
    show_parts: bool = False
    poll_s: Annotated[float, Field(ge=0.2, le=60.0)] = 1.0


class FeederFile(Section):
    """The network that is drawn; without it customers stand along one line."""

    network: FilePath | None = None


class WebConfig(Section):
    """The whole file."""

    web: Web
    dcu: Source
    feeder: FeederFile = Field(default_factory=FeederFile)

    def beside(self, directory: Path) -> WebConfig:
        """The same with the network's file found from the directory of the configuration."""
        if self.feeder.network is None:
            return self
        return self.model_copy(update={"feeder": FeederFile(network=str(directory / self.feeder.network))})


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine only; a name is not, for it may mean anything tomorrow."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_token(path: Path) -> str:
    """The token that opens the page.

    Raises:
        ConfigError: missing, readable by others, or one that could be guessed.
    """
    where = str(path)
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()[:TOKEN_BYTES_MAX].decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            where, [Fault("token", str(error), "a readable file; headroom-web token makes one")]
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(where, [Fault("mode", f"{mode & 0o777:o}", "600: nobody else may read it")])
    if len(text) < TOKEN_CHARACTERS_MIN or len(set(text)) < 8 or not text.isprintable() or " " in text:
        expected = f"{TOKEN_CHARACTERS_MIN} characters or more, no blanks; headroom-web token makes one"
        raise ConfigError(where, [Fault("token", f"{len(text)} characters", expected)])
    return text


def make_token(path: Path) -> None:
    """A new file with a token of 256 random bits.

    Raises:
        OSError: it exists, or cannot be written.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w", encoding="ascii") as text:
        text.write(secrets.token_urlsafe(32) + "\n")
