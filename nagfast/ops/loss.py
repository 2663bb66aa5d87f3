"""Gradient of the loss."""

from __future__ import annotations

from importlib import import_module

import torch

from nagfast import reference
from nagfast.errors import ArgumentError
from nagfast.ops.dispatch import resolve_for


def softmax_gradient(logits: torch.Tensor, labels: torch.Tensor, *, backend: str = "auto") -> torch.Tensor:
    """Gradient of the summed cross-entropy by the logits: softmax minus one-hot ([rows, V], dtype of the logits).

    Args:
        logits: float32 or bfloat16 [rows, V]; may be overwritten.
        labels: int64 [rows], on the same device.
        backend: auto, reference or triton (GPU tensors). Where it has no kernel to take, auto takes torch operations,
            in place for float32: matrix products cost so much more that C++ would not show.
    """
    if backend not in ("auto", "reference", "triton"):
        raise ArgumentError(f"backend: got {backend!r}; softmax_gradient has auto, reference and triton")
    if backend == "reference":
        return reference.softmax_gradient(logits.float(), labels).to(logits.dtype)
    if resolve_for(logits.device, backend) == "triton":
        kernel = import_module("nagfast.kernels.softmax_gradient")
        found: torch.Tensor = kernel.softmax_gradient(logits, labels)
        return found
    grad = logits.float()
    grad.sub_(grad.amax(dim=-1, keepdim=True)).exp_()
    grad.div_(grad.sum(dim=-1, keepdim=True))
    grad[torch.arange(len(labels), device=labels.device), labels] -= 1
    return grad.to(logits.dtype)
