"""Targets as bit rows: exact counts of the neurons in common, many targets at a time.

Bit rows take 5 to 20 KB a target and are quick to build, so they are never stored: they are kept in memory while they
fit the budget, and beyond it built segment by segment for every call, which then wants large batches of queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nagfast import env, ops, reference_sets
from nagfast.errors import ArgumentError
from nagfast.search.base import Array, Found

SEGMENT = 32_768
"""Targets built together."""
ROWS_KEPT, ROWS_STREAMED = 65_536, 262_144
MOST_NEIGHBOURS = 4096
"""Of one query: the extension takes no more."""


class BitRows:
    """Some targets, searched exactly: all of them, or those in chosen lists."""

    def __init__(
        self,
        nags: Array,
        num_neurons: int,
        *,
        order: Array | None = None,
        starts: Array | None = None,
        budget: int | None = None,
        backend: str = "auto",
    ) -> None:
        """Remember the targets; bit rows are built at the first search.

        Args:
            nags: uint16 or uint32 [n, L, K]; may be a memory map, stays referenced.
            num_neurons: N.
            order: int64 [m], rows of nags list by list; default all in order.
            starts: int64 [lists + 1], where the lists begin in `order`; default one list.
            budget: bytes of bit rows to keep; default a quarter of the memory.
            backend: auto, reference or cpp.
        """
        ops.check_nags(nags, nags.shape[1] if nags.ndim == 3 else 0, "targets")
        self.nags, self.num_neurons = nags, num_neurons
        self.order = np.arange(len(nags), dtype=np.int64) if order is None else np.asarray(order, np.int64)
        self.starts = np.array([0, len(self.order)]) if starts is None else np.asarray(starts, np.int64)
        self.budget = env.memory_budget() if budget is None else budget
        self.backend = ops.resolve(backend)
        self._cuts = _segments(self.starts)
        self._kept: dict[int, Any] = {}
        self._kept_bytes = 0
        self.streamed = False  # whether the budget was found too small to keep all bit rows

    @property
    def bytes(self) -> int:
        """Bit rows that are kept."""
        return self._kept_bytes

    @property
    def rows(self) -> int:
        """Queries that a call should bring: many, where bit rows are built anew for each call."""
        return ROWS_STREAMED if self.streamed else ROWS_KEPT

    def search(self, queries: Array, k: int, *, threads: int | None = None) -> Found:
        """The k nearest of all targets (see Index.search)."""
        counts, ids = self._empty(queries, k)
        if self.backend == "reference":
            return self._reference(queries, k, None)
        for _, bits in self._segments(threads):
            _native(bits.search, queries, counts, ids, threads=ops.thread_count(threads), isa=ops.isa())
        return counts, ids

    def search_lists(self, queries: Array, probes: Array, k: int, *, threads: int | None = None) -> Found:
        """The k nearest of the targets in some lists (probes: int32 [q, p], -1 for none)."""
        counts, ids = self._empty(queries, k)
        if self.backend == "reference":
            return self._reference(queries, k, probes)
        for (first, last), bits in self._segments(threads):
            here = (probes >= first) & (probes < last)
            own = np.where(here, probes - first, -1).astype(np.int32)
            _native(bits.search_lists, queries, own, counts, ids, threads=ops.thread_count(threads), isa=ops.isa())
        return counts, ids

    def _empty(self, queries: Array, k: int) -> Found:
        ops.check_nags(queries, self.nags.shape[1], "queries")
        if queries.dtype != self.nags.dtype or queries.shape[2] != self.nags.shape[2]:
            raise ArgumentError(
                f"queries: got {queries.dtype} with K={queries.shape[2]}, the targets are {self.nags.dtype} with "
                f"K={self.nags.shape[2]}; use NAGs of one spec"
            )
        if not 1 <= k <= MOST_NEIGHBOURS:
            raise ArgumentError(f"k: got {k}; use 1 to {MOST_NEIGHBOURS}")
        return np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), -1, np.int64)

    def _segments(self, threads: int | None) -> Iterator[tuple[tuple[int, int], Any]]:
        """(first list, last list) and bit rows of each segment, kept ones first used, others built and let go."""
        extension = ops.native()
        assert extension is not None
        for number, (first, last) in enumerate(self._cuts):
            bits = self._kept.get(number)
            if bits is None:
                lanes = slice(self.starts[first], self.starts[last])
                bits = _native(
                    extension.BitTargets,
                    self.nags,
                    self.num_neurons,
                    order=np.ascontiguousarray(self.order[lanes]),
                    starts=self.starts[first : last + 1] - self.starts[first],
                    threads=ops.thread_count(threads),
                )
                if self._kept_bytes + bits.bytes <= self.budget:
                    self._kept[number] = bits
                    self._kept_bytes += bits.bytes
                else:
                    self.streamed = True
            yield (first, last), bits

    def _reference(self, queries: Array, k: int, probes: Array | None) -> Found:
        lists = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        allowed = np.zeros((len(queries), len(self.nags)), bool)
        for row, probed in enumerate(allowed):
            wanted = slice(None) if probes is None else np.isin(lists, probes[row])
            probed[self.order[wanted]] = True
        return reference_sets.nearest(queries, self.nags, self.num_neurons, k, allowed)


def _native(function: Any, *arguments: Any, **options: Any) -> Any:
    """Call the extension; what it refuses is a wrong argument."""
    try:
        return function(*arguments, **options)
    except ValueError as error:
        raise ArgumentError(str(error)) from None


def _segments(starts: Array) -> list[tuple[int, int]]:
    """Ranges of whole lists with at most SEGMENT targets, or one longer list."""
    cuts, first = [], 0
    for last in range(1, len(starts)):
        if last - first > 1 and starts[last] - starts[first] > SEGMENT:
            cuts.append((first, last - 1))
            first = last - 1
    if first < len(starts) - 1:
        cuts.append((first, len(starts) - 1))
    return cuts
