"""Whether a document's NAG depends on what it is packed with: bitwise, or the measured share that differs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast import env
from nagfast.benchmarks import documents, engines
from nagfast.benchmarks.documents import Tokens, mean_overlap
from nagfast.benchmarks.harness import Benchmark, Check, hash_inputs, register
from nagfast.extraction import default_batch_tokens

LEAST = 0.95  # overlap below which packing changes more than the last bits
ALONE = 64  # documents that are also run by themselves


def _options(parser: argparse.ArgumentParser) -> None:
    engines.add_options(parser)
    parser.set_defaults(rounds=2, warmup=None, min_seconds=0.0)


def compare(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> dict[str, float]:
    """Shares of indices and of documents that differ, and the overlap as sets."""
    differ = a != b
    return {
        "indices_differ": float(differ.mean()),
        "documents_differ": float(differ.any(axis=(1, 2)).mean()),
        "overlap": mean_overlap(a, b),
    }


def _alone(run: engines.Engines, tokens: Tokens, dtype: str) -> npt.NDArray[Any]:
    return np.concatenate([run.nags([document], dtype) for document in tokens])


def _benchmark(run: engines.Engines, lengths: str, dtype: str) -> Benchmark:
    o = run.options
    sizes = documents.draw_sizes(lengths, engines.documents_of(o, lengths), o.web_median, 100)
    (tokens,) = documents.rotating(sizes, 1, run.vocab)
    budget = o.batch_tokens or default_batch_tokens(run.backbones[run.main], "projection")
    few = tokens[:ALONE]

    def check() -> Check:
        packed = run.nags(tokens, dtype, budget=budget)
        others = {
            "alone": (_alone(run, few, dtype), packed[: len(few)]),
            "half_budget": (run.nags(tokens, dtype, budget=max(1, budget // 2)), packed),
            "reversed": (run.nags(tokens[::-1], dtype, budget=budget)[::-1], packed),
        }
        found = {f"{name}_{k}": v for name, pair in others.items() for k, v in compare(*pair).items()}
        bitwise = not any(v for k, v in found.items() if k.endswith("indices_differ"))
        passed = all(v >= LEAST for k, v in found.items() if k.endswith("overlap"))
        return Check(passed, {"bitwise": bitwise} | found | run.about())

    return Benchmark(
        name="invariance",
        variants={
            "one at a time": lambda _i: _alone(run, few, dtype),
            "packed": lambda _i: run.nags(few, dtype, budget=budget),
        },
        check=check,
        units={"tokens": float(sizes[: len(few)].sum())},
        device=o.device,
        params={
            "shape": o.shape,
            "lengths": lengths,
            "dtype": dtype,
            "layers": o.layers,
            "documents": len(tokens),
            "alone": len(few),
            "batch_tokens": budget,
            "top_k": o.top_k,
            "threads": o.threads,
        },
        input_hash=hash_inputs(tokens),
    )


@register("invariance", _options)
def setup(options: argparse.Namespace) -> Iterator[Benchmark]:
    """Packing: does a NAG depend on the documents beside it? Bitwise, or the share that differs."""
    engines.resolve(options)
    run = engines.Engines(options, bfloat16=env.has_bfloat16_matrix(), float8=True)
    for dtype in run.dtypes:  # float8 last: its check may not pass
        for lengths in options.lengths:
            yield _benchmark(run, lengths, dtype)
