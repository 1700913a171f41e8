"""A survey as SVG: the tree from left to right, a column for each hop, every link coloured by its signal.

Readable on light and dark pages; whoever looks at one node finds everything about it in its tooltip.
"""

from __future__ import annotations

from typing import Final
from xml.sax import saxutils

from prime_plc.survey import Survey, Surveyed, printable, words

NAMESPACE: Final = "http://www.w3.org/2000/svg"
ROW: Final = 17
COLUMN: Final = 235
MARGIN: Final = 28
TOP: Final = 104
BEND: Final = 8
DOT: Final = 4.5
LOSS_SHOWN: Final = 0.02
"""Losses from here on are written beside a node."""

SIGNALS_DB: Final = ((19.0, "s3", "19 dB and more"), (9.0, "s2", "9 to 19 dB"), (-99.0, "s1", "under 9 dB"))
"""Classes by what modulation is possible (`links.GIVE_UP_DB`): uncoded D8PSK, uncoded DBPSK or D8PSK_C, less."""

UNKNOWN: Final = ("s0", "not measured")

STYLE: Final = """
svg { --page: #fcfcfb; --ink: #1c1c1a; --quiet: #6b6a66; --s0: #b4b2ab; --s1: #c2410c; --s2: #5b9bd5; --s3: #1d4e89;
  --bad: #b91c1c; font: 11px system-ui, sans-serif; }
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
    places = {node.eui48: (_x(depth), TOP + ROW * row) for row, (depth, node) in enumerate(walked, 1)}
    switches = {node.lsid: places[node.eui48] for _, node in walked if node.lsid is not None}
    base = (_x(0), TOP)
    depth_max = max((depth for depth, _ in walked), default=0)
    width, height = max(760, _x(depth_max) + COLUMN + 110), TOP + ROW * (len(walked) + 1) + MARGIN
    links = [_link(node, places[node.eui48], switches.get(node.sid, base)) for _, node in walked]
    last = {switches.get(node.sid, base): places[node.eui48][1] - BEND for _, node in walked}
    trunks = [f'<path class="trunk" d="M{x} {y}V{max(y, end)}"/>' for (x, y), end in last.items()]
    nodes = [_node(node, *places[node.eui48]) for _, node in walked]
    return "\n".join(
        [
            f'<svg xmlns="{NAMESPACE}" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
            f"<title>{escape(survey.headline())}</title><style>{STYLE}</style>",
            '<rect class="page" width="100%" height="100%"/>',
            *_head(survey),
            *trunks,
            *links,
            f'<circle class="node switch" cx="{base[0]}" cy="{base[1]}" r="{DOT + 2}"/>',
            f'<text x="{base[0] + 12}" y="{base[1] + 4}">base {escape(survey.sna)}</text>',
            *nodes,
            "</svg>",
        ]
    )


def _x(depth: int) -> int:
    return MARGIN + COLUMN * depth if depth < 1 else MARGIN + 40 + COLUMN * (depth - 1)


def _head(survey: Survey) -> list[str]:
    lines = [
        f'<text class="title" x="{MARGIN}" y="{MARGIN}">{escape(survey.headline())}</text>',
        f'<text class="quiet" x="{MARGIN}" y="{MARGIN + 19}">{escape(survey.airtime_words())}</text>',
    ]
    x, y = MARGIN, MARGIN + 42
    for kind, name in [(kind, name) for _, kind, name in SIGNALS_DB] + [UNKNOWN]:
        lines.append(f'<line class="{kind}" x1="{x}" x2="{x + 24}" y1="{y - 4}" y2="{y - 4}"/>')
        lines.append(f'<text class="quiet" x="{x + 30}" y="{y}">{name}</text>')
        x += 60 + 7 * len(name)
    for kind, name in (("node switch", "switch"), ("node", "terminal")):
        lines.append(f'<circle class="{kind}" cx="{x}" cy="{y - 4}" r="{DOT}"/>')
        lines.append(f'<text class="quiet" x="{x + 9}" y="{y}">{name}</text>')
        x += 70
    return lines


def _link(node: Surveyed, at: tuple[int, int], above: tuple[int, int]) -> str:
    """From the trunk beneath the one above across to the node."""
    line = f"M{above[0]} {at[1] - BEND}q0 {BEND} {BEND} {BEND}H{at[0]}"
    return f'<path class="{_signal(node)}" d="{line}"/>'


def _signal(node: Surveyed) -> str:
    if node.link is None:
        return UNKNOWN[0]
    return next(kind for least_db, kind, _ in SIGNALS_DB if node.link.snr_db >= least_db or kind == "s1")


def _node(node: Surveyed, x: int, y: int) -> str:
    kind = "node" if node.lsid is None else "node switch"
    name = node.eui48[-8:] + ("" if node.lsid is None else f" · switch {node.lsid}")
    link = "" if node.link is None else f"{node.link.snr_db:.0f} dB {node.link.scheme}"
    losses = [(way, end.loss) for way, end in (("down", node.link), ("up", node.up)) if end is not None]
    bad = [f"{way} lost {100 * loss:.0f} %" for way, loss in losses if loss is not None and loss >= LOSS_SHOWN]
    bad += [] if node.connected else ["not connected"]
    spans = f'<tspan class="quiet" dx="6">{escape(link)}</tspan>' if link else ""
    spans += f'<tspan class="bad" dx="6">{escape(", ".join(bad))}</tspan>' if bad else ""
    return (
        f"<g><title>{escape(node.eui48)}: {escape(words(node))}</title>"
        f'<circle class="{kind}" cx="{x}" cy="{y}" r="{DOT}"/>'
        f'<text x="{x + 9}" y="{y + 4}">{escape(name)}{spans}</text></g>'
    )
