"""The inner loops of an allocation as compiled code, where it was built; NumPy does the same where it was not."""

from __future__ import annotations

from types import ModuleType

try:
    from dcu.hosting import _share as _compiled
except ImportError:  # built without the extension
    share: ModuleType | None = None
else:
    share = _compiled
