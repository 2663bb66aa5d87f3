"""Causal attention inside the documents of a packed batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nagfast import reference
from nagfast.errors import ArgumentError
from nagfast.ops import dispatch
from nagfast.ops.dispatch import isa, native_view, resolve_for, thread_count


def causal_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: npt.NDArray[Any],
    *,
    scale: float,
    window: int | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> torch.Tensor:
    """Attention of every token to the tokens before it in its document, and to itself ([T, heads, value_dim]).

    Args:
        query: float32 or bfloat16 [T, heads, dim]; may be a view of a merged product, as the others.
        key: [T, kv_heads, dim]; heads is a multiple of kv_heads.
        value: [T, kv_heads, value_dim].
        cu_seqlens: int64 [n + 1], the documents' boundaries, from 0 to T, on the host.
        scale: factor on the scores, above 0.
        window: tokens a query sees, itself included; None: all before it.
        backend: auto, reference or cpp (CPU tensors).
        threads: CPU threads, default as many as torch uses.
    """
    groups = key.shape[1] if key.ndim == 3 else 0
    if query.ndim != 3 or value.ndim != 3 or groups == 0 or query.shape[1] % groups or value.shape[1] != groups:
        raise ArgumentError(
            f"query, key, value: got {list(query.shape)}, {list(key.shape)}, {list(value.shape)}; give [T, heads, dim] "
            "with the same number of heads in key and value, a divisor of those of query"
        )
    cu_seqlens = np.ascontiguousarray(cu_seqlens, dtype=np.int64)
    if resolve_for(query.device, backend, triton_lacks="causal_attention") == "reference":
        found = reference.causal_attention(query.float(), key.float(), value.float(), cu_seqlens, scale, window)
        return found.to(query.dtype)
    out = query.new_empty((*query.shape[:2], value.shape[2]))
    arrays = [native_view(_by_token(x), name) for name, x in (("query", query), ("key", key), ("value", value))]
    options = {"window": window, "threads": thread_count(threads), "isa": isa()}
    dispatch.extension().causal_attention(*arrays, cu_seqlens, native_view(out, "out"), scale, **options)
    return out


def takes_attention(query: torch.Tensor) -> bool:
    """Whether causal_attention has vector code for these queries; it has no gradient."""
    extension = dispatch.native()
    return (
        extension is not None
        and query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.bfloat16)
        and not query.requires_grad
        and extension.resolve_isa(isa()) != "scalar"
    )


def _by_token(x: torch.Tensor) -> torch.Tensor:
    """[T, heads, dim] with the heads of a token side by side, copied where they are not."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()
