"""Projections of one input as one matrix: the modules' own parameters become views of it, so nothing is doubled."""

from __future__ import annotations

import torch
from torch import nn


def merge(*linears: nn.Linear) -> torch.Tensor:
    """Weights of some projections as one matrix [sum of rows, hidden]; a second call finds the first one's.

    Args:
        linears: projections of the same input; only ever merged in this company.
    """
    if len(linears) == 1:
        return linears[0].weight.detach()
    first = linears[0]
    merged: torch.Tensor | None = getattr(first, "merged_weight", None)
    if merged is not None and merged.device == first.weight.device and merged.dtype == first.weight.dtype:
        return merged
    merged = torch.cat([x.weight.detach() for x in linears])
    object.__setattr__(first, "merged_weight", merged)  # not a parameter or buffer of its own
    for x, part in zip(linears, merged.split([x.out_features for x in linears]), strict=True):
        x.weight = nn.Parameter(part, requires_grad=False)
    return merged


def merge_bias(*linears: nn.Linear) -> torch.Tensor | None:
    """Their biases end to end, 0 where one has none; None where none has one."""
    if all(x.bias is None for x in linears):
        return None
    return torch.cat([x.weight.new_zeros(x.out_features) if x.bias is None else x.bias.detach() for x in linears])
