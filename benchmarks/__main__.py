"""`nagfast bench NAME [options]`: check, time in interleaved rounds, print a table, append JSON lines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nagfast import env
from nagfast.benchmarks import (  # noqa: F401 - registration
    actgrad,
    breakdown,
    extract,
    invariance,
    kernels,
    native,
    nearest,
    separation,
    sets,
    storage,
    summary,
    tokenize_text,
)
from nagfast.benchmarks.harness import REGISTRY, RESULTS, CheckFailedError, append_json, run
from nagfast.benchmarks.tables import table
from nagfast.cli import Parser

STUDIES: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "breakdown": (breakdown.main, "Where the time goes: products, attention, elementwise, impact, top-k, copies, host"),
    "separation": (separation.main, "ROC-AUC of NAG similarity on held-out documents, beside TF-IDF"),
    "summary": (summary.main, "Result files as one short table"),
}
"""What has a command line of its own."""


def _parser() -> argparse.ArgumentParser:
    about = {name: (setup.__doc__ or "").splitlines()[0] for name, (setup, _) in REGISTRY.items()}
    listed = about | {name: first for name, (_, first) in STUDIES.items()}
    parser = Parser(
        prog="nagfast bench",
        description=__doc__,
        epilog="\n".join(["benchmarks:", *(f"  {name:12s}{first}" for name, first in listed.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="name", metavar="NAME", required=True, parser_class=Parser)
    for name, (_, add_options) in REGISTRY.items():
        sub = commands.add_parser(name, description=about[name])
        sub.add_argument("--rounds", type=int, help="samples per variant")
        sub.add_argument("--warmup", type=int, help="calls of every variant before the first sample")
        sub.add_argument("--min-seconds", type=float, help="repeat short calls until a sample takes this long")
        sub.add_argument("--budget", type=float, metavar="S", help="begin no round after S seconds of rounds")
        sub.add_argument("--out", type=Path, default=RESULTS, help=f"folder of the JSON lines (default: {RESULTS})")
        add_options(sub)
    return parser


def _run(options: Any) -> None:
    setup, _ = REGISTRY[options.name]
    for benchmark in setup(options):
        records = run(
            benchmark,
            rounds=options.rounds,
            warmup=options.warmup,
            min_seconds=options.min_seconds,
            budget=options.budget,
        )
        for record in records:
            path = append_json(options.out, benchmark.name, record, record["date"])
        print(table(records), flush=True)
        print(f"  -> {path}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark; 1 where its check fails."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] and arguments[0] in STUDIES:
        return STUDIES[arguments[0]][0](arguments[1:])
    options = _parser().parse_args(arguments)
    env.keep_freed_memory()  # as the nagfast command does; the baselines gain from it too
    try:
        _run(options)
    except CheckFailedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
