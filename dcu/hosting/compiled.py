"""The inner loops of an allocation as compiled code, where it was built; NumPy does the same where it was not."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from dcu.grid import sweep


def _found() -> ModuleType | None:
    """The one for the widest registers that this processor has; all of them do the same sums to the last bit."""
    for name in ("_share_avx2", "_share") if "avx2" in sweep.available() else ("_share",):
        try:
            return import_module(f"dcu.hosting.{name}")
        except ImportError:  # built without the extension
            continue
    return None


share: ModuleType | None = _found()
