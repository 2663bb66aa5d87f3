"""torch's variable-length attention, whose signature differs between versions.

torch 2.11 knows no enable_gqa: its kernel takes grouped heads, but whether the wrapper around it does is tried once,
and keys and values are repeated where it does not. From 2.12 on enable_gqa says so, and num_splits=1 keeps a
document's result the same whatever it is packed with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch

from nagfast.placing import Documents

Function = Callable[..., torch.Tensor]
MAX_HEAD_DIM = 256
PROBE_TOLERANCE = 0.02  # values of order 1 in bfloat16


@cache
def torch_function() -> Function | None:
    """torch.nn.attention.varlen.varlen_attn, or None where this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return cast(Function, varlen_attn)


def fits(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether the kernel takes these tensors ([T, heads, dim] each)."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] == value.shape[-1]
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= MAX_HEAD_DIM
        and torch_function() is not None
    )


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: Documents,
    scale: float,
    window: int | None,
    function: Function | None = None,
) -> torch.Tensor:
    """Causal attention inside each document ([T, heads, dim]).

    Args:
        query: [T, heads, dim]; the last dimension contiguous, as in the others.
        key: [T, kv_heads, dim].
        value: [T, kv_heads, dim].
        documents: their boundaries.
        scale: factor on the scores.
        window: tokens a query sees, itself included; None: all before it.
        function: varlen_attn; default torch's own.
    """
    function = function or torch_function()
    assert function is not None
    options: dict[str, Any] = {"scale": scale, "window_size": (-1 if window is None else window - 1, 0)}
    accepted = _parameters(function)
    if "num_splits" in accepted:
        options["num_splits"] = 1
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in accepted:
            options["enable_gqa"] = True
        elif not _takes_groups(function, query.device):
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    ends, longest = documents.boundaries, documents.longest
    return function(query, key, value, ends, ends, longest, longest, **options)


@cache
def _parameters(function: Function) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


@cache
def _takes_groups(function: Function, device: torch.device) -> bool:
    """Whether two query heads over one key head give what they give over two equal ones."""
    x = torch.linspace(-1, 1, 4 * 2 * 64, device=device).view(4, 2, 64).to(torch.bfloat16)
    ends = torch.tensor([0, 4], dtype=torch.int32, device=device)
    one = x[:, :1].contiguous()
    two = one.repeat_interleave(2, dim=1)
    try:
        with torch.no_grad():
            found = function(x, one, one, ends, ends, 4, 4, window_size=(-1, 0))
            expected = function(x, two, two, ends, ends, 4, 4, window_size=(-1, 0))
    except (RuntimeError, ValueError):
        return False
    return found.shape == expected.shape and bool(((found - expected).abs() <= PROBE_TOLERANCE).all())
