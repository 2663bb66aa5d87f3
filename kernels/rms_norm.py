"""Residual sum and RMS norm on the device in one pass, and the same with the result in eight bits.

    r <- r + x                         rounded to the dtype, in place
    out = r / sqrt(mean(r^2) + eps) * w
    eight bits: out / s in float8_e4m3fn, s = max |out| / 448 of each row (out rounded to the dtype first)

One program takes a row and holds it in registers. Moves two reads and two writes of [T, H] (eight bits: one and a half
writes); torch operations that compute in float32 move about nine times [T, H].
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nagfast.kernels.quantize import quantized
from nagfast.kernels.rows import row_options


@triton.jit
def add_rms_norm_kernel(
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    scale: tl.tensor,
    x_stride: tl.tensor,
    residual_stride: tl.tensor,
    out_stride: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    tile: tl.constexpr,
) -> None:
    """Row program_id(0). residual: None where nothing is added. scale: None, or [rows] and out in eight bits."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, tile)
    inside = column < width
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        place = residual + row * residual_stride + column
        value += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(x.dtype.element_ty)
        tl.store(place, rounded, mask=inside)
        value = rounded.to(tl.float32)
    spread = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    normed = value * spread * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    normed = normed.to(x.dtype.element_ty)
    if scale is not None:
        normed, own = quantized(normed.to(tl.float32))
        tl.store(scale + row, own)
    tl.store(out + row * out_stride + column, normed, mask=inside)


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    scale: torch.Tensor | None = None,
) -> None:
    """Residual sum in place, norm into out.

    Args:
        x: float32 or bfloat16 [T, H] on the device, columns contiguous, H at most MAX_WIDTH.
        residual: [T, H] of the same dtype, columns contiguous; None: the norm is of x.
        weight: [H].
        eps: added to the mean square.
        out: [T, H], columns contiguous; may be x.
        scale: float32 [T, 1] where out is float8_e4m3fn.
    """
    tokens, width = x.shape
    if not tokens:
        return
    tile, options = row_options(width)
    add_rms_norm_kernel[(tokens,)](
        x,
        residual,
        weight,
        out,
        scale,
        x.stride(0),
        0 if residual is None else residual.stride(0),
        out.stride(0),
        width,
        eps,
        tile=tile,
        **options,
    )
