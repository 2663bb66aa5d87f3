"""How much of the truth an approximate search finds, ties counted as found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nagfast.search.base import Array, Found


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

    def part(self, rows: slice) -> Sample:
        """Some of the queries."""
        return Sample(self.queries[rows], self.own[rows], self.exact[rows])

    def recalls(self, found: Found) -> npt.NDArray[np.float64]:
        """Recall of each query (float64 [q]) for the k + 1 nearest that a search found."""
        counts = without_self(found, self.own, self.k)
        return tie_aware(counts, self.exact)


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
    real = exact >= 0
    last = np.where(real, exact, np.iinfo(np.int32).max).min(axis=1)
    hits = ((found >= last[:, None]) & (found >= 0)).sum(axis=1)
    wanted = real.sum(axis=1)
    shares: npt.NDArray[np.float64] = np.divide(hits, wanted, out=np.ones(len(hits)), where=wanted > 0)
    return np.minimum(shares, 1.0)
