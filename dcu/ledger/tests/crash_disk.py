"""A medium whose every operation is recorded, and what it may hold after a power cut at any of them.

Model: content reaches the medium at the latest with `sync`, before that whole, in part (torn at 512 bytes), as zeros of
the right length, or not at all. Names (created, renamed, removed) reach it at the latest with `sync_directory`, before
that each for itself, in any order. A lying medium drops some of the `sync` calls.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from dcu.ledger.files import RealFiles

SECTOR = 512


@dataclass
class Node:
    """A file's content: what is there, and what is surely on the medium."""

    data: bytes = b""
    durable: bytes = b""


@dataclass
class Step:
    """One operation; ``acknowledged`` entries were durable, as the ledger said, before it."""

    kind: str
    acknowledged: int
    path: Path = Path()
    other: Path = Path()
    node: Node | None = None
    data: bytes = b""
    size: int = 0


@dataclass
class RecordingFiles(RealFiles):
    """Does everything for real, and keeps a list of what it did."""

    steps: list[Step] = field(default_factory=list)
    acknowledged: int = 0
    _paths: dict[int, Path] = field(default_factory=dict)

    def _note(self, kind: str, path: Path, **more: object) -> None:
        self.steps.append(Step(kind, self.acknowledged, path, **more))  # type: ignore[arg-type]

    def create(self, path: Path) -> int:
        self._note("create", path)
        handle = super().create(path)
        self._paths[handle] = path
        return handle

    def open(self, path: Path) -> int:
        handle = super().open(path)
        self._paths[handle] = path
        return handle

    def append(self, file: int, data: bytes) -> None:
        self._note("append", self._paths[file], data=data)
        super().append(file, data)

    def sync(self, file: int) -> None:
        self._note("sync", self._paths[file])

    def truncate(self, file: int, size: int) -> None:
        self._note("truncate", self._paths[file], size=size)
        super().truncate(file, size)

    def replace(self, old: Path, new: Path) -> None:
        self._note("replace", old, other=new)
        super().replace(old, new)
        for handle, path in self._paths.items():
            if path == old or old in path.parents:
                self._paths[handle] = new / path.relative_to(old)

    def remove(self, path: Path) -> None:
        self._note("remove", path)
        super().remove(path)

    def remove_directory(self, path: Path) -> None:
        super().remove_directory(path)

    def sync_directory(self, path: Path) -> None:
        self._note("sync_directory", path)


class Medium:
    """Plays steps, then says what may be left of them."""

    def __init__(self, draw: random.Random, lies: float = 0.0) -> None:
        self._draw, self._lies = draw, lies
        self.names: dict[Path, Node] = {}
        self.durable: dict[Path, Node] = {}

    @classmethod
    def holding(cls, directory: Path, draw: random.Random, lies: float = 0.0) -> Medium:
        """One that surely holds what lies in a directory."""
        medium = cls(draw, lies)
        for path in directory.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                medium.names[path] = Node(data, data)
        medium.durable = dict(medium.names)
        return medium

    def play(self, step: Step) -> None:
        """One more operation happens."""
        names = self.names
        match step.kind:
            case "create":
                names[step.path] = Node()
            case "append":
                names[step.path].data += step.data
            case "truncate":
                names[step.path].data = names[step.path].data[: step.size]
            case "replace":
                moved = [path for path in names if path == step.path or step.path in path.parents]
                for path in moved:
                    names[step.other / path.relative_to(step.path) if path != step.path else step.other] = names.pop(
                        path
                    )
            case "remove":
                names.pop(step.path, None)
            case "sync" if self._draw.random() >= self._lies:
                names[step.path].durable = names[step.path].data
            case "sync_directory" if self._draw.random() >= self._lies:
                self._settle(step.path)

    def _settle(self, directory: Path) -> None:
        """Names in a directory, and directories moved there with all that is in them, are on the medium."""
        for path in {*self.names, *self.durable}:
            if path.parent == directory or directory in path.parents:
                if path in self.names:
                    self.durable[path] = self.names[path]
                else:
                    self.durable.pop(path, None)

    def left(self) -> dict[Path, bytes]:
        """One state that a power cut may leave."""
        found: dict[Path, bytes] = {}
        for path in sorted({*self.names, *self.durable}):
            new, old = self.names.get(path), self.durable.get(path)
            node = new if new is old or self._draw.random() < 0.5 else old
            if node is not None:
                found[path] = self._content(node)
        return found

    def _content(self, node: Node) -> bytes:
        if node.data == node.durable:
            return node.data
        kept = len(node.durable) if node.data.startswith(node.durable) else 0
        match self._draw.randrange(4):
            case 0:
                return node.durable
            case 1:
                return node.data
            case 2:
                return node.data[:kept] + bytes(len(node.data) - kept)
        cut = kept + self._draw.randrange(len(node.data) - kept + 1)
        sectors = [node.data[at : at + SECTOR] for at in range(kept, len(node.data), SECTOR)]
        torn = b"".join(part if self._draw.random() < 0.7 else bytes(len(part)) for part in sectors)
        return node.data[:cut] if self._draw.random() < 0.5 else node.data[:kept] + torn


def lay(left: dict[Path, bytes], old: Path, new: Path) -> None:
    """Put a state into another directory."""
    for path, data in left.items():
        target = new / path.relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
