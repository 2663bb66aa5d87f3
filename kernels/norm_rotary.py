"""RMS norm of each head and rotary embedding with rotated halves on the device, in place and in one pass.

    n = x / sqrt(mean(x^2) + eps) * w                           left out where there is no weight
    x[i]       <- n[i] cos[i] - n[i + d/2] sin[i]               i < d/2; left out where there is no cos
    x[i + d/2] <- n[i + d/2] cos[i + d/2] + n[i] sin[i + d/2]

One program takes a token and up to HEADS heads: one read and one write of [T, heads, d]; torch operations move about
twelve.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

HEADS = 32


def head_options(heads: int, dim: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Tiles of heads and of half a head, and launch options: a vector of 8 bfloat16 of each half a thread."""
    tiles = {
        "head_tile": min(HEADS, triton.next_power_of_2(heads)),
        "half_tile": triton.next_power_of_2(dim // 2),
    }
    values = tiles["head_tile"] * tiles["half_tile"]
    return tiles, {"num_warps": min(8, max(1, values // 256)), "enable_fp_fusion": True}


@triton.jit
def norm_rotary_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    token_stride: tl.tensor,
    heads: tl.tensor,
    half: tl.tensor,
    eps: tl.tensor,
    head_tile: tl.constexpr,
    half_tile: tl.constexpr,
) -> None:
    """Token program_id(0), heads program_id(1) * head_tile and on; half of a head's values in each of two tiles."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * head_tile + tl.arange(0, head_tile)
    lane = tl.arange(0, half_tile)
    inside = (head < heads)[:, None] & (lane < half)[None, :]
    place = x + token * token_stride + head[:, None] * (2 * half) + lane[None, :]
    low = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(place + half, mask=inside, other=0.0).to(tl.float32)
    if weight is not None:
        spread = tl.rsqrt(tl.sum(low * low + high * high, axis=1) / (2 * half) + eps)[:, None]
        low *= spread * tl.load(weight + lane, mask=lane < half, other=0.0).to(tl.float32)[None, :]
        high *= spread * tl.load(weight + half + lane, mask=lane < half, other=0.0).to(tl.float32)[None, :]
    if cos is not None:
        angle = token * (2 * half) + lane
        kept = lane < half
        turned = low * tl.load(cos + angle, mask=kept, other=0.0).to(tl.float32)[None, :]
        turned -= high * tl.load(sin + angle, mask=kept, other=0.0).to(tl.float32)[None, :]
        high *= tl.load(cos + angle + half, mask=kept, other=0.0).to(tl.float32)[None, :]
        high += low * tl.load(sin + angle + half, mask=kept, other=0.0).to(tl.float32)[None, :]
        low = turned
    tl.store(place, low.to(x.dtype.element_ty), mask=inside)
    tl.store(place + half, high.to(x.dtype.element_ty), mask=inside)


def norm_rotary(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
) -> None:
    """Norm, then rotary embedding, in place.

    Args:
        x: float32 or bfloat16 [T, heads, dim] on the device, heads and dim contiguous, dim even.
        weight: [dim], or None.
        eps: added to the mean square.
        cos: [T, dim], contiguous, or None.
        sin: as cos.
    """
    tokens, heads, dim = x.shape
    if not tokens:
        return
    tiles, options = head_options(heads, dim)
    norm_rotary_kernel[(tokens, triton.cdiv(heads, tiles["head_tile"]))](
        x,
        weight,
        cos,
        sin,
        x.stride(0),
        heads,
        dim // 2,
        eps,
        **tiles,
        **options,
    )
