"""How many lists to probe and how many candidates to re-rank, so that a FAISS index reaches the recall asked for.

Both are settled on some queries, and the recall is stated for others (search/recall.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagfast.search.base import Array, BuildOptions
from nagfast.search.bits import BitRows
from nagfast.search.recall import Sample, mean_and_error, queries_were, reaches, samples, shares

if TYPE_CHECKING:
    from nagfast.search.faiss_index import FaissIndex

SAMPLE = 250
"""Queries to settle the numbers, and as many again to state the recall."""
CANDIDATES = (1, 2, 5, 10, 20, 40, 80, 160)  # a neighbour
SCAN_COST, RERANK_COST = 1.0, 10.0  # of a target looked at by sketch, and of one counted exactly


def tune(index: FaissIndex, options: BuildOptions, sample: Array | None = None) -> dict[str, Any]:
    """The cheapest of the settings tried that reach options.recall; the best found where none does.

    Args:
        index: filled with its targets.
        options: recall, k, seed and threads are used.
        sample: queries like those to come; default some of the targets.

    Returns:
        probes, candidates, the recall measured with them, its standard error, and what the queries were.
    """
    targets = BitRows(index.nags, index.num_neurons)
    k = min(options.k, len(index.nags))
    tuning, stating = samples(targets, sample, k, 2 * SAMPLE, options)
    steps = [min(index.most, c * k + 1) for c in CANDIDATES]
    probes, step = _settle(index, tuning, steps, options)
    mean, error = mean_and_error(_recalls(index, stating, [step], probes, options.threads)[0])
    stated = {"recall": round(mean, 4), "recall_error": round(error, 4), "recall_queries": queries_were(sample)}
    return {"probes": probes, "candidates": step, **stated}


def _settle(index: FaissIndex, sample: Sample, steps: list[int], options: BuildOptions) -> tuple[int, int]:
    """Probes and candidates."""
    best: tuple[float, int, int] | None = None
    fallback, highest = (1, steps[-1]), 0.0
    probes = 1
    while True:
        scan = SCAN_COST * probes * len(index.nags) / index.lists
        if best is not None and scan >= best[0]:
            break
        for step, recalls in zip(steps, _recalls(index, sample, steps, probes, options.threads), strict=True):
            mean, error = mean_and_error(recalls)
            cost = scan + RERANK_COST * step
            if reaches(mean, error, options.recall) and (best is None or cost < best[0]):
                best = (cost, probes, step)
            if mean > highest:
                highest, fallback = mean, (probes, step)
        if probes >= index.lists:
            break
        probes = min(2 * probes, index.lists)
    return fallback if best is None else best[1:]


def _recalls(
    index: FaissIndex, sample: Sample, steps: list[int], probes: int, threads: int | None
) -> list[npt.NDArray[np.float64]]:
    """Recall of each query, for each number of candidates (steps rise)."""
    rows, shared = index.candidates(sample.queries, steps[-1], probes, threads)
    hits = sample.hits((shared, rows)).cumsum(axis=1)
    return [shares(hits[:, step - 1], sample.wanted) for step in steps]
