"""Locality-sensitive hashing of MinHash signatures: equal bands of values make candidates.

A signature is cut into bands of r values. Two sets of Jaccard similarity j agree in at least one of b bands with
probability 1 - (1 - j^r)^b, a step near the threshold that b and r are chosen for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast.errors import ArgumentError

Array = npt.NDArray[Any]
MAX_PAIRS = 1 << 18
"""Candidate pairs looked at together, unless a single query has more."""


@cache
def choose_bands(threshold: float, num_perm: int) -> tuple[int, int]:
    """Bands b and rows r that datasketch chooses: least sum of false positives and false negatives.

    These are the integrals of the probability above, from 0 to the threshold, and of its complement, from there to 1;
    of equal sums the fewest bands, then the fewest rows. Gauss-Legendre quadrature of 512 points.

    Args:
        threshold: Jaccard similarity above 0 and up to 1.
        num_perm: values in a signature.
    """
    if not 0 < threshold <= 1:
        raise ArgumentError(f"threshold: got {threshold}; use a Jaccard similarity above 0 and up to 1, such as 0.8")
    nodes, weights = np.polynomial.legendre.leggauss(512)
    below, above = (nodes + 1) / 2 * threshold, threshold + (nodes + 1) / 2 * (1 - threshold)
    least, best = float("inf"), (0, 0)
    for bands in range(1, num_perm + 1):
        for rows in range(1, num_perm // bands + 1):
            positives = (weights @ (1 - (1 - below**rows) ** bands)) / 2 * threshold
            negatives = (weights @ ((1 - above**rows) ** bands)) / 2 * (1 - threshold)
            if positives + negatives < least:
                least, best = float(positives + negatives), (bands, rows)
    return best


def band_keys(signatures: Array, bands: int, rows: int) -> Array:
    """One 64-bit hash per band (uint64 [bands, n]); values of two different bands' positions never meet.

    Args:
        signatures: uint32 [n, p], p at least bands * rows.
        bands: b.
        rows: r.
    """
    # A sum of products with fixed odd numbers: unequal bands that meet only cost an exact comparison later.
    factors = np.random.default_rng(0).integers(0, 1 << 63, rows, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.zeros((bands, len(signatures)), np.uint64)
    for band in range(bands):
        for row in range(rows):
            keys[band] += signatures[:, band * rows + row] * factors[row]
    return keys


class BandTables:
    """Sorted band keys of the documents given; candidates come from binary search."""

    def __init__(self, keys: Array, ids: Array) -> None:
        """Sort.

        Args:
            keys: uint64 [bands, n].
            ids: int64 [n], what to call the documents.
        """
        order = np.argsort(keys, axis=1, kind="stable")
        self._keys = np.take_along_axis(keys, order, axis=1)
        self._ids = ids[order]

    @property
    def bytes(self) -> int:
        """Memory taken."""
        return int(self._keys.nbytes + self._ids.nbytes)

    def candidates(self, keys: Array) -> Iterator[tuple[Array, Array]]:
        """Pairs of query number and document id that share a band, each once, by query, then id.

        Args:
            keys: uint64 [bands, q].

        Yields:
            queries (int64 [m]) and ids (int64 [m]); a query's pairs come in one piece.
        """
        first = np.stack([np.searchsorted(own, asked) for own, asked in zip(self._keys, keys, strict=True)])
        last = np.stack([np.searchsorted(own, asked, "right") for own, asked in zip(self._keys, keys, strict=True)])
        ends = np.cumsum((last - first).sum(axis=0))
        start = 0
        while start < keys.shape[1]:
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + MAX_PAIRS, "right")))
            yield self._pairs(first[:, start:stop], last[:, start:stop], start)
            start = stop

    def _pairs(self, first: Array, last: Array, start: int) -> tuple[Array, Array]:
        found = []
        for ids, low, high in zip(self._ids, first, last, strict=True):
            counts = high - low
            queries = np.repeat(np.arange(len(counts)), counts)
            offsets = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
            found.append(np.stack([queries + start, ids[low[queries] + offsets]]))
        pairs = np.concatenate(found, axis=1)
        order = np.lexsort((pairs[1], pairs[0]))
        pairs = pairs[:, order]
        fresh = np.ones(pairs.shape[1], bool)
        fresh[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
        return pairs[0, fresh], pairs[1, fresh]
