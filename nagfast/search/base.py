"""What every nearest-target index is: built from target NAGs, searched with query NAGs, saved into a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Found = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class BuildOptions:
    """What an index is asked for; methods ignore what does not concern them."""

    recall: float = 0.99
    """Share of the k nearest targets to find, ties counted as found; approximate methods tune themselves to it."""
    k: int = 10
    """Neighbours that `recall` is measured at."""
    seed: int = 0
    """Seed of samples and starting points; the same seed gives the same index."""
    threads: int | None = None
    """CPU threads, default all."""


class Index(Protocol):
    """One method of finding nearest targets.

    Ids are row numbers of the target NAGs. Rows without a NAG are targets like the others, with no neuron in common
    with anything.
    """

    method: ClassVar[str]
    """Name on the command line."""
    parameters: dict[str, Any]
    """What was chosen at build time, ready for JSON; with the NAGs and the files of `save` it restores the index."""

    @classmethod
    def build(cls, nags: Array, num_neurons: int, options: BuildOptions) -> Self:
        """Build from target NAGs (uint16 or uint32 [n, L, K], n at least 1)."""

    def search(self, queries: Array, k: int, *, threads: int | None = None) -> Found:
        """The k nearest targets of each query (uint16 or uint32 [q, L, K]).

        Returns:
            counts: neurons in common, exact whatever the method (int32 [q, k]), most first.
            ids: target row numbers (int64 [q, k]); ties go to the lower row. Both -1 where none was found.
        """

    @property
    def bytes(self) -> int:
        """Memory taken beside the NAGs, as far as it has been built."""

    def save(self, folder: Path) -> list[str]:
        """Write what cannot be had again quickly from the NAGs; return the file names."""

    @classmethod
    def load(cls, folder: Path, nags: Array, num_neurons: int, parameters: dict[str, Any]) -> Self:
        """Restore. `nags` may be a memory map. Files have passed their checksums; shapes and ranges are checked here.

        Raises:
            NagfastError: a file does not fit the NAGs or the parameters.
        """
