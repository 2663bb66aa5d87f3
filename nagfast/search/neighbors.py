"""What a search found, and how a document's neighbours become one number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nagfast.config import AGGREGATES
from nagfast.errors import ArgumentError

BANDWIDTH = 0.1


@dataclass(frozen=True)
class Neighbors:
    """The k nearest targets of some documents, nearest first.

    Attributes:
        counts (int32 [n, k]): neurons in common; -1 where none was found.
        ids (int64 [n, k]): row numbers of the targets; -1 where none was found.
        size: L * K, the neurons of a NAG.
    """

    counts: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int64]
    size: int

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def similarity(self) -> npt.NDArray[np.float64]:
        """NAG similarity, counts / (L K) (float64 [n, k], 0 to 1); 0 where none was found."""
        shares: npt.NDArray[np.float64] = np.maximum(self.counts, 0) / self.size
        return shares

    @property
    def jaccard(self) -> npt.NDArray[np.float64]:
        """Jaccard similarity of the same pairs (float64 [n, k]); the order is the same."""
        shared = np.maximum(self.counts, 0)
        shares: npt.NDArray[np.float64] = shared / (2 * self.size - shared)
        return shares

    def aggregate(self, mode: str = "max", bandwidth: float = BANDWIDTH) -> npt.NDArray[np.float64]:
        """One similarity for each document (float64 [n], 0 to 1).

        Args:
            mode: "max": to the nearest target. "mean": over the k nearest. "density": kernel density, the mean of
                exp(-(1 - s) / bandwidth) over the k nearest; targets further off would add next to nothing. Targets
                that were not found count as similarity 0.
            bandwidth: of the kernel, in units of similarity.

        Raises:
            ArgumentError: another mode, or a bandwidth that is not above 0.
        """
        if mode not in AGGREGATES:
            raise ArgumentError(f"aggregate: got {mode!r}; use one of {', '.join(AGGREGATES)}")
        if not bandwidth > 0:
            raise ArgumentError(f"bandwidth: got {bandwidth}; use a number above 0")
        similarity = self.similarity
        if mode == "max":
            return similarity[:, 0]
        if mode == "density":
            similarity = np.exp((similarity - 1) / bandwidth)
        mean: npt.NDArray[np.float64] = similarity.mean(axis=1)
        return mean


def merge(one: Neighbors, other: Neighbors) -> Neighbors:
    """The k nearest of two searches over different targets; ties to the lower row number."""
    counts = np.concatenate([one.counts, other.counts], axis=1)
    ids = np.concatenate([one.ids, other.ids], axis=1)
    missing = np.where(ids < 0, np.iinfo(np.int64).max, ids)
    order = np.lexsort((missing, -counts), axis=1)[:, : one.counts.shape[1]]
    return Neighbors(np.take_along_axis(counts, order, 1), np.take_along_axis(ids, order, 1), one.size)
