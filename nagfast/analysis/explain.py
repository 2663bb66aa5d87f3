"""Why a document is near a target: which layers agree, and through which neurons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nagfast.errors import ArgumentError
from nagfast.schema import NagBatch
from nagfast.targets import TargetProfile


@dataclass(frozen=True)
class NeuronRow:
    """One neuron that the document and the target share."""

    layer: int
    neuron: int
    rank: int
    """Place in the document's NAG, 0 for the highest impact."""
    weight: float
    """w_l[k]: what it adds to its layer's similarity."""
    share: float
    """Share of the target documents that hold it, 0 to 1."""


@dataclass(frozen=True)
class Explanation:
    """A document's similarity taken apart."""

    similarity: float
    """As TargetProfile.similarity gives it: the mean over the layers."""
    layers: npt.NDArray[np.float64]
    """Similarity of each layer (float64 [L])."""
    neurons: tuple[NeuronRow, ...]
    """Neurons of the largest weight, largest first, ties to the lower layer and rank."""


def explain(nags: NagBatch, profile: TargetProfile, *, rows: int = 15) -> Explanation:
    """Take the similarity of one document apart.

    Args:
        nags: its NAG, a batch of one.
        profile: the target.
        rows: neurons to list at most.

    Raises:
        ArgumentError: not one document, or it has no NAG.
        SpecMismatchError: the NAG may not be compared with the profile.
    """
    if len(nags) != 1:
        raise ArgumentError(f"nags: got {len(nags)} documents; give one")
    if rows < 0:
        raise ArgumentError(f"rows: got {rows}; use 0 or more")
    nags = profile.align(nags, "the document")
    if bool(nags.empty[0]):
        raise ArgumentError("nags: the document has no NAG (it has no tokens); there is nothing to explain")
    weights = _weights(nags, profile)[0]
    # A stable sort of the flattened [L, K] breaks ties by layer, then rank.
    order = np.argsort(-weights, axis=None, kind="stable")[:rows]
    found = []
    for place in order.tolist():
        layer, rank = divmod(place, profile.spec.top_k)
        neuron = int(nags.indices[0, layer, rank])
        if weights[layer, rank] > 0:
            share = float(profile.counts[layer, neuron] / profile.num_targets)
            found.append(NeuronRow(layer, neuron, rank, float(weights[layer, rank]), share))
    similarity = float(profile.similarity(nags)[0])
    return Explanation(similarity, weights.sum(axis=1), tuple(found))


def layer_agreement(nags: NagBatch, profile: TargetProfile) -> npt.NDArray[np.float64]:
    """Mean similarity of some documents by layer (float64 [L]); documents without a NAG count 0, no documents give 0.

    Raises:
        SpecMismatchError: NAGs that may not be compared with the profile.
    """
    nags = profile.align(nags)
    total = np.zeros(profile.spec.num_layers)
    for start in range(0, len(nags), 1024):  # [1024, L, K] weights at a time
        part = NagBatch(nags.indices[start : start + 1024], nags.tokens[start : start + 1024], nags.spec)
        total += _weights(part, profile).sum(axis=(0, 2))
    return total / max(len(nags), 1)


def _weights(nags: NagBatch, profile: TargetProfile) -> npt.NDArray[np.float64]:
    """w_l[k] of each neuron of each NAG (float64 [n, L, K]); 0 in documents without one."""
    indices = np.where(nags.empty[:, None, None], 0, nags.indices).astype(np.int64)
    if indices.size and indices.max() >= profile.spec.num_neurons:
        raise ArgumentError(f"nags: neuron {indices.max()} of {profile.spec.num_neurons} in a layer; extract again")
    layer = np.arange(profile.spec.num_layers)[None, :, None]
    return np.where(nags.empty[:, None, None], 0.0, profile.weights[layer, indices])
