"""Attention over packed documents: causal inside each, over flat [T, heads, dim] tensors.

On a GPU in half precision torch's variable-length attention takes the whole batch, on a CPU with vector instructions
C++ does (except where gradients are wanted). Elsewhere documents of equal length
lie side by side (packing sorts them), so each run of them is one ordinary causal attention call over
[documents, heads, length, dim] views: no padding, no mask, no copy of queries. Soft caps, attention sinks and, outside
the variable-length kernel, sliding windows go through plain scores.

Registered with transformers under the name "nagfast_packed". The boundaries travel as the keyword `documents` of
the model call; an architecture that does not pass it on is found out by the load-time check.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from nagfast import ops, varlen
from nagfast.placing import Documents

NAME = "nagfast_packed"


@dataclass(frozen=True, eq=False)
class Scoring:
    """How scores become weights."""

    scale: float
    """Factor on the scores."""
    window: int | None = None
    """Tokens a query sees, itself included; None: all before it."""
    softcap: float | None = None
    """Scores become softcap * tanh(scores / softcap)."""
    sinks: torch.Tensor | None = None
    """One more score per head ([heads]) that takes weight and gives nothing."""


@dataclass
class CallLog:
    """What the registered function was called with."""

    calls: int = 0
    scoring: dict[nn.Module, Scoring] = field(default_factory=dict)
    """By attention layer."""


_LOGS: list[CallLog] = []


@contextmanager
def watched() -> Iterator[CallLog]:
    """Notes the calls of the registered function inside."""
    log = CallLog()
    _LOGS.append(log)
    try:
        yield log
    finally:
        _LOGS.remove(log)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents, scoring: Scoring
) -> torch.Tensor:
    """Causal attention inside each document.

    Args:
        query: [T, heads, dim]; may be a view of a merged product, the last dimension contiguous.
        key: [T, kv_heads, dim].
        value: [T, kv_heads, value_dim].
        documents: their boundaries.
        scoring: scale, window, soft cap, sinks.

    Returns:
        [T, heads, value_dim].
    """
    plain = scoring.softcap is None and scoring.sinks is None
    if plain and varlen.fits(query, value):
        return varlen.attend(query, key, value, documents, scoring.scale, scoring.window)
    if plain and ops.takes_attention(query):
        options: dict[str, Any] = {"scale": scoring.scale, "window": scoring.window}
        return ops.causal_attention(query, key, value, documents.cu_seqlens, **options)
    parts = []
    for begin, count, length in documents.runs:
        end = begin + count * length
        q, k, v = (x[begin:end].unflatten(0, (count, length)).transpose(1, 2) for x in (query, key, value))
        grouped = q.shape[1] != k.shape[1]
        if plain and (scoring.window is None or scoring.window >= length):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scoring.scale, enable_gqa=grouped)
        else:
            if grouped:
                k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
            out = _by_scores(q, k, v, scoring)
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_scores(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scoring: Scoring) -> torch.Tensor:
    """Causal attention with scores in float32 ([n, heads, length, dim])."""
    scores = torch.matmul(q, k.transpose(-1, -2)).float() * scoring.scale
    if scoring.softcap is not None:
        scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
    position = torch.arange(q.shape[2], device=q.device)
    ahead = position[None, :] - position[:, None]
    hidden = ahead > 0
    if scoring.window is not None:
        hidden = hidden | (ahead <= -scoring.window)
    scores = scores.masked_fill(hidden, float("-inf"))
    if scoring.sinks is not None:
        column = scoring.sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1]
    else:
        weights = torch.softmax(scores, dim=-1)
    return torch.matmul(weights.to(v.dtype), v)


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
    s_aux: torch.Tensor | None = None,
    documents: Documents | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in place of its own attention.

    Args:
        module: the attention layer.
        query: [1, heads, T, head_dim], after rotary embedding.
        key: [1, kv_heads, T, head_dim].
        value: [1, kv_heads, T, value_dim].
        attention_mask: None; no mask is ever built for this attention.
        scaling: factor on the scores, default head_dim ** -0.5.
        dropout: 0 in a frozen model.
        sliding_window: tokens a query sees, itself included.
        softcap: scores become softcap * tanh(scores / softcap).
        s_aux: attention sinks, one score per head.
        documents: where the documents lie.
        kwargs: a position bias is refused, the rest is not needed.

    Returns:
        [1, T, heads, value_dim] and None (no attention weights).

    Raises:
        ValueError: the architecture does not pass the boundaries on, or needs a bias or a mask.
    """
    scoring = Scoring(scaling if scaling is not None else query.shape[-1] ** -0.5, sliding_window, softcap, s_aux)
    for log in _LOGS:
        log.calls += 1
        log.scoring[module] = scoring
    if documents is None:
        raise ValueError("the architecture does not pass the packed batch on to its attention")
    if kwargs.get("position_bias") is not None or attention_mask is not None:
        raise ValueError("attention biases and masks are not supported in packed batches")
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(query, key, value, documents, scoring)[None], None


AttentionInterface.register(NAME, packed_attention)
