"""A survey as SVG: the tree from top to bottom, a column for each hop, every link coloured by its signal.

As wide as the page up to its natural width, so that a phone shows all of it; readable on light and dark pages. Whoever
looks at one node finds everything about it in its tooltip.
"""

from __future__ import annotations

import textwrap
from typing import Final
from xml.sax import saxutils

from prime_plc.survey import Survey, Surveyed, printable, words

NAMESPACE: Final = "http://www.w3.org/2000/svg"
ROW: Final = 18
COLUMN: Final = 28
MARGIN: Final = 14
BEND: Final = 8
DOT: Final = 4.5
LOSS_SHOWN: Final = 0.02
"""Losses from here on are written beside a node."""

LOSS_UNUSUAL: Final = 1.5
"""Times what is usual, from which on a loss is marked: where bursts take a third of everything, that is no fault of a
link."""

WIDTH_MIN: Final = 380
LETTER: Final = 6.2
"""Width of a letter at most, on average; letters of the title are half as wide again."""

SIGNALS_DB: Final = ((19.0, "s3", "19 dB and more"), (9.0, "s2", "9 to 19 dB"), (-99.0, "s1", "under 9 dB"))
"""Classes by what modulation is possible (`links.GIVE_UP_DB`): uncoded D8PSK, uncoded DBPSK or D8PSK_C, less."""

UNKNOWN: Final = ("s0", "not measured")
DOWN, UP = "↓", "↑"

STYLE: Final = """
svg { --page: #fcfcfb; --ink: #1c1c1a; --quiet: #6b6a66; --s0: #b4b2ab; --s1: #c2410c; --s2: #5b9bd5; --s3: #1d4e89;
  --bad: #b91c1c; background: var(--page); font: 11px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --page: #191918; --ink: #ecebe7; --quiet: #a3a19a; --s0: #62605a;
  --s1: #f0884a; --s2: #4f86c6; --s3: #a9d0f5; --bad: #ff8a80; } }
.page { fill: var(--page); } text { fill: var(--ink); } .quiet { fill: var(--quiet); } .bad { fill: var(--bad); }
.title { font-size: 15px; font-weight: 600; }
path, line { fill: none; stroke-width: 1.6; }
.trunk { stroke: var(--quiet); stroke-width: 1; }
.s0 { stroke: var(--s0); stroke-dasharray: 4 3; } .s1 { stroke: var(--s1); stroke-width: 2.2; }
.s2 { stroke: var(--s2); } .s3 { stroke: var(--s3); }
.node { fill: var(--page); stroke: var(--ink); stroke-width: 1.4; } .switch { fill: var(--ink); }
"""


def escape(text: str) -> str:
    """Text as XML may hold it; a status file's names are not ours."""
    return saxutils.escape(printable(text))


def picture(survey: Survey) -> str:
    """The SVG text of a survey."""
    walked = list(survey.walk())
    usual = survey.usual_loss or 0.0
    unusual = max(LOSS_SHOWN, min(LOSS_UNUSUAL * usual, (1 + usual) / 2))
    labels = {node.eui48: _label(node, unusual) for _, node in walked}
    width = _width([(depth, labels[node.eui48]) for depth, node in walked], survey)
    head, top = _head(survey, width)
    places = {node.eui48: (_x(depth), top + ROW * row) for row, (depth, node) in enumerate(walked, 1)}
    switches = {node.lsid: places[node.eui48] for _, node in walked if node.lsid is not None}
    base = (_x(0), top)
    height = top + ROW * (len(walked) + 1)
    size = f"max-width: {width}px; height: auto; aspect-ratio: {width} / {height}"
    links = [_link(node, places[node.eui48], switches.get(node.sid, base)) for _, node in walked]
    last = {switches.get(node.sid, base): places[node.eui48][1] - BEND for _, node in walked}
    trunks = [f'<path class="trunk" d="M{x} {y}V{max(y, end)}"/>' for (x, y), end in last.items()]
    nodes = [_node(node, labels[node.eui48], *places[node.eui48]) for _, node in walked]
    return "\n".join(
        [
            f'<svg xmlns="{NAMESPACE}" viewBox="0 0 {width} {height}" width="100%" style="{size}">',
            f"<title>{escape(survey.headline())}</title><style>{STYLE}</style>",
            '<rect class="page" width="100%" height="100%"/>',
            *head,
            *trunks,
            *links,
            f'<circle class="node switch" cx="{base[0]}" cy="{base[1]}" r="{DOT + 2}"/>',
            f'<text x="{base[0] + 12}" y="{base[1] + 4}">{escape(_base(survey))}</text>',
            *nodes,
            "</svg>",
        ]
    )


