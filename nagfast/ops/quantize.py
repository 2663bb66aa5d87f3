"""Rows of a matrix in 8-bit floating point."""

from __future__ import annotations

import torch

from nagfast import reference
from nagfast.errors import ArgumentError
from nagfast.ops.dispatch import resolve_for


def quantize_rows(x: torch.Tensor, *, backend: str = "auto") -> tuple[torch.Tensor, torch.Tensor]:
    """Each row as float8 (e4m3) times a scale of its own, its largest magnitude at the largest float8.

    Args:
        x: float32 or bfloat16 [T, H]; rows may be strided.
        backend: auto or reference.

    Returns:
        float8_e4m3fn [T, H], contiguous, and float32 [T, 1].
    """
    if x.ndim != 2 or x.dtype not in (torch.float32, torch.bfloat16):
        raise ArgumentError(f"x: got {x.dtype} {list(x.shape)}; give float32 or bfloat16 [T, H]")
    resolve_for(x.device, backend, cpp_lacks="quantize_rows", triton_lacks="quantize_rows")
    return reference.quantize_rows(x)
