"""Rows in eight bits on the device, each with its own scale.

    s = max |x| / 448 (1 / 448 for a row of zeros)        out = x / s in float8_e4m3fn

One program takes a row and holds it in registers: one read of [T, H], and half a write.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nagfast.kernels.rows import row_options

LARGEST = tl.constexpr(448.0)  # of float8_e4m3fn


@triton.jit
def quantized(value: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """One row of float32 in eight bits, and its scale."""
    largest = tl.max(tl.abs(value), axis=0)
    scale = tl.div_rn(tl.where(largest == 0.0, 1.0, largest), LARGEST)
    return tl.div_rn(value, scale).to(tl.float8e4nv), scale


@triton.jit
def quantize_rows_kernel(
    x: tl.tensor, out: tl.tensor, scale: tl.tensor, x_stride: tl.tensor, width: tl.tensor, tile: tl.constexpr
) -> None:
    """Row program_id(0); out is [rows, width], contiguous."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, tile)
    inside = column < width
    value, own = quantized(tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32))
    tl.store(out + row * width + column, value, mask=inside)
    tl.store(scale + row, own)


def quantize_rows(x: torch.Tensor, out: torch.Tensor, scale: torch.Tensor) -> None:
    """Rows of x in eight bits.

    Args:
        x: float32 or bfloat16 [T, H] on the device, columns contiguous, H at most MAX_WIDTH.
        out: float8_e4m3fn [T, H], contiguous.
        scale: float32 [T, 1].
    """
    tokens, width = x.shape
    if tokens:
        tile, options = row_options(width)
        quantize_rows_kernel[(tokens,)](x, out, scale, x.stride(0), width, tile=tile, **options)
