"""How many lists to probe and how many candidates to re-rank, so that a FAISS index reaches the recall asked for.

Some targets are taken as queries, each without itself. The exact answer comes from counting against every target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagfast import similarity
from nagfast.search.base import BuildOptions

if TYPE_CHECKING:
    from nagfast.search.faiss_index import FaissIndex

Array = npt.NDArray[Any]
SAMPLE = 200
SAMPLE_PAIRS = 100_000_000  # exact counts, a quarter of a minute on one core
CANDIDATES = (1, 2, 5, 10, 20, 40, 80, 160)  # a neighbour
SCAN_COST, RERANK_COST = 1.0, 10.0  # of a target looked at by sketch, and of one counted exactly


def tune(index: FaissIndex, options: BuildOptions) -> dict[str, Any]:
    """The cheapest of the settings tried that reach options.recall; the best found where none does.

    Returns:
        probes, candidates and the recall measured with them (1 where there is nothing to find).
    """
    documents = len(index.nags)
    held = np.flatnonzero(index.nags[:, 0, 0] != np.iinfo(index.nags.dtype).max)
    size = max(1, min(SAMPLE, SAMPLE_PAIRS // documents))
    sample = np.sort(np.random.default_rng(options.seed).permutation(held)[:size])
    k = min(options.k, documents - 1)
    steps = [min(documents, c * max(k, 1) + 1) for c in CANDIDATES]
    if k == 0 or len(sample) == 0:
        return {"probes": 1, "candidates": steps[0], "recall": 1.0}
    queries = np.ascontiguousarray(index.nags[sample])
    least = exact_counts(index, queries, sample, k, options.threads)
    best: tuple[float, int, int, float] | None = None
    fallback = (0.0, 1, steps[-1])
    probes = 1
    while True:
        scan = SCAN_COST * probes * documents / index.lists
        if best is not None and scan >= best[0]:
            break
        rows, shared = index.candidates(queries, steps[-1], probes, options.threads)
        found = (shared >= least[:, None]) & (rows != sample[:, None])
        for step in steps:
            recall = float(np.minimum(found[:, :step].sum(axis=1), k).mean() / k)
            cost = scan + RERANK_COST * step
            if recall >= options.recall and (best is None or cost < best[0]):
                best = (cost, probes, step, recall)
            if recall > fallback[0]:
                fallback = (recall, probes, step)
        if probes >= index.lists:
            break
        probes = min(2 * probes, index.lists)
    recall, probes, step = (best[3], best[1], best[2]) if best is not None else fallback
    return {"probes": probes, "candidates": step, "recall": round(recall, 4)}


def exact_counts(index: FaissIndex, queries: Array, sample: Array, k: int, threads: int | None) -> Array:
    """Neurons that each query has in common with its k-th nearest target, itself left out (int32 [q])."""
    every = np.arange(len(index.nags), dtype=np.int64)[None]
    least = np.empty(len(queries), np.int32)
    for i, row in enumerate(sample):
        options: dict[str, Any] = {"num_neurons": index.num_neurons, "threads": threads}
        shared = similarity.candidates(queries[i : i + 1], index.nags, every, **options)[0]
        shared[row] = -1
        least[i] = np.partition(shared, len(shared) - k)[len(shared) - k]
    return least
