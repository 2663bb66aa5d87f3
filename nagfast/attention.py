"""Attention over packed documents, registered with transformers under the name "nagfast_packed".

The batch comes as one row [1, T] of documents laid end to end. Documents of equal length lie side by side (packing
sorts them), so each run of them is one ordinary causal attention call over [documents, heads, length, head_dim]
views: no padding, no mask, no copy of queries. The runs travel as the keyword `document_runs` of the model call; an
architecture that does not pass it on is found out by the load-time check of the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

NAME = "nagfast_packed"


@dataclass
class CallCounter:
    """How often the registered function ran; the load-time check compares it with the number of layers."""

    calls: int = 0


COUNTER = CallCounter()


def _scores_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None, softcap: float | None
) -> torch.Tensor:
    """Causal attention with a sliding window or a soft cap, scores in float32 ([n, heads, length, head_dim])."""
    scores = torch.matmul(q, k.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    position = torch.arange(q.shape[2], device=q.device)
    ahead = position[None, :] - position[:, None]
    hidden = ahead > 0
    if window is not None:
        hidden = hidden | (ahead <= -window)
    scores = scores.masked_fill(hidden, float("-inf"))
    return torch.matmul(torch.softmax(scores, dim=-1).to(v.dtype), v)


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    document_runs: list[tuple[int, int, int]] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each document of a packed row.

    Args:
        module: the attention layer (not used).
        query: [1, heads, T, head_dim], after rotary embedding.
        key: [1, kv_heads, T, head_dim].
        value: [1, kv_heads, T, value_dim].
        attention_mask: None; no mask is ever built for this attention.
        scaling: factor on the scores, default head_dim ** -0.5.
        dropout: 0 in a frozen model.
        sliding_window: tokens a query sees, itself included.
        softcap: scores become softcap * tanh(scores / softcap).
        document_runs: (first token, documents, length) of each run.
        kwargs: sinks (s_aux) and biases are refused, the rest is not needed.

    Returns:
        [1, T, heads, value_dim] and None (no attention weights).

    Raises:
        ValueError: the architecture does not pass the runs on, or needs sinks, a bias or a mask.
    """
    COUNTER.calls += 1
    if document_runs is None:
        raise ValueError("the architecture does not pass the packed batch on to its attention")
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None or attention_mask is not None:
        raise ValueError("attention sinks, biases and masks are not supported in packed batches")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    heads, kv_heads = query.shape[1], key.shape[1]
    parts = []
    for begin, documents, length in document_runs:
        end = begin + documents * length
        q, k, v = (x[0, :, begin:end].unflatten(1, (documents, length)).transpose(0, 1) for x in (query, key, value))
        window = sliding_window if sliding_window is not None and sliding_window < length else None
        if window is None and softcap is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=heads != kv_heads)
        else:
            if heads != kv_heads:
                k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
            out = _scores_attention(q, k, v, scale, window, softcap)
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0), None


AttentionInterface.register(NAME, packed_attention)
