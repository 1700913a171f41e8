"""A real mosquitto on a loopback port, with mutual TLS 1.3 and a list of who may use which topic; killed at will."""

from __future__ import annotations

import datetime
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dcu.utility.broker import TlsFiles
from dcu.utility.certificates import Issued, issue, new_authority
from shared.errors import DeviceError

HOST: Final = "127.0.0.1"
START_S_MAX: Final = 10.0
ACL: Final = """\
# Each DCU writes below up/ and reads below down/ of its own name, which is its certificate's.
pattern write headroom/%u/up/#
pattern read headroom/%u/down/#
# The utility reads and commands all of them.
user utility
topic read headroom/+/up/#
topic write headroom/+/down/#
"""


def find_mosquitto() -> str | None:
    """The broker's program; None where it is not installed (requirements/system.sh does)."""
    return shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@dataclass
class Mosquitto:
    """One broker and its files."""

    directory: Path
    port: int = 0
    names: tuple[str, ...] = ("dcu-1", "utility")
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        now = datetime.datetime.now(datetime.UTC)
        self.authority = new_authority("bench authority", now)
        self._write("ca", self.authority)
        self._write("broker", issue(self.authority, "broker", now, (HOST, "localhost")))
        for name in self.names:
            self._write(name, issue(self.authority, name, now))
        (self.directory / "acl").write_text(ACL, encoding="ascii")
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        (self.directory / "mosquitto.conf").write_text(self._configuration(data), encoding="ascii")

    def _write(self, name: str, issued: Issued) -> None:
        (self.directory / f"{name}.crt").write_bytes(issued.certificate)
        key = self.directory / f"{name}.key"
        key.write_bytes(issued.key)
        key.chmod(0o600)

    def _configuration(self, data: Path) -> str:
        d = self.directory
        return "\n".join(
            (
                f"listener {self.port} {HOST}",
                "user root",  # started by root it would drop to a user who cannot read these files
                f"cafile {d}/ca.crt",
                f"certfile {d}/broker.crt",
                f"keyfile {d}/broker.key",
                "tls_version tlsv1.3",
                "require_certificate true",
                "use_identity_as_username true",
                f"acl_file {d}/acl",
                "persistence true",
                f"persistence_location {data}/",
                "autosave_on_changes true",
                "autosave_interval 1",
                "max_queued_messages 100000",
                f"log_dest file {d}/mosquitto.log",
                "",
            )
        )

    def files(self, name: str) -> TlsFiles:
        """What a client called so needs."""
        return TlsFiles(self.directory / "ca.crt", self.directory / f"{name}.crt", self.directory / f"{name}.key")

    def start(self) -> None:
        """Returns when it listens.

        Raises:
            DeviceError: not installed, or it does not start.
        """
        program = find_mosquitto()
        if program is None:
            raise DeviceError("mosquitto: not installed; requirements/system.sh installs it")
        self._process = subprocess.Popen(
            [program, "-c", str(self.directory / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until_s = time.monotonic() + START_S_MAX
        while time.monotonic() < until_s and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, self.port)) == 0:
                    return
            time.sleep(0.01)
        raise DeviceError(f"mosquitto: does not start; see {self.directory}/mosquitto.log")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def keeps(self, *words: bytes) -> bool:
        """Whether these bytes are in what it would know after a SIGKILL: it acknowledges first and writes then."""
        path = self.directory / "data/mosquitto.db"
        return path.exists() and all(word in path.read_bytes() for word in words)

    def log(self) -> str:
        """What it wrote."""
        path = self.directory / "mosquitto.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
