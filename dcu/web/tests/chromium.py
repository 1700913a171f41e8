"""How tests and benchmarks start Chromium: without a screen, and without a word to anybody outside."""

from __future__ import annotations

from typing import Final

FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