def _x(depth: int) -> int:
    return MARGIN + 6 + COLUMN * depth


def _base(survey: Survey) -> str:
    return f"base {survey.sna}"


def _width(labels: list[tuple[int, tuple[str, str, str]]], survey: Survey) -> int:
    """Room for the longest line."""
    ends = [_x(depth) + 20 + LETTER * len(" ".join(parts)) for depth, parts in labels]
    return round(max(WIDTH_MIN, _x(0) + 12 + LETTER * len(_base(survey)), *ends)) + MARGIN


def _head(survey: Survey, width: int) -> tuple[list[str], int]:
    """Title, use of the line and legend, wrapped; and where the tree begins."""
    lines: list[str] = []
    y = MARGIN
    for text, kind, letter, step in (
        (survey.headline(), "title", 1.4 * LETTER, 19),
        (survey.airtime_words(), "quiet", LETTER, 15),
        (survey.loss_words(), "quiet", LETTER, 15),
    ):
        for line in textwrap.wrap(printable(text), max(1, int((width - 2 * MARGIN) / letter))):
            y += step
            lines.append(f'<text class="{kind}" x="{MARGIN}" y="{y}">{escape(line)}</text>')
    x, y = MARGIN, y + 24
    for name, sign in _legend():
        end = x + 30 + round(LETTER * len(name))
        if end > width - MARGIN and x > MARGIN:
            x, y, end = MARGIN, y + 17, end - x + MARGIN
        lines.append(f'<g transform="translate({x} {y})">{sign}<text class="quiet" x="30">{name}</text></g>')
        x = end + 12
    return lines, y + 30


def _legend() -> list[tuple[str, str]]:
    """Each name, with what it explains."""
    signals = [(kind, name) for _, kind, name in SIGNALS_DB] + [UNKNOWN]
    items = [(name, f'<line class="{kind}" x1="0" x2="24" y1="-4" y2="-4"/>') for kind, name in signals]
    dots = (("node switch", "switch"), ("node", "terminal"))
    items += [(name, f'<circle class="{kind}" cx="12" cy="-4" r="{DOT}"/>') for kind, name in dots]
    return [*items, ("modulation to the node, from it", f'<text class="quiet" x="4">{DOWN} {UP}</text>')]


def _link(node: Surveyed, at: tuple[int, int], above: tuple[int, int]) -> str:
    """From the trunk beneath the one above across to the node."""
    line = f"M{above[0]} {at[1] - BEND}q0 {BEND} {BEND} {BEND}H{at[0]}"
    return f'<path class="{_signal(node)}" d="{line}"/>'


def _signal(node: Surveyed) -> str:
    if node.link is None:
        return UNKNOWN[0]
    return next(kind for least_db, kind, _ in SIGNALS_DB if node.link.snr_db >= least_db or kind == "s1")


def _label(node: Surveyed, unusual: float) -> tuple[str, str, str]:
    """Its name, its link, and what is wrong with it: losses from that share on are."""
    name = node.eui48[-8:] + ("" if node.lsid is None else f" · switch {node.lsid}")
    link = [] if node.link is None else [f"{node.link.snr_db:.0f} dB", f"{DOWN}{node.link.scheme}"]
    link += [] if node.up is None else [f"{UP}{node.up.scheme}"]
    ends = [(way, end.loss) for way, end in (("down", node.link), ("up", node.up)) if end is not None]
    losses = [(f"{way} lost {100 * loss:.0f} %", loss) for way, loss in ends if loss is not None and loss >= LOSS_SHOWN]
    quiet = ", ".join([" ".join(link), *(text for text, loss in losses if loss < unusual)] if link else [])
    bad = [text for text, loss in losses if loss >= unusual] + ([] if node.connected else ["not connected"])
    return name, quiet, ", ".join(bad)


def _node(node: Surveyed, label: tuple[str, str, str], x: int, y: int) -> str:
    kind = "node" if node.lsid is None else "node switch"
    name, link, bad = label
    spans = f'<tspan class="quiet" dx="6">{escape(link)}</tspan>' if link else ""
    spans += f'<tspan class="bad" dx="6">{escape(bad)}</tspan>' if bad else ""
    return (
        f"<g><title>{escape(node.eui48)}: {escape(words(node))}</title>"
        f'<circle class="{kind}" cx="{x}" cy="{y}" r="{DOT}"/>'
        f'<text x="{x + 9}" y="{y + 4}">{escape(name)}{spans}</text></g>'
    )
