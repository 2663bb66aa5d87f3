"""Near-duplicates: targets whose set of neurons is nearly the query's, by MinHash, bands and exact comparison.

Made for Jaccard similarity of 0.8 and above; to find the nearest of targets that are not so near, use another method.
Everything returned is exact; a pair that is similar enough but agrees in no band is missed. With 128 values and a
threshold of 0.8 (9 bands of 13 values) 40% of the pairs at 0.8 are found, 93% at 0.9, 99.8% at 0.95: set the threshold
somewhat below the similarity that must not be missed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from nagfast import minhash, similarity
from nagfast.errors import ArgumentError, NagfastError
from nagfast.search import minhash_export
from nagfast.search.bands import BandTables, band_keys, choose_bands
from nagfast.search.base import BuildOptions, Found

Array = npt.NDArray[Any]
MOST_VALUES = 1 << 14  # in a signature
COMPARED = 8192  # pairs compared together: 9 MB at L = 28, K = 20


def _shared(queries: Array, targets: Array, rows: Array, ids: Array, num_neurons: int, threads: int | None) -> Array:
    """Neurons in common of queries[rows[i]] and targets[ids[i]] (int32 [m])."""
    shared = np.empty(len(rows), np.int32)
    for start in range(0, len(rows), COMPARED):
        part = slice(start, start + COMPARED)
        near = ids[part, None]
        options: dict[str, Any] = {"num_neurons": num_neurons, "threads": threads}
        shared[part] = similarity.candidates(queries[rows[part]], targets, near, **options)[:, 0]
    return shared


def least_shared(threshold: float, elements: int) -> int:
    """Fewest neurons in common of two sets of `elements` each whose Jaccard similarity reaches the threshold."""
    shared = np.arange(elements + 1)
    return int(np.searchsorted(shared / (2 * elements - shared), threshold))


def _with_nag(nags: Array) -> Array:
    """Row numbers of the documents that have a NAG (int64)."""
    return np.flatnonzero(nags[:, 0, 0] != np.iinfo(nags.dtype).max)


class MinHashIndex:
    """Targets in band tables; `parameters` holds threshold, num_perm, seed, bands and rows."""

    method: ClassVar[str] = "minhash"

    def __init__(self, nags: Array, num_neurons: int, parameters: dict[str, Any], threads: int | None = None) -> None:
        """Hash and sort the targets; `build` chooses the parameters."""
        self.parameters = parameters
        self._nags, self._num_neurons = nags, num_neurons
        self._least = least_shared(parameters["threshold"], nags.shape[1] * nags.shape[2])
        ids = _with_nag(nags)
        self._tables = BandTables(self._keys(nags, threads)[:, ids], ids)

    @classmethod
    def build(
        cls,
        nags: Array,
        num_neurons: int,
        options: BuildOptions,
        *,
        threshold: float = 0.8,
        num_perm: int = 128,
    ) -> Self:
        """Build from target NAGs.

        Args:
            nags: uint16 or uint32 [n, L, K].
            num_neurons: N.
            options: the seed (of the permutations, as datasketch takes it) and threads.
            threshold: Jaccard similarity of the sets, above 0 and up to 1; targets below it are not returned.
            num_perm: values in a signature, up to MOST_VALUES.
        """
        if not 1 <= num_perm <= MOST_VALUES:
            raise ArgumentError(f"num_perm: got {num_perm}; use 1 to {MOST_VALUES}, 128 is usual")
        bands, rows = choose_bands(threshold, num_perm)
        hashing = {"threshold": float(threshold), "num_perm": num_perm, "seed": options.seed}
        chosen = hashing | {"bands": bands, "rows": rows}
        return cls(nags, num_neurons, chosen, options.threads)

    def signatures(self, nags: Array, threads: int | None = None) -> Array:
        """Signatures under the permutations of this index (uint32 [n, num_perm])."""
        num_perm, seed = self.parameters["num_perm"], self.parameters["seed"]
        return minhash.signatures(nags, self._num_neurons, num_perm=num_perm, seed=seed, threads=threads)

    def _keys(self, nags: Array, threads: int | None) -> Array:
        return band_keys(self.signatures(nags, threads), self.parameters["bands"], self.parameters["rows"])

    @property
    def bytes(self) -> int:
        """Memory taken beside the NAGs."""
        return self._tables.bytes

    def search(self, queries: Array, k: int, *, threads: int | None = None) -> Found:
        """The k nearest targets of each query among those that reach the threshold; -1 where there are fewer.

        A query that many targets resemble is compared with all of them.
        """
        if k < 1:
            raise ArgumentError(f"k: got {k}; use at least 1")
        if queries.shape[1:] != self._nags.shape[1:]:
            raise ArgumentError(
                f"queries: got {list(queries.shape)}, targets are {list(self._nags.shape)}; use the same layers and K"
            )
        counts = np.full((len(queries), k), -1, np.int32)
        ids = np.full((len(queries), k), -1, np.int64)
        asked = _with_nag(queries)
        for numbers, near in self._tables.candidates(self._keys(queries, threads)[:, asked]):
            shared = _shared(queries, self._nags, asked[numbers], near, self._num_neurons, threads)
            order = np.lexsort((near, -shared, numbers))
            order = order[shared[order] >= self._least]
            rank = np.arange(len(order)) - np.searchsorted(numbers[order], numbers[order])
            order, rank = order[rank < k], rank[rank < k]
            counts[asked[numbers[order]], rank] = shared[order]
            ids[asked[numbers[order]], rank] = near[order]
        return counts, ids

    def save(self, folder: Path) -> list[str]:
        """Nothing to write: the tables come from the NAGs at the speed of reading and hashing them."""
        return []

    @classmethod
    def load(cls, folder: Path, nags: Array, num_neurons: int, parameters: dict[str, Any]) -> Self:
        """Restore from the NAGs and the parameters.

        Raises:
            NagfastError: a parameter is missing or out of range.
        """
        threshold = parameters.get("threshold")
        whole = {name: parameters.get(name) for name in ("num_perm", "seed", "bands", "rows")}
        if not isinstance(threshold, float) or not 0 < threshold <= 1:
            raise NagfastError(
                f"minhash index: threshold is {threshold!r}; expected above 0 and up to 1; build it again"
            )
        for name, value in whole.items():
            most = 2**32 - 1 if name == "seed" else MOST_VALUES
            if not isinstance(value, int) or not (0 if name == "seed" else 1) <= value <= most:
                raise NagfastError(f"minhash index: {name} is {value!r}; expected a whole number; build it again")
        if whole["bands"] * whole["rows"] > whole["num_perm"]:  # type: ignore[operator]
            raise NagfastError(
                f"minhash index: {whole['bands']} bands of {whole['rows']} rows do not fit num_perm = "
                f"{whole['num_perm']}; build it again"
            )
        return cls(nags, num_neurons, {"threshold": threshold, **whole})

    def to_lsh(self, docids: list[Any] | None = None, *, storage: dict[str, Any] | None = None) -> Any:
        """The targets as a datasketch MinHashLSH with the same bands; documents without a NAG are left out.

        Args:
            docids: names of the targets, one each; default their row numbers.
            storage: datasketch's storage_config, such as {"type": "redis", "basename": b"targets",
                "redis": {"host": .., "port": ..}}, which needs nagfast[redis]; default memory.

        Raises:
            MissingDependencyError: datasketch is not installed.
        """
        names = list(range(len(self._nags))) if docids is None else docids
        ids = _with_nag(self._nags)
        held = self.signatures(self._nags)[ids]
        return minhash_export.to_lsh(held, [names[i] for i in ids], self.parameters, storage)


def near_duplicates(
    nags: Array,
    num_neurons: int,
    threshold: float = 0.8,
    *,
    num_perm: int = 128,
    seed: int = 1,
    threads: int | None = None,
) -> Array:
    """Pairs of documents whose Jaccard similarity reaches the threshold, exact among those that agree in a band.

    Args:
        nags: uint16 or uint32 [n, L, K]. Documents without a NAG are in no pair.
        num_neurons: N.
        threshold: Jaccard similarity above 0 and up to 1.
        num_perm: values in a signature; more miss fewer pairs.
        seed: of the permutations.
        threads: CPU threads, default as many as torch uses.

    Returns:
        int64 [m, 2], the lower row first, in ascending order. m documents that are all alike make m (m - 1) / 2 pairs.
    """
    bands, rows = choose_bands(threshold, num_perm)
    ids = _with_nag(nags)
    signatures = minhash.signatures(nags, num_neurons, num_perm=num_perm, seed=seed, threads=threads)
    keys = band_keys(signatures, bands, rows)[:, ids]
    least = least_shared(threshold, nags.shape[1] * nags.shape[2])
    pairs = [np.empty((0, 2), np.int64)]
    for numbers, others in BandTables(keys, ids).candidates(keys):
        lower = ids[numbers]
        once = lower < others
        lower, higher = lower[once], others[once]
        alike = _shared(nags, nags, lower, higher, num_neurons, threads) >= least
        pairs.append(np.stack([lower[alike], higher[alike]], axis=1))
    return np.concatenate(pairs)
