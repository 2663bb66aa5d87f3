"""Target profiles side by side: tables that integer sums are looked up in, for profiles of any K."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast import ops
from nagfast.targets import TargetProfile, rows_in_order, stack_tables

Array = npt.NDArray[Any]


class ProfileTable:
    """Profiles of one K (at most ops.MAX_PROFILES), side by side.

    Attributes:
        columns: which of all profiles they are (P numbers).
        top_k: their K.
        table (uint16 or uint32 [L, N, P]): what is added up.
        denominators (float64 [P]): what the sums are divided by.
    """

    def __init__(self, columns: Sequence[int], profiles: Sequence[TargetProfile]) -> None:
        self.columns = list(columns)
        self.top_k = profiles[0].spec.top_k
        self.table, self.denominators = stack_tables(profiles)

    def similarities(self, sums: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Similarities (float64 [n, P]) of integer sums."""
        return sums / self.denominators

    def of_nags(self, indices: Array, threads: int | None = None, backend: str = "auto") -> npt.NDArray[np.float64]:
        """Similarities (float64 [n, P]) of NAGs (uint16 or uint32 [n, L, at least K]).

        Args:
            indices: the NAGs; a larger K is cut.
            threads: CPU threads, default all.
            backend: auto, reference or cpp.
        """
        nags = rows_in_order(indices[:, :, : self.top_k])
        return self.similarities(ops.score(nags, self.table, threads=threads, backend=backend))


def profile_tables(profiles: Sequence[TargetProfile]) -> list[ProfileTable]:
    """As few tables as hold all profiles: one for each K, and more beyond ops.MAX_PROFILES.

    Raises:
        SpecMismatchError: profiles of different identity.
    """
    by_k: dict[int, list[int]] = defaultdict(list)
    for column, profile in enumerate(profiles):
        by_k[profile.spec.top_k].append(column)
    found = []
    for columns in by_k.values():
        for start in range(0, len(columns), ops.MAX_PROFILES):
            part = columns[start : start + ops.MAX_PROFILES]
            found.append(ProfileTable(part, [profiles[c] for c in part]))
    return found


def similarities_of_nags(
    tables: Sequence[ProfileTable], indices: Array, threads: int | None = None, backend: str = "auto"
) -> npt.NDArray[np.float64]:
    """Similarities (float64 [n, profiles]) of NAGs to all profiles of some tables (see ProfileTable.of_nags)."""
    found = np.empty((len(indices), sum(len(t.columns) for t in tables)))
    for table in tables:
        found[:, table.columns] = table.of_nags(indices, threads, backend)
    return found
