"""`python -m benchmarks NAME [options]`: check, time in interleaved rounds, print a table, append JSON lines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import actgrad, extract, native, nearest, storage, tokenize_text  # noqa: F401 - registration
from benchmarks.harness import REGISTRY, RESULTS, CheckFailedError, append_json, run, table
from nagfast import env


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", metavar="|".join([*REGISTRY, "separation"]), required=True)
    for name, (setup, add_options) in REGISTRY.items():
        sub = commands.add_parser(name, help=(setup.__doc__ or "").splitlines()[0])
        sub.add_argument("--rounds", type=int, help="samples per variant")
        sub.add_argument("--warmup", type=int, help="calls of every variant before the first sample")
        sub.add_argument("--min-seconds", type=float, help="repeat short calls until a sample takes this long")
        sub.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON lines")
        add_options(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark; 1 where its check fails."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["separation"]:
        from benchmarks import separation

        return separation.main(arguments[1:])
    options = _parser().parse_args(arguments)
    setup, _ = REGISTRY[options.name]
    env.keep_freed_memory()  # as the nagfast command does; the baselines gain from it too
    try:
        for benchmark in setup(options):
            records = run(benchmark, rounds=options.rounds, warmup=options.warmup, min_seconds=options.min_seconds)
            for record in records:
                path = append_json(options.out, benchmark.name, record, record["date"])
            print(table(records), flush=True)
            print(f"  -> {path}", flush=True)
    except CheckFailedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
