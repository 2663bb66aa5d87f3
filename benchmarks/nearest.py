"""Nearest targets: every method on the same data in one run.

    nagfast bench nearest --data easy hard --targets 100000
    nagfast bench nearest --data TARGETS.nag POOL.nag          (two stores, of targets and of documents)

Per method: queries/s (search of k = 10, everything included), tie-aware recall@1 and @10 against exact search, build
time and bytes a target. What is timed is the search of the same block of queries by each method in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast import ops, reference_sets
from nagfast.benchmarks.harness import Benchmark, Check, hash_inputs, register
from nagfast.benchmarks.nag_data import EASY, HARD, clustered_nags
from nagfast.benchmarks.native import synthetic_nags
from nagfast.search.base import BuildOptions, Found
from nagfast.search.exact import ExactIndex
from nagfast.search.ivf import IvfIndex
from nagfast.search.recall import tie_aware

Array = npt.NDArray[Any]
Search = Callable[[Array, int], Found]
COUNTING = ("inverted-lists", "exact", "faiss-simhash")
"""Methods that look at every target, or nearly: timed on fewer queries."""
LISTING = ("faiss", "ivf", "minhash")
METHODS = (*COUNTING, *LISTING)
NOISE = {"easy": EASY, "hard": HARD}
K = 10


@dataclass(frozen=True)
class Data:
    """What is searched, and for what."""

    name: str
    targets: Array
    queries: Array
    neurons: int


@dataclass(frozen=True)
class Built:
    """A method ready to search."""

    search: Search
    seconds: float
    bytes_per_target: float
    parameters: dict[str, Any]


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", default=["easy", "hard"], help="easy, hard, uniform, or two stores")
    parser.add_argument("--targets", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=2048, help="documents per call, methods that see every target")
    parser.add_argument("--many", type=int, default=32_768, help="documents per call, methods with lists")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--recall", type=float, default=0.99, help="what approximate methods are asked for")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--neurons", type=int, default=6144)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(rounds=3, warmup=1, min_seconds=0.5)


def _data(o: argparse.Namespace) -> Iterator[Data]:
    names = list(o.data)
    if len(names) == 2 and not {*names} & {"easy", "hard", "uniform"}:
        yield _stored(*names, o)
        return
    for name in names:
        if name == "uniform":
            make = lambda n, seed: synthetic_nags(n, o.layers, o.top_k, o.neurons, seed)  # noqa: E731
        else:
            noise = NOISE[name]
            make = lambda n, seed, noise=noise: clustered_nags(  # noqa: E731
                n, o.layers, o.top_k, o.neurons, clusters=o.clusters, noise=noise, seed=seed
            )
        yield Data(name, make(o.targets, 1), make(max(o.queries, o.many), 2), o.neurons)


def _stored(targets: str, queries: str, o: argparse.Namespace) -> Data:
    from nagfast.store import NagStore

    found = [NagStore.open(path).read()[1] for path in (targets, queries)]
    found[0].spec.require_same_identity(found[1].spec, targets, queries)
    kept = [batch.indices[~batch.empty] for batch in found]
    return Data("stores", kept[0][: o.targets], kept[1][: max(o.queries, o.many)], found[0].spec.num_neurons)


def _build(method: str, data: Data, o: argparse.Namespace) -> Built:
    options = BuildOptions(recall=o.recall, k=K, threads=o.threads)
    layers, top_k = data.targets.shape[1:]
    stored = float(layers * top_k * data.targets.itemsize)
    begin = time.perf_counter()
    if method == "inverted-lists":
        return Built(_inverted(data), 0.0, stored, {})
    index = _index(method, data, options)
    if method in {"exact", "ivf"}:
        index.search(data.queries[:1], 1, threads=o.threads)  # bit rows are built at the first search
    seconds = time.perf_counter() - begin
    return Built(
        lambda queries, k: index.search(queries, k, threads=o.threads),
        seconds,
        float(getattr(index, "bytes", 0)) / len(data.targets) + stored,
        dict(index.parameters),
    )


def _index(method: str, data: Data, options: BuildOptions) -> Any:
    if method == "exact":
        return ExactIndex.build(data.targets, data.neurons, options)
    if method == "ivf":
        return IvfIndex.build(data.targets, data.neurons, options)
    if method == "minhash":
        from nagfast.search.minhash_index import MinHashIndex

        return MinHashIndex.build(data.targets, data.neurons, options)
    from nagfast.search.faiss_index import FaissIndex

    return FaissIndex.build(data.targets, data.neurons, options, kind="simhash" if "simhash" in method else "pq")


def _inverted(data: Data) -> Search:
    extension = ops.native()
    assert extension is not None

    def search(queries: Array, k: int) -> Found:
        counts, ids = np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), -1, np.int64)
        extension.inverted_lists_search(data.targets, data.neurons, queries, counts, ids)
        return counts, ids

    return search


@register("nearest", _options)
def nearest(options: argparse.Namespace) -> Iterator[Benchmark]:
    """Nearest targets: queries/s, recall, build time and memory of every method."""
    for data in _data(options):
        truth = ExactIndex(data.targets, data.neurons).search(data.queries, K, threads=options.threads)
        for group, most in ((COUNTING, options.queries), (LISTING, options.many)):
            methods = [m for m in group if m in options.methods]
            if methods:
                part = Data(data.name, data.targets, data.queries[:most], data.neurons)
                yield _compare(part, methods, (truth[0][:most], truth[1][:most]), options)


def _compare(data: Data, methods: list[str], truth: Found, o: argparse.Namespace) -> Benchmark:
    built = {m: _build(m, data, o) for m in methods}
    shape = {"layers": data.targets.shape[1], "top_k": data.targets.shape[2], "neurons": data.neurons, "k": K}
    sizes = {"data": data.name, "targets": len(data.targets), "queries": len(data.queries)}
    return Benchmark(
        name="nearest",
        variants={m: lambda _, b=b: b.search(data.queries, K) for m, b in built.items()},
        check=lambda: _check(data, built, truth),
        units={"queries": float(len(data.queries)), "pairs": float(len(data.queries)) * len(data.targets)},
        params=sizes | shape | {"threads": o.threads, "recall_asked": o.recall},
        input_hash=hash_inputs(data.targets, data.queries),
    )


def _check(data: Data, built: dict[str, Built], truth: Found) -> Check:
    """Exact methods against the definition; recall of the others; exact counts for whatever is found."""
    few = data.queries[:64]
    sure = reference_sets.nearest(few, data.targets[:4096], data.neurons, K)
    part = ExactIndex(data.targets[:4096], data.neurons).search(few, K)
    passed = bool((sure[0] == part[0]).all() and (sure[1] == part[1]).all())
    detail = {"exact_is_the_definition": passed}
    of_variant: dict[str, dict[str, Any]] = {}
    for method, b in built.items():
        queries = data.queries[:256] if method == "inverted-lists" else data.queries
        counts, ids = b.search(queries, K)
        own = (truth[0][: len(queries)], truth[1][: len(queries)])
        recall = {f"recall@{k}": round(float(tie_aware(counts[:, :k], own[0][:, :k]).mean()), 4) for k in (1, K)}
        if method in {"exact", "inverted-lists"}:
            right = bool((counts == own[0]).all() and (ids == own[1]).all())
        else:
            right = _counts_are_exact(data, queries[:200], counts[:200], ids[:200])
        passed = passed and right
        built_in = {"build_s": round(b.seconds, 2), "bytes/target": round(b.bytes_per_target)}
        of_variant[method] = {**recall, **built_in, "right": right, "parameters": b.parameters}
    return Check(passed, detail, of_variant)


def _counts_are_exact(data: Data, queries: Array, counts: Array, ids: Array) -> bool:
    for query, found, rows in zip(queries, counts, ids, strict=True):
        there = rows >= 0
        if (found[~there] != -1).any():
            return False
        if there.any():
            shared = reference_sets.overlap_counts(query[None], data.targets[rows[there]], data.neurons)[0]
            if not np.array_equal(shared, found[there]):
                return False
    return True
