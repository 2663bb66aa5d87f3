"""Switch off the neurons that a target uses most, and see what the model loses (arXiv 2604.15706, section 4.1).

Keys: per layer the neurons that are in most target NAGs, most frequent first, ties to the lower index; neurons in no
target NAG are never keys. As a file: {"0": [neuron, ...], "1": ...}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from nagfast import reference
from nagfast.errors import ArgumentError
from nagfast.files import atomic_write_text
from nagfast.targets import TargetProfile

MAX_FILE = 1 << 28  # bytes


def deactivation_keys(profile: TargetProfile, top_k: int | None = None) -> dict[int, list[int]]:
    """Layer -> neurons to switch off.

    Args:
        profile: the target.
        top_k: neurons per layer; default the profile's K.

    Raises:
        ArgumentError: top_k outside 1..N.
    """
    top_k = profile.spec.top_k if top_k is None else top_k
    if not 1 <= top_k <= profile.spec.num_neurons:
        raise ArgumentError(f"top_k: got {top_k}; use 1 to {profile.spec.num_neurons}, the neurons of a layer")
    return dict(enumerate(reference.deactivation_keys(profile.counts, top_k)))


def write_keys(profile: TargetProfile, out: Path | str, top_k: int | None = None) -> dict[int, list[int]]:
    """Write the keys as JSON, whole or not at all, and return them (see deactivation_keys)."""
    keys = deactivation_keys(profile, top_k)
    atomic_write_text(Path(out), json.dumps({str(layer): neurons for layer, neurons in keys.items()}, indent=2) + "\n")
    return keys


def load_keys(path: Path | str) -> dict[int, list[int]]:
    """Read what write_keys wrote.

    Raises:
        ArgumentError: no such file, or something else in it.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size > MAX_FILE:
        raise ArgumentError(f"{path}: no such file; make it with nagfast deactivate")
    try:
        value = json.loads(path.read_bytes())
        keys = {int(layer): [_index(n) for n in neurons] for layer, neurons in value.items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ArgumentError(f'{path}: not deactivation keys ({error}); want {{"layer": [neuron, ...]}}') from error
    if any(layer < 0 for layer in keys):
        raise ArgumentError(f"{path}: a negative layer; want 0, 1, ...")
    return keys


def _index(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"neuron {value!r}")
    return value


@torch.no_grad()
def apply(projections: Sequence[nn.Module], keys: Mapping[int, Sequence[int]]) -> int:
    """Zero the weights (and biases) of the keyed neurons, in place.

    Args:
        projections: per layer the projection whose outputs are the neurons (the up projection for fwd_up): a module
            with a weight [neurons, inputs]. Where gate and up are one module, give a module over the rows of up.
        keys: layer -> neurons.

    Returns:
        Neurons switched off.

    Raises:
        ArgumentError: a layer or a neuron that is not there; nothing is changed then.
    """
    weights: dict[int, nn.Parameter] = {}
    for layer, neurons in keys.items():
        if not 0 <= layer < len(projections):
            raise ArgumentError(f"keys: layer {layer}; the model has layers 0 to {len(projections) - 1}")
        weight = getattr(projections[layer], "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim != 2:
            raise ArgumentError(f"projections: layer {layer} has no weight [neurons, inputs]; give the up projections")
        beyond = [n for n in neurons if not 0 <= n < weight.shape[0]]
        if beyond:
            raise ArgumentError(f"keys: neuron {beyond[0]} of layer {layer}; it has neurons 0 to {weight.shape[0] - 1}")
        weights[layer] = weight
    for layer, weight in weights.items():
        rows = torch.tensor(sorted(set(keys[layer])), dtype=torch.long, device=weight.device)
        weight.index_fill_(0, rows, 0.0)
        bias = getattr(projections[layer], "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.index_fill_(0, rows, 0.0)
    return sum(len(set(neurons)) for neurons in keys.values())
