"""NAG similarity of candidates one by one, and MinHash signatures: every instruction set."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast import minhash, reference_sets
from nagfast.benchmarks.harness import Benchmark, Check, hash_inputs, register
from nagfast.benchmarks.native import synthetic_nags
from nagfast.ops import native

Array = npt.NDArray[Any]


def _extension() -> Any:
    extension = native()
    if extension is None:
        raise SystemExit("benchmarks: the extension nagfast._C is not built; pip install -e . builds it")
    return extension


def _shape_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--neurons", type=int, default=6144)
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(rounds=7, warmup=2, min_seconds=0.1)


def _sets_options(parser: argparse.ArgumentParser) -> None:
    _shape_options(parser)
    parser.add_argument("--targets", type=int, default=100_000, help="what candidates are drawn from")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=400, help="for each query")


@register("sets", _sets_options)
def sets(options: argparse.Namespace) -> Iterator[Benchmark]:
    """Exact re-rank: neurons in common with random candidates, that lie in the cache (2,000 targets) and in memory."""
    extension, o = _extension(), options
    targets = synthetic_nags(o.targets, o.layers, o.top_k, o.neurons, 1)
    queries = synthetic_nags(o.queries, o.layers, o.top_k, o.neurons, 2)
    isas = extension.available_isas(sets=True)
    shown = ("layers", "top_k", "neurons", "queries", "candidates", "threads")
    for drawn in dict.fromkeys((min(2000, o.targets), o.targets)):
        rng = np.random.default_rng(drawn)
        candidates = [rng.integers(0, drawn, (o.queries, o.candidates)) for _ in range(3)]
        out = np.empty((o.queries, o.candidates), np.int32)

        def rerank(i: int, isa: str, candidates: list[Array] = candidates, out: Array = out) -> Array:
            options = {"neurons": o.neurons, "threads": o.threads, "isa": isa}
            extension.overlap_candidates(queries, targets, candidates[i % 3], out, **options)
            return out

        def check(candidates: list[Array] = candidates, rerank: Any = rerank) -> Check:
            few = slice(0, 3)
            wanted = [
                reference_sets.overlap_counts(query[None], targets[rows], o.neurons)[0]
                for query, rows in zip(queries[few], candidates[0][few], strict=True)
            ]
            exact = {f"exact_{isa}": bool((rerank(0, isa)[few] == wanted).all()) for isa in isas}
            return Check(all(exact.values()), exact)

        yield Benchmark(
            name="sets",
            variants={f"cpp {isa}": lambda i, isa=isa, rerank=rerank: rerank(i, isa) for isa in isas},
            check=check,
            units={"candidates": float(out.size)},
            params={n: getattr(o, n) for n in shown} | {"targets": drawn},
            input_hash=hash_inputs(targets, queries, *candidates),
        )


def _minhash_options(parser: argparse.ArgumentParser) -> None:
    _shape_options(parser)
    parser.add_argument("--documents", type=int, default=8000)
    parser.add_argument("--permutations", type=int, default=128)


@register("minhash", _minhash_options)
def signatures(options: argparse.Namespace) -> Iterator[Benchmark]:
    """MinHash signatures, equal to the bit with datasketch's affine32."""
    extension, o = _extension(), options
    nags = [synthetic_nags(o.documents, o.layers, o.top_k, o.neurons, seed) for seed in range(3)]
    a, b = minhash.permutations(o.permutations, 1)
    out = np.empty((o.documents, o.permutations), np.uint32)
    isas = extension.available_isas()

    def sign(i: int, isa: str) -> Array:
        extension.minhash(nags[i % 3], o.neurons, a, b, out, threads=o.threads, isa=isa)
        return out

    def check() -> Check:
        wanted = minhash.signatures(nags[0][:50], o.neurons, num_perm=o.permutations, backend="reference")
        exact = {f"exact_{isa}": bool((sign(0, isa)[:50] == wanted).all()) for isa in isas}
        return Check(all(exact.values()), exact)

    yield Benchmark(
        name="minhash",
        variants={f"cpp {isa}": lambda i, isa=isa: sign(i, isa) for isa in isas},
        check=check,
        units={"documents": float(o.documents)},
        params={n: getattr(o, n) for n in ("layers", "top_k", "neurons", "documents", "permutations", "threads")},
        input_hash=hash_inputs(*nags),
    )
