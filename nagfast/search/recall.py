"""How much of the truth an approximate search finds, ties counted as found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nagfast.search.base import Array, BuildOptions, Found
from nagfast.search.bits import BitRows


@dataclass(frozen=True)
class Sample:
    """Queries with the exact counts of their k nearest targets.

    A query that is a target itself is not to find itself: `own` is its row, -1 for queries from elsewhere.
    """

    queries: Array
    """uint16 or uint32 [q, L, K]."""
    own: npt.NDArray[np.int64]
    """int64 [q]."""
    exact: npt.NDArray[np.int32]
    """Neurons in common with the k nearest targets, most first (int32 [q, k])."""

    @property
    def k(self) -> int:
        """Neighbours asked for, beside itself."""
        return int(self.exact.shape[1])

    @property
    def wanted(self) -> npt.NDArray[np.int64]:
        """Neighbours that there are to find: k, or fewer where there are fewer targets (int64 [q])."""
        wanted: npt.NDArray[np.int64] = (self.exact >= 0).sum(axis=1)
        return wanted

    def hits(self, found: Found) -> npt.NDArray[np.bool_]:
        """Which of the targets found, in whatever order, are at least as near as the k-th nearest (bool [q, c])."""
        counts, ids = found
        hits: npt.NDArray[np.bool_] = (
            (counts >= _last(self.exact)[:, None]) & (counts >= 0) & (ids != self.own[:, None])
        )
        return hits

    def part(self, rows: slice) -> Sample:
        """Some of the queries."""
        return Sample(self.queries[rows], self.own[rows], self.exact[rows])

    def recalls(self, found: Found) -> npt.NDArray[np.float64]:
        """Recall of each query (float64 [q]) for the k + 1 nearest that a search found."""
        counts = without_self(found, self.own, self.k)
        return tie_aware(counts, self.exact)


def samples(targets: BitRows, sample: Array | None, k: int, most: int, options: BuildOptions) -> tuple[Sample, Sample]:
    """Queries to tune with and as many others to state the recall with; the same where there is only one.

    Args:
        targets: what the queries' true neighbours are among: all of them.
        sample: queries like those to come (uint16 or uint32 [q, L, K]); default some of the targets, each without
            finding itself.
        k: neighbours.
        most: queries taken in all.
        options: seed and threads are used.
    """
    source = targets.nags if sample is None else sample
    usable = np.flatnonzero(source[:, 0, 0] != np.iinfo(source.dtype).max)
    if not len(usable):
        usable = np.arange(min(len(source), 1))
    rows = np.random.default_rng([options.seed, 1]).permutation(usable)[:most]
    own = rows.astype(np.int64) if sample is None else np.full(len(rows), -1, np.int64)
    queries = np.ascontiguousarray(source[rows])
    exact = Sample(queries, own, without_self(targets.search(queries, k + 1, threads=options.threads), own, k))
    half = (len(rows) + 1) // 2
    return exact.part(slice(0, half)), exact.part(slice(half if len(rows) > 1 else 0, None))


def queries_were(sample: Array | None) -> str:
    """What an index says about the queries it was tuned with."""
    return "targets" if sample is None else "given"


def mean_and_error(recalls: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean over the queries, and its standard error."""
    return float(recalls.mean()), float(recalls.std() / math.sqrt(len(recalls)))


def reaches(mean: float, error: float, wanted: float) -> bool:
    """Whether a recall measured on a sample is enough: two standard errors more than what is asked for, or all."""
    return mean - 2 * error >= wanted or mean == 1.0


def without_self(found: Found, own: Array, k: int) -> npt.NDArray[np.int32]:
    """Counts of the k nearest of k + 1 found, each query's own row left out (int32 [q, k])."""
    counts, ids = found
    drop = (ids == own[:, None]) & (ids >= 0)
    drop[:, -1] |= ~drop.any(axis=1)  # the row's own id is not among them: the last is one too many
    kept: npt.NDArray[np.int32] = counts[~drop].reshape(len(counts), -1)[:, :k]
    return kept


def tie_aware(found: Array, exact: Array) -> npt.NDArray[np.float64]:
    """Share of the k found targets that are at least as near as the k-th nearest (float64 [q]).

    Args:
        found: neurons in common of the targets found, -1 for none (int32 [q, k]).
        exact: the same of the true k nearest; -1 where there are fewer targets than k.
    """
    hits = ((found >= _last(exact)[:, None]) & (found >= 0)).sum(axis=1)
    return shares(hits, (exact >= 0).sum(axis=1))


def shares(hits: Array, wanted: Array) -> npt.NDArray[np.float64]:
    """Recall of queries with so many hits of so many wanted (float64 [q]); 1 where nothing is wanted."""
    found: npt.NDArray[np.float64] = np.divide(hits, wanted, out=np.ones(len(hits)), where=wanted > 0)
    return np.minimum(found, 1.0)


def _last(exact: Array) -> Array:
    """Neurons in common with the furthest of the neighbours that there are (int32 [q])."""
    last: Array = np.where(exact >= 0, exact, np.iinfo(np.int32).max).min(axis=1)
    return last
