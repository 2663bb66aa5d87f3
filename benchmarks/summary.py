"""Result files as one short table: `nagfast bench summary FOLDER_OR_FILE...`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nagfast.benchmarks.harness import RESULTS
from nagfast.benchmarks.tables import aligned, number

HEADS = ["benchmark", "settings", "variant", "rate", "", "of ceiling", "peak", "ratio"]
SETTINGS = ("shape", "lengths", "dtype", "rows", "neurons", "op")


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Records of timings, in the order of the files and lines."""
    files = [f for p in paths for f in (sorted(p.glob("*.jsonl")) if p.is_dir() else [p])]
    lines = [json.loads(line) for f in files for line in f.read_text().splitlines()]
    return [line for line in lines if "rates" in line and "variant" in line]


def _row(record: Mapping[str, Any]) -> list[str]:
    params = record["params"]
    shown = [f"{params[k]} {k}" if isinstance(params[k], int) else str(params[k]) for k in SETTINGS if k in params]
    rates = record["rates"]
    unit = "tokens/s" if "tokens/s" in rates else next(iter(rates), "")
    rate = rates.get(unit)
    share, peak, ratio = record.get("of_ceiling"), record.get("peak_device_bytes"), record.get("ratio")
    return [
        record["benchmark"],
        " ".join(shown[:3]),
        record["variant"],
        number(rate["median"]) if rate else record.get("error") or "",
        unit,
        f"{share:.1%}" if share is not None else "",
        f"{peak / 1e9:.1f} GB" if peak else "",
        f"{ratio['median']:.2f}x" if ratio else "",
    ]


def main(argv: Sequence[str]) -> int:
    """Print the table; the newest result of a variant and setting counts."""
    parser = argparse.ArgumentParser(prog="nagfast bench summary", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, default=[RESULTS], help=f"default: {RESULTS}")
    newest = {tuple(row[:3]): row for row in map(_row, read(parser.parse_args(argv).paths))}
    print("\n".join(aligned([HEADS, *newest.values()], left=3)) if newest else "no results")
    return 0
