"""A report that stands alone: one HTML file with its figures inside, light or dark as the reader has it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK: Final = "#1d2733"
FAINT: Final = "#c9d1d9"
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#b8860b", "#7b3294", "#56b4e9", "#8c510a", "#444444")
"""Told apart with any colour vision (after Okabe and Ito); dashes and labels say the same."""
WARN: Final = "#d55e00"

STYLE: Final = """
:root{color-scheme:light dark;--ink:#1d2733;--paper:#ffffff;--soft:#5b6875;--line:#d6dce2;--panel:#f5f7f9;--ok:#00734d;--bad:#b34700}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaee;--paper:#14191f;--soft:#9aa7b3;--line:#333d47;--panel:#1c232b;--ok:#4cc38a;--bad:#ff9a52}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,"DejaVu Sans",sans-serif}
main{max-width:1060px;margin:0 auto;padding:2rem 1.2rem 4rem}h1{font-size:1.7rem;margin:0 0 .2rem}h2{font-size:1.2rem;margin:2.4rem 0 .5rem}
p{margin:.5rem 0;max-width:52rem}.soft{color:var(--soft)}.lead{font-size:1.05rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .65rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}th{font-weight:600;border-bottom:2px solid var(--line)}
td.n,th.n{text-align:right;white-space:nowrap}td.ok{color:var(--ok);font-weight:600}td.bad{color:var(--bad);font-weight:600}
figure{margin:1rem 0;background:#fff;border:1px solid var(--line);border-radius:8px;padding:.6rem}figure svg{width:100%;height:auto;display:block}
figcaption{color:#5b6875;font-size:.86rem;padding:.3rem .3rem 0}.cards{display:flex;flex-wrap:wrap;gap:.7rem;margin:1rem 0}
.card{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.6rem .9rem;min-width:9.5rem}
.card b{display:block;font-size:1.35rem}.card span{color:var(--soft);font-size:.84rem}
.notes{border-left:4px solid var(--bad);padding:.1rem 1rem;margin:1rem 0;max-width:52rem}.notes ul{margin:.3rem 0;padding-left:1.1rem}
details{margin:.4rem 0}summary{cursor:pointer}code{font-size:.85em}
"""


def page(title: str, lead: str, parts: Sequence[str]) -> str:
    """The whole document."""
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body><main>\n<h1>{escape(title)}</h1>\n"
        f'<p class="lead soft">{escape(lead)}</p>\n' + "\n".join(parts) + "\n</main></body></html>\n"
    )


def heading(text: str, *paragraphs: str) -> str:
    """A section's beginning."""
    return f"<h2>{escape(text)}</h2>" + "".join(f"<p>{escape(p)}</p>" for p in paragraphs)


def notes(title: str, sentences: Sequence[str]) -> tuple[str]:
    """What a reader has to know first."""
    items = "".join(f"<li>{escape(s)}</li>" for s in sentences)
    return (f'<div class="notes"><b>{escape(title)}</b><ul>{items}</ul></div>',)


def cards(items: Sequence[tuple[str, str]]) -> str:
    """Figures that matter most: value and what it is."""
    return (
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{escape(v)}</b><span>{escape(t)}</span></div>' for v, t in items)
        + "</div>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], verdict: int | None = None) -> str:
    """Rows of text and numbers; numbers stand right, the column `verdict` is coloured by its first word."""
    numeric = [bool(rows) and all(_numeric(row[k]) for row in rows) for k in range(len(header))]
    head = "".join(f"<th{_class(n)}>{escape(h)}</th>" for h, n in zip(header, numeric, strict=True))
    lines = []
    for row in rows:
        cells = []
        for k, cell in enumerate(row):
            kind = ' class="n"' if numeric[k] else ""
            if k == verdict:
                kind = (
                    ' class="ok"'
                    if str(cell).startswith("yes")
                    else ' class="bad"'
                    if str(cell).startswith("no")
                    else ""
                )
            cells.append(f"<td{kind}>{escape(str(cell))}</td>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>' + "".join(lines) + "</tbody></table></div>"
    )


def _class(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


def _numeric(cell: object) -> bool:
    text = str(cell).replace(",", "").replace("%", "").replace("–", "").strip()
    return text == "" or text.replace(".", "", 1).replace("-", "", 1).isdigit()


def folded(title: str, content: str) -> str:
    """Shown when asked for."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def picture(figure: Figure, caption: str) -> str:
    """A figure inside the page."""
    return f"<figure>{svg(figure)}<figcaption>{escape(caption)}</figcaption></figure>"


@contextmanager
def drawing(salt: str) -> Iterator[None]:
    """The house's drawing style; the same figure gives the same bytes."""
    with mpl.rc_context(
        {
            "font.size": 9.5,
            "font.family": "DejaVu Sans",
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#8a96a3",
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e6eaee",
            "legend.frameon": False,
            "svg.hashsalt": salt,
            "svg.fonttype": "path",
        }
    ):
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure of that size [inch]."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def svg(figure: Figure, about: str | None = None) -> str:
    """The figure as SVG for a page; `about` goes into its metadata."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Description": about})
    text = out.getvalue()
    return text[text.index("<svg") :]
