"""Matrix products with frozen weights."""

from __future__ import annotations

import torch

from nagfast import env
from nagfast.errors import ArgumentError


def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """X @ weight.T + bias ([T, rows]).

    torch takes MKL for float32, which runs AVX2 code on processors with AVX-512 that are not Intel's; oneDNN, which is
    in the same torch, runs 2.2 times as fast there (benchmarks/LOG.md). bfloat16 is oneDNN's anyway.

    Args:
        x: [T, H].
        weight: [rows, H], any strides.
        bias: [rows].
        out: memory that the result may be put in, [T, rows]; use what is returned.
        backend: auto, torch or onednn (float32 on the CPU, no gradient).
    """
    if backend not in ("auto", "torch", "onednn"):
        raise ArgumentError(f"backend: got {backend!r}; product has auto, torch and onednn")
    recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    fits = plain and not recorded and _has_onednn()
    if backend == "onednn" and not fits:
        raise ArgumentError(
            f"backend: onednn takes float32 on the CPU without a gradient, this is {x.dtype} on {x.device}; use auto"
        )
    if fits and len(x) and (backend == "onednn" or (backend == "auto" and env.mkl_leaves_avx512_idle())):
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return found
    if bias is None:
        return torch.mm(x, weight.t(), out=out)
    return torch.addmm(bias, x, weight.t(), out=out)


def _has_onednn() -> bool:
    """Whether this torch offers oneDNN's product (PyTorch's compiler relies on it too)."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
