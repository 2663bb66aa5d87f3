"""Exact nearest targets: every target is counted, on bit rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from nagfast.search.base import Array, BuildOptions, Found
from nagfast.search.bits import SEGMENT, BitRows


class ExactIndex:
    """All targets as bit rows (search/bits.py)."""

    method: ClassVar[str] = "exact"

    def __init__(self, nags: Array, num_neurons: int, *, budget: int | None = None, backend: str = "auto") -> None:
        """Take the targets as they are (see BitRows)."""
        # Pieces, so that what is beyond the memory budget can be built and let go piece by piece.
        starts = np.append(np.arange(0, len(nags), SEGMENT), len(nags))
        self.bits = BitRows(nags, num_neurons, starts=starts, budget=budget, backend=backend)
        self.parameters: dict[str, Any] = {}

    @classmethod
    def build(cls, nags: Array, num_neurons: int, options: BuildOptions) -> Self:
        """Nothing to train (see Index.build)."""
        del options
        return cls(nags, num_neurons)

    @property
    def rows(self) -> int:
        """Queries that a call should bring."""
        return self.bits.rows

    @property
    def bytes(self) -> int:
        """Memory taken beside the NAGs."""
        return self.bits.bytes

    def search(self, queries: Array, k: int, *, threads: int | None = None) -> Found:
        """The k nearest targets (see Index.search)."""
        return self.bits.search(queries, k, threads=threads)

    def save(self, folder: Path) -> list[str]:
        """Nothing but the NAGs is needed."""
        del folder
        return []

    @classmethod
    def load(cls, folder: Path, nags: Array, num_neurons: int, parameters: dict[str, Any]) -> Self:
        """Restore (see Index.load)."""
        del folder, parameters
        return cls(nags, num_neurons)
