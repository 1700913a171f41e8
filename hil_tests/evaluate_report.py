"""The evaluated day as one HTML file that needs nothing else: no script, no outside resource, readable on a phone."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape
from typing import Final

from matplotlib.figure import Figure

from hil_tests.evaluate import Evaluation
from hil_tests.evaluate_figures import COLOURS, NAMES
from hil_tests.optimum import Optimum
from hil_tests.report import GREEN, GREY, GRID, INK, PAPER, RED

STYLE: Final = f"""
:root{{color-scheme:dark}}
body{{background:{PAPER};color:{INK};font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:62rem;padding:1rem}}
h1{{font-size:1.5rem;line-height:1.2}} h2{{font-size:1.15rem;margin-top:2rem}}
img{{width:100%;min-width:40rem;height:auto;border-radius:6px}}
figure{{margin:1rem 0}} figcaption{{color:{GREY};font-size:.9rem}}
.wide{{overflow-x:auto}} table{{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}}
th,td{{padding:.35rem .6rem;border-bottom:1px solid {GRID};text-align:right;vertical-align:top}}
th:first-child,td:first-child{{text-align:left}} th{{font-weight:600}} td:first-child{{min-width:9rem}}
td{{white-space:nowrap}} td:first-child{{white-space:normal}}
.words td{{white-space:normal;overflow-wrap:anywhere}} small{{display:block;line-height:1.3}}
@media (max-width:40rem){{body{{font-size:15px}} th,td{{padding:.3rem .4rem}} .tile b{{font-size:1.35rem}}}}
.tiles{{display:flex;flex-wrap:wrap;gap:.75rem;margin:1rem 0}}
.tile{{flex:1 1 9rem;border:1px solid {GRID};border-radius:8px;padding:.7rem .9rem}}
.tile b{{display:block;font-size:1.6rem;line-height:1.2}} .tile span{{color:{GREY};font-size:.9rem}}
.good{{color:{GREEN}}} .bad{{color:{RED}}} small,.note{{color:{GREY}}}
"""

ROWS: Final = (
    ("exported", "kWh at the connection points"),
    ("curtailed", "kWh that could have been exported"),
    ("of what could be exported", ""),
    ("minutes outside the band", "1-minute means, any customer"),
    ("minutes outside the band", "10-minute means"),
    ("of these caused by grants", "1-minute means"),
    ("of these caused by grants", "10-minute means"),
    ("minutes outside ± 10 %", "10-minute means, EN 50160"),
    ("minutes with a current above its rating", ""),
    ("highest / lowest voltage", "V, 1-minute means"),
    ("fairness", "Jain's index of the shares"),
)


READING: Final = """<h2>How to read this</h2><p class="note">
All ways have the same loads, sun and grid, and are judged by the same unbalanced power flow. Static limits: nobody
ever exports more than the nominal limit. Optimum: the most that perfect foresight could have exported, a bound
that no live system reaches; how close it is to the best possible is proven. Within contracts nobody is kept below
the nominal limit, and Headroom keeps nobody below it either; the free optimum may take from one customer what
serves another better. Where the nominal limits alone leave the band, an optimum may do what they do. Fairness is
Jain's index of exported over possible. A violation counts as caused by grants where the nominal limits alone would
have kept that customer inside.</p>"""


def html(found: Evaluation, figures: dict[str, tuple[Figure, str]]) -> str:
    """The page."""
    question = found.question
    hours = f"{_clock(question.hours[0])} to {_clock(question.hours[1])}"
    title = f"{found.network.name}: a {question.day} day with {len(found.day.plants)} plants"
    no_load = "the file's voltage" if question.no_load_pu is None else f"{question.no_load_pu:g} of nominal"
    facts = (
        f"{hours}, seed {question.seed}, policy {question.policy}, {question.errors} meters; band ± "
        f"{question.band_pct:g} %, no load at {no_load}; nominal export limit {found.nominal_w:g} W."
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">{escape(facts)}</p>',
        *_tiles(found),
        "<h2>The same day, four ways</h2>",
        *_scores(found),
        *(_figure(figure, text) for figure, text in figures.values()),
        "<h2>Decisions and messages</h2>",
        *_messages(found),
        "<h2>Customers with a plant</h2>",
        *_customers(found),
        READING,
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>" + "\n".join(body) + "</body></html>\n"
    )


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _tiles(found: Evaluation) -> Iterator[str]:
    headroom = found.scores["headroom"]
    more = headroom.exported_wh - found.scores["static"].exported_wh
    caused = headroom.by_grants_1min
    tiles = [
        (f"{more / 1e3:+.1f} kWh", "exported beyond static limits", ""),
        (f"{100 * found.captured:.1f} %", "of the best export within contracts", ""),
        (f"{100 * found.captured_of_increase:.0f} %", "of the possible increase", ""),
        (f"{caused} min", "outside the band because of grants", "bad" if caused else "good"),
    ]
    yield '<div class="tiles">'
    for value, text, kind in tiles:
        yield f'<div class="tile"><b class="{kind}">{escape(value)}</b><span>{escape(text)}</span></div>'
    yield "</div>"


def _scores(found: Evaluation) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr><th></th>'
    for name in found.scores:
        yield f'<th style="color:{COLOURS[name]}">{escape(NAMES[name])}</th>'
    yield "</tr></thead><tbody>"
    columns = [
        [
            f"{score.exported_wh / 1e3:.1f}",
            f"{score.curtailed_wh / 1e3:.1f}",
            f"{100 * score.of_exportable:.1f} %",
            f"{score.outside_1min}",
            f"{score.outside_10min}",
            f"{score.by_grants_1min}",
            f"{score.by_grants_10min}",
            f"{score.en_50160_min}",
            f"{score.overloaded_min}",
            f"{score.u_max_v:.2f} / {score.u_min_v:.2f}",
            f"{score.fairness:.3f}",
        ]
        for score in found.scores.values()
    ]
    for k, (what, unit) in enumerate(ROWS):
        cells = "".join(f"<td>{escape(column[k])}</td>" for column in columns)
        yield f"<tr><td>{escape(what)}<small>{escape(unit)}</small></td>{cells}</tr>"
    yield "</tbody></table></div>"
    words = " and ".join(proven(optimum) for optimum in (found.contracts, found.optimum))
    yield (
        f'<p class="note">Proven gap of the two optima to the best possible: {words} of their energy; the grid '
        f"bound in {found.optimum.bound_minutes} of {len(found.day.minute)} minutes. If only ten-minute means had to "
        f"hold the band, the free optimum would export {found.ten_minute_exported_wh / 1e3:.1f} kWh.</p>"
    )


def proven(optimum: Optimum) -> str:
    """The gap of an optimum in words."""
    gap = optimum.gap_share
    if not gap < 1:
        return "not proven"
    return "less than 0.001 %" if gap < 1e-5 else f"{100 * gap:.2g} %"


def _figure(figure: Figure, text: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor=PAPER, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    caption = f"<figcaption>{escape(text)}</figcaption>"
    image = f'<img alt="{escape(text, quote=True)}" src="data:image/png;base64,{data}">'
    return f'<figure><div class="wide">{image}</div>{caption}</figure>'


def _messages(found: Evaluation) -> Iterator[str]:
    line, run = found.street.line, found.street
    numbers: list[tuple[str, str]] = [(kind, f"{count}") for kind, count in run.counts.items() if kind != "start"]
    numbers += [(f"{why.replace(' ', ': ', 1)}", f"{count}") for why, count in run.reasons.items()]
    delivered = max(1, line.messages - line.messages_lost)
    numbers += [
        *_reproduced(found),
        ("messages on the line", f"{line.messages}"),
        ("frames, with acknowledgements and repetitions", f"{line.frames}"),
        ("bytes on air", f"{line.bytes}"),
        ("air time", f"{line.airtime_s:.0f} s, {100 * line.airtime_s / run.seconds:.0f} % of the time"),
        ("mean wait from offer to delivery", f"{line.waiting_s / delivered:.2f} s"),
        ("messages lost after every repetition", f"{line.messages_lost}"),
        ("messages dropped from a full queue", f"{line.messages_dropped}"),
    ]
    yield '<div class="wide words"><table><tbody>'
    for what, value in numbers:
        yield f"<tr><td>{escape(what)}</td><td>{escape(value)}</td></tr>"
    yield "</tbody></table></div>"


def _reproduced(found: Evaluation) -> Iterator[tuple[str, str]]:
    if found.reproduced is not None:
        yield "ledger of the DCU", found.reproduced.size
        yield "decided again from the ledger", str(found.reproduced)


def _customers(found: Evaluation) -> Iterator[str]:
    heads = ("customer", "bus", "phase", "plant [kW]", "possible [kWh]", *NAMES.values(), "share")
    cells = "".join(f"<th>{escape(head)}</th>" for head in heads)
    yield f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>'
    for c in found.customers:
        energies = "".join(
            f"<td>{wh / 1e3:.1f}</td>"
            for wh in (c.exportable_wh, c.static_wh, c.headroom_wh, c.contracts_wh, c.optimum_wh)
        )
        yield (
            f"<tr><td>{escape(c.name)}</td><td>{escape(c.bus)}</td><td>{escape(c.phase)}</td>"
            f"<td>{c.peak_w / 1e3:.1f}</td>{energies}<td>{100 * c.share:.0f} %</td></tr>"
        )
    yield "</tbody></table></div>"
