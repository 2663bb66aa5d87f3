"""The report's SVG pieces: x in percent of the width and y in pixels, so that a chart stretches and its letters do not.

Every function returns markup and escapes the text it is given. Colours come from the page's classes.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

THIN = "\u202f"  # narrow no-break space
_JOINERS = "\u200c\u200d"  # Persian and emoji need them
_MAX_CELLS = 14  # a bin of more documents is drawn as a bar, not document by document
_ROW = 58
_BAR = 38
_CELL = 22
_LABEL_ROOM = 74  # percent of the width that the longest bar takes; its number stands to the right


# --- text -------------------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """Text with everything that cannot be seen or would reorder its surroundings replaced by a mark.

    Control characters become the pictures Unicode has for them, other invisible format characters their code point,
    and halves of surrogate pairs U+FFFD. Line breaks and tabs stay.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    code, kind = ord(char), unicodedata.category(char)
    if char in "\n\t" or char in _JOINERS:
        return char
    if kind == "Cc":
        return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else f"⟨U+{code:04X}⟩"
    if kind == "Cs" or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:
        return "\ufffd"
    return f"⟨U+{code:04X}⟩" if kind == "Cf" else char


def escape(text: object) -> str:
    """Any text as HTML, in elements and in quoted attributes."""
    return html.escape(visible(str(text)), quote=True)


def number(value: float) -> str:
    """A whole number in groups of three: 1 234 567, with narrow spaces that do not break."""
    return f"{round(value):,}".replace(",", THIN)


def percent(share: float) -> str:
    """A share as a percentage, finer where it is small."""
    if not 0 < share < 1:
        return f"{100 * share:.0f}{THIN}%"
    return f"<{THIN}0.1{THIN}%" if share < 0.001 else f"{100 * share:.1f}{THIN}%"


def count(value: int, one: str, many: str = "") -> str:
    """1 document, 2 documents."""
    return f"{number(value)} {one if value == 1 else many or one + 's'}"


# --- axes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A linear axis over the width of a chart."""

    low: float
    """Value at the left edge."""
    high: float
    """Value at the right edge, above low."""

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the width."""
        return 100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values on the axis."""
        step = nice_step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def decimals(self) -> int:
        """Decimals that tell the ticks apart."""
        return max(0, -math.floor(math.log10(nice_step((self.high - self.low) / 6)) + 1e-9))


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def _anchor(x: float) -> str:
    return "start" if x < 6 else "end" if x > 94 else "middle"


def _p(value: float) -> str:
    """A number for an attribute: short, never in scientific notation."""
    return f"{value:.3f}".rstrip("0").rstrip(".") or "0"


def _rect(x: float, width: float, y: float, height: float, kind: str, *, title: str = "", opacity: float = 1) -> str:
    where = f'x="{_p(x)}%" y="{_p(y)}" width="{_p(width)}%" height="{_p(height)}" class="{kind}"'
    where += f' fill-opacity="{_p(opacity)}"' if opacity < 1 else ""
    return f"<rect {where}><title>{escape(title)}</title></rect>" if title else f"<rect {where}/>"


def _upright(x: float, top: float, bottom: float, kind: str) -> str:
    return f'<line x1="{_p(x)}%" x2="{_p(x)}%" y1="{_p(top)}" y2="{_p(bottom)}" class="{kind}"/>'


def _level(y: float) -> str:
    return f'<line x1="0" x2="100%" y1="{_p(y)}" y2="{_p(y)}" class="base"/>'


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start", dx: int = 0) -> str:
    shift = f' dx="{dx}"' if dx else ""
    return f'<text x="{_p(x)}%" y="{_p(y)}"{shift} text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    """A chart with a name; without one it repeats what others say and is hidden from screen readers."""
    said = f' role="img" aria-label="{escape(title)}"' if title else ' aria-hidden="true"'
    return f'<svg width="100%" height="{_p(height)}"{said}>{"".join(parts)}</svg>'


def distance_axis(axis: Axis) -> str:
    """Tick marks and numbers under the histograms."""
    parts = []
    for value in axis.ticks():
        x = axis.at(value)
        parts.append(_upright(x, 0, 5, "tick"))
        parts.append(_text(x, 18, f"{value:.{axis.decimals()}f}", "num", anchor=_anchor(x)))
    return _svg(24, "", parts)


def cut_label(axis: Axis, cut: float) -> str:
    """The word above the histograms that says what the upright line is."""
    x = axis.at(cut)
    anchor, dx = ("end", -6) if x > 55 else ("start", 6)
    return _svg(20, "", [_text(x, 13, f"cut {cut:.4f}", "cutword", anchor=anchor, dx=dx), _upright(x, 2, 20, "cut")])


# --- charts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bins:
    """Documents of one domain by distance."""

    counts: Integers
    """int64 [B], all documents."""
    selected: Integers
    """int64 [B], those selected."""


