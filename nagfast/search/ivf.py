"""Inverted file over NAGs: a query is compared with the lists' prototypes, then with the targets of the nearest lists.

Prototypes are NAGs (search/clusters.py), so bit rows serve both steps. How many lists to probe is settled at build
time: the fewest that reach the recall asked for on sample queries, measured against exact search; the recall that is
stated is measured on other sample queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from nagfast.arrays import read_array
from nagfast.errors import NagfastError
from nagfast.search.base import Array, BuildOptions, Found
from nagfast.search.bits import MOST_NEIGHBOURS, BitRows
from nagfast.search.clusters import Clusters, cluster
from nagfast.search.recall import Sample, mean_and_error, queries_were, reaches, samples

QUERIES = 1000
"""Sample queries to settle the probes, and as many again to state the recall."""


def lists_for(targets: int) -> int:
    """How many lists: of about 128 targets each, and no more than makes the coarse step as dear as the fine one.

    A probe costs the same for 50 targets as for 250; longer lists need as many probes on data that hardly clusters.
    """
    return max(1, min(targets // 128, round(3.2 * math.sqrt(targets))))


class IvfIndex:
    """Lists of targets and their prototypes."""

    method: ClassVar[str] = "ivf"

    def __init__(self, nags: Array, num_neurons: int, clusters: Clusters, parameters: dict[str, Any]) -> None:
        """Take finished clusters; `parameters` needs "probes", the lists to look into."""
        self.clusters = clusters
        self.parameters = parameters
        self._fine = BitRows(nags, num_neurons, order=clusters.order, starts=clusters.starts)
        self._coarse = BitRows(clusters.prototypes, num_neurons)

    @classmethod
    def build(cls, nags: Array, num_neurons: int, options: BuildOptions, sample: Array | None = None) -> Self:
        """Cluster the targets and settle the probes.

        Args:
            nags: uint16 or uint32 [n, L, K].
            num_neurons: N.
            options: recall, k, seed and threads are used.
            sample: queries like those to come (uint16 or uint32 [q, L, K]); default some of the targets, each without
                finding itself.
        """
        clusters = cluster(nags, num_neurons, lists_for(len(nags)), seed=options.seed, threads=options.threads)
        index = cls(nags, num_neurons, clusters, {"lists": len(clusters.prototypes), "probes": 1})
        index._tune(nags, options, sample)
        return index

    @property
    def rows(self) -> int:
        """Queries that a call should bring."""
        return self._fine.rows

    @property
    def bytes(self) -> int:
        """Memory taken beside the NAGs."""
        lists = self.clusters
        return self._fine.bytes + self._coarse.bytes + sum(a.nbytes for a in (lists.order, lists.prototypes))

    def search(self, queries: Array, k: int, *, threads: int | None = None) -> Found:
        """The k nearest targets of the nearest lists (see Index.search)."""
        return self.search_probing(queries, k, self.parameters["probes"], threads=threads)

    def search_probing(self, queries: Array, k: int, probes: int, *, threads: int | None = None) -> Found:
        """As search, looking into as many lists as `probes` says."""
        _, lists = self._coarse.search(queries, probes, threads=threads)
        return self._fine.search_lists(queries, lists.astype(np.int32), k, threads=threads)

    def _tune(self, nags: Array, options: BuildOptions, sample: Array | None) -> None:
        k = min(options.k, len(nags))
        tuning, stating = samples(self._fine, sample, k, 2 * QUERIES, options)

        def recall(part: Sample, probes: int) -> tuple[float, float]:
            """Mean over the queries, and its standard error."""
            found = self.search_probing(part.queries, k + 1, probes, threads=options.threads)
            return mean_and_error(part.recalls(found))

        def enough(probes: int) -> bool:
            return reaches(*recall(tuning, probes), options.recall)

        probes = _fewest(enough, min(len(self.clusters.prototypes), MOST_NEIGHBOURS))
        stated = recall(stating, probes)
        self.parameters |= {
            "probes": probes,
            "recall": stated[0],
            "recall_error": stated[1],
            "recall_at": k,
            "recall_queries": queries_were(sample),
        }

    def save(self, folder: Path) -> list[str]:
        """Write the lists (see Index.save)."""
        arrays = {
            "ivf_order.npy": self.clusters.order,
            "ivf_starts.npy": self.clusters.starts,
            "ivf_prototypes.npy": self.clusters.prototypes,
        }
        for name, array in arrays.items():
            np.save(folder / name, array, allow_pickle=False)
        return list(arrays)

    @classmethod
    def load(cls, folder: Path, nags: Array, num_neurons: int, parameters: dict[str, Any]) -> Self:
        """Restore (see Index.load)."""
        try:
            order, starts, prototypes = (
                read_array(folder / f"ivf_{name}.npy") for name in ("order", "starts", "prototypes")
            )
        except (OSError, ValueError) as error:
            raise NagfastError(f"{folder}: the lists cannot be read ({error}); build the index again") from error
        _check(folder, nags, order, starts, prototypes, parameters)
        return cls(nags, num_neurons, Clusters(prototypes, order, starts), parameters)


def _check(
    folder: Path, nags: Array, order: Array, starts: Array, prototypes: Array, parameters: dict[str, Any]
) -> None:
    lists = starts.size - 1
    probes = parameters.get("probes")
    right = (
        order.dtype == starts.dtype == np.int64
        and order.shape == (len(nags),)
        and starts.ndim == 1
        and lists >= 1
        and starts[0] == 0
        and starts[-1] == len(nags)
        and bool((np.diff(starts) >= 0).all())
        and bool((np.bincount(order.clip(0, len(nags) - 1), minlength=len(nags)) == 1).all())
        and bool((order >= 0).all() and (order < len(nags)).all())
        and prototypes.dtype == nags.dtype
        and prototypes.shape == (lists, *nags.shape[1:])
        and isinstance(probes, int)
        and 1 <= probes <= min(lists, MOST_NEIGHBOURS)
    )
    if not right:
        raise NagfastError(f"{folder}: the lists do not fit the {len(nags)} targets; build the index again")


def _fewest(enough: Callable[[int], bool], most: int) -> int:
    """The smallest number in 1..most that is enough, found by doubling and halving; `most` where none is."""
    high = 1
    while high < most and not enough(high):
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
