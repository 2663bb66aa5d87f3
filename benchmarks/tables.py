"""Records of one comparison as text that fits a terminal of 120 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 118
Record = Mapping[str, Any]


def number(value: float) -> str:
    """Three digits with a suffix: 1234 -> 1.23k."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Rows of cells, first the heads, as lines: the first columns to the left, the others to the right.

    Columns without a cell below their head are left out.
    """
    columns = [c for c in zip(*rows, strict=True) if any(c[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for cells in zip(*columns, strict=True):
        first, *rest = (
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  ".join(["  " + first, *rest]).rstrip())
    return lines


def _pairs(head: str, values: Mapping[str, Any]) -> str:
    shown = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
    text = head + "  " + "  ".join(f"{k}={v}" for k, v in shown.items())
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _cells(record: Record, units: Sequence[str], found: Sequence[str]) -> list[str]:
    rates = record["rates"]
    cells = [record["variant"]]
    for i, unit in enumerate(units):
        rate = rates.get(unit)
        cells.append(number(rate["median"]) if rate else (record["error"] or "") if i == 0 else "")
        if i == 0:  # the spread of one unit is the spread of all
            cells.append(f"[{number(rate['p20'])}, {number(rate['p80'])}]" if rate else "")
    gbs, mfu, share, peak, ratio = (record[k] for k in ("GB/s", "mfu", "of_ceiling", "peak_device_bytes", "ratio"))
    cells.append(f"{gbs['median']:.2f}" if gbs else "")
    cells.append(f"{mfu:.1%}" if mfu is not None else "")
    cells.append(f"{share:.1%}" if share is not None and mfu is None else "")
    cells.append(f"{peak / 1e9:.1f} GB" if peak else "")
    cells.append(f"{ratio['median']:.2f}x" if ratio else "")
    cells.append(f"[{ratio['p20']:.2f}, {ratio['p80']:.2f}]" if ratio else "")
    for name in found:
        value = record["found"].get(name)
        cells.append("" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))
    return cells


def table(records: Sequence[Record]) -> str:
    """Settings, the check's figures, and a line a variant: median [p20, p80]."""
    first = records[0]
    units = list(dict.fromkeys(unit for record in records for unit in record["rates"]))
    found = list(dict.fromkeys(k for r in records for k, v in r["found"].items() if not isinstance(v, dict)))
    heads = ["variant"]
    for i, unit in enumerate(units):
        heads += [unit, "[p20, p80]"] if i == 0 else [unit]
    heads += ["GB/s", "MFU", "of copy", "peak", "ratio", "[p20, p80]", *found]
    lines = [_pairs(first["benchmark"], first["params"]), _pairs("  check", first["check"])]
    lines += aligned([heads, *(_cells(record, units, found) for record in records)])
    for note in first["notes"]:
        lines.append(textwrap.fill(f"  note: {note}", WIDTH, subsequent_indent="    "))
    return "\n".join(lines)