def histogram(bins: Bins, axis: Axis, top: float, *, cut: float | None, median: float | None, title: str) -> str:
    """Distances of one domain: the share of its documents in each bin, the selected part dark and at the bottom.

    Few documents are drawn one by one.

    Args:
        bins: what to draw, from axis.low to axis.high.
        axis: common to all domains.
        top: share of a domain's documents at the top of the chart, common to all domains.
        cut: distance of the upright line; None draws none.
        median: distance of the small mark; None draws none.
        title: what the chart says, for screen readers.
    """
    total, width = int(bins.counts.sum()), 100 / len(bins.counts)
    span = (axis.high - axis.low) / len(bins.counts)
    base = _ROW - 1
    room = _ROW - 10
    single = int(bins.counts.max(initial=0)) <= _MAX_CELLS
    parts = []
    for i in np.flatnonzero(bins.counts):
        documents, chosen = int(bins.counts[i]), int(bins.selected[i])
        ends = f"{axis.low + i * span:.4f} to {axis.low + (i + 1) * span:.4f}"
        tip = f"{ends}: {count(documents, 'document')}, {number(chosen)} selected"
        y = float(base)
        for amount, kind in ((chosen, "sel"), (documents - chosen, "rest")):
            pieces = amount if single else min(amount, 1)
            for _ in range(pieces):
                height = amount / pieces * room / (total * top)
                y -= height
                parts.append(_rect(i * width, width, y, height, f"{kind} cell", title=tip))
    parts.append(_level(base + 0.5))
    if median is not None:
        parts.append(_upright(axis.at(median), base - 5, base + 1, "median"))
    if cut is not None:
        parts.append(_upright(axis.at(cut), 0, _ROW, "cut"))
    return _svg(_ROW, title, parts)


def pair_of_bars(first: float, second: float, most: float, title: str) -> str:
    """Two shares one above the other: the selection's (dark) and the pool's (pale), each with its number."""
    scale = _LABEL_ROOM / most if most > 0 else 0.0
    parts = [_rect(0, first * scale, 3, 15, "sel"), _text(first * scale, 15, percent(first), "val", dx=6)]
    parts += [_rect(0, second * scale, 22, 9, "rest"), _text(second * scale, 31, percent(second), "num", dx=6)]
    return _svg(_BAR, title, [*parts, _upright(0, 0, _BAR, "base")])


def part_of_whole(share: float, title: str) -> str:
    """How much of a whole was taken: a filled part of a pale bar that is always 100 %."""
    parts = [_rect(0, _LABEL_ROOM, 3, 15, "track"), _rect(0, share * _LABEL_ROOM, 3, 15, "sel")]
    return _svg(_BAR, title, [*parts, _text(_LABEL_ROOM, 15, percent(share), "val", dx=6)])


def heat_row(values: Floats, low: float, high: float, title: str) -> str:
    """One cell a layer, the stronger the higher its similarity; the scale is common to all rows."""
    width, span = 100 / len(values), high - low
    parts = []
    for layer, value in enumerate(values):
        strength = _strength((value - low) / span if span > 0 else 0.5)
        tip = f"layer {layer}: {value:.4f}"
        parts.append(_rect(layer * width, width, 0, _CELL, "heat cell", title=tip, opacity=strength))
    return _svg(_CELL, title, parts)


def _strength(share: float) -> float:
    return 0.05 + 0.95 * share


def heat_legend(low: float, high: float) -> str:
    """What the strengths of heat_row mean."""
    parts = [_rect(i * 100 / 6, 100 / 6, 0, 12, "heat", opacity=_strength(i / 5)) for i in range(6)]
    return f'<span class="legend">{low:.3f}<i>{_svg(12, "", parts)}</i>{high:.3f}</span>'


def gap_bars(gaps: Floats, title: str) -> str:
    """One bar a layer from a common zero line: by how much the selection is nearer to the target than the pool."""
    width, height = 100 / len(gaps), 64
    high, low = max(float(gaps.max()), 0.0), min(float(gaps.min()), 0.0)
    scale = (height - 2) / (high - low) if high > low else 0.0
    zero = 1 + high * scale if scale else height - 1
    parts = []
    for layer, gap in enumerate(gaps):
        top, kind = zero - max(gap, 0.0) * scale, "sel" if gap >= 0 else "less"
        tip = f"layer {layer}: {gap:+.4f}"
        parts.append(_rect((layer + 0.12) * width, 0.76 * width, top, abs(gap) * scale, kind, title=tip))
    return _svg(height, title, [*parts, _level(zero)])


def layer_axis(layers: int) -> str:
    """Layer numbers under the middle of their cells."""
    step = int(nice_step(max(layers / 10, 1)))
    shown = range(0, layers, step)
    return _svg(20, "", [_text((i + 0.5) * 100 / layers, 14, str(i), "num", anchor="middle") for i in shown])
