"""Rows of a matrix in 8-bit floating point, alone or as they leave a norm."""

from __future__ import annotations

from importlib import import_module

import torch

from nagfast import reference
from nagfast.errors import ArgumentError
from nagfast.ops.dispatch import require_columns, resolve_for
from nagfast.ops.norms import check_norm, reference_norm, too_wide


def quantize_rows(x: torch.Tensor, *, backend: str = "auto") -> tuple[torch.Tensor, torch.Tensor]:
    """Each row as float8 (e4m3) times a scale of its own, its largest magnitude at the largest float8.

    Args:
        x: float32 or bfloat16 [T, H]; rows may be strided.
        backend: auto, reference or triton (GPU tensors).

    Returns:
        float8_e4m3fn [T, H], contiguous, and float32 [T, 1].
    """
    if x.ndim != 2 or x.dtype not in (torch.float32, torch.bfloat16):
        raise ArgumentError(f"x: got {x.dtype} {list(x.shape)}; give float32 or bfloat16 [T, H]")
    require_columns(x=x)
    if resolve_for(x.device, backend, cpp_lacks="float8", triton_lacks=too_wide(x.shape[1])) == "reference":
        return reference.quantize_rows(x)
    out, scale = _new_rows(x)
    import_module("nagfast.kernels.quantize").quantize_rows(x, out, scale)
    return out, scale


def add_rms_norm_quantized(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    *,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """quantize_rows(add_rms_norm(...)) in one pass, the same to the bit.

    Args:
        x: see add_rms_norm.
        residual: see add_rms_norm.
        weight: see add_rms_norm.
        eps: see add_rms_norm.
        backend: auto, reference or triton (GPU tensors).

    Returns:
        float8_e4m3fn [T, H] and float32 [T, 1].
    """
    check_norm(x, residual, weight, None)
    chosen = resolve_for(x.device, backend, cpp_lacks="float8", triton_lacks=too_wide(x.shape[1]))
    if chosen == "reference":
        return reference.quantize_rows(reference_norm(x, residual, weight, eps))
    out, scale = _new_rows(x)
    import_module("nagfast.kernels.rms_norm").add_rms_norm(x, residual, weight, eps, out, scale)
    return out, scale


def _new_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    out = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    return out, torch.empty((len(x), 1), dtype=torch.float32, device=x.device)
