"""NAGs of clustered structure made by a script: what search is measured on where no real NAGs are at hand.

Every layer has a global frequency of neurons (Zipf). A cluster's prototype is drawn from it; a document keeps each
neuron of its prototype with probability 1 - noise and else draws again from the global frequency.

    noise 0.3   easy: documents of one cluster share about half of their neurons
    noise 0.7   hard: they share an eighth, strangers a 25th
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
EASY, HARD = 0.3, 0.7
STEPS = 1 << 16  # resolution of a draw
BLOCK = 16_384  # documents made together: their scratch space stays in the cache


def frequency_table(ranks: int, skew: float = 1.0) -> Array:
    """Inverse distribution of Zipf's law: a uniform 16-bit number -> rank below `ranks` (uint16 [STEPS])."""
    cumulative = np.cumsum(np.arange(1, ranks + 1, dtype=np.float64) ** -skew)
    table: Array = np.searchsorted(cumulative / cumulative[-1], (np.arange(STEPS) + 0.5) / STEPS).astype(np.uint16)
    return table


class _Model:
    """What documents of all seeds share: where frequent neurons lie, and the clusters' prototypes.

    Slot i of a NAG draws from the neurons of global rank i, i + K, i + 2K, ...: distinct without a check, and no neuron
    is so frequent that it would have to be held twice.
    """

    def __init__(self, layers: int, top_k: int, neurons: int, clusters: int) -> None:
        self.width = neurons // top_k
        self.table = frequency_table(self.width)
        rng = np.random.default_rng([layers, top_k, neurons, clusters])
        shuffled = [rng.permutation(neurons)[: self.width * top_k].astype(np.uint16) for _ in range(layers)]
        # neuron[l][i * width + t]: the t-th most frequent neuron of slot i.
        self.neuron = [np.ascontiguousarray(s.reshape(self.width, top_k).T).reshape(-1) for s in shuffled]
        self.slots = (np.arange(top_k) * self.width).astype(np.uint16)
        self.prototypes = np.stack([self.draw(rng, layer, clusters) for layer in range(layers)])
        self.orders = np.argsort(rng.random((1024, top_k)), axis=1).astype(np.int32)

    def draw(self, rng: np.random.Generator, layer: int, documents: int) -> Array:
        """Rows of one layer from the global frequency (uint16 [documents, K])."""
        uniform = rng.integers(0, STEPS, (documents, len(self.slots)), dtype=np.uint16)
        rows: Array = self.neuron[layer].take(self.table.take(uniform) + self.slots)
        return rows


def clustered_nags(
    documents: int, layers: int, top_k: int, neurons: int, *, clusters: int, noise: float, seed: int
) -> Array:
    """NAGs of documents that fall into clusters of equal expected size (uint16 [n, L, K], distinct within a layer).

    The order within a layer is random. Prototypes depend on the shape and on `clusters` only, so that queries and
    targets of two seeds belong to the same clusters.

    Args:
        documents: n.
        layers: L.
        top_k: K.
        neurons: N, K to 65,535.
        clusters: prototypes.
        noise: probability that a neuron is not the prototype's, 0 to 1.
        seed: of the documents.
    """
    if not 1 <= top_k <= neurons <= STEPS - 1:
        raise ValueError(f"neurons: got {neurons}; use K = {top_k} to {STEPS - 1}")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise: got {noise}; use 0 to 1")
    model = _Model(layers, top_k, neurons, clusters)
    nags = np.empty((documents, layers, top_k), np.uint16)
    for first in range(0, documents, BLOCK):
        block = nags[first : first + BLOCK]
        _fill(block, model, np.random.default_rng([seed, first]), clusters, noise)
    return nags


def _fill(block: Array, model: _Model, rng: np.random.Generator, clusters: int, noise: float) -> None:
    n, layers, top_k = block.shape
    cluster = rng.integers(0, clusters, n)
    # Which entry goes where: one of 1,024 orders a document, as positions in the flattened block.
    order = model.orders[rng.integers(0, len(model.orders), n)] + np.arange(n, dtype=np.int32)[:, None] * top_k
    threshold = round(noise * STEPS)
    for layer in range(layers):
        fresh = model.draw(rng, layer, n)
        redrawn = rng.integers(0, STEPS, (n, top_k), dtype=np.uint16) < threshold
        kept = model.prototypes[layer].take(cluster, axis=0)
        block[:, layer] = np.where(redrawn, fresh, kept).take(order)
