"""Gradient of the cross-entropy by the logits on the device, in place.

    z[row][j] <- exp(z[row][j]) / sum_i exp(z[row][i]) - (j == label[row])

One program takes a row: one pass for the largest logit and the sum, one that writes. A row of 150,000 bfloat16 logits
is 300 KB, so the second read should come from L2: about 4 bytes a logit to and from memory, where softmax into float32,
subtracting and rounding take 16 (both estimates).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

BLOCK = 4096
OPTIONS: dict[str, Any] = {"num_warps": 8, "enable_fp_fusion": True}


@triton.jit
def softmax_gradient_kernel(
    logits: tl.tensor,
    labels: tl.tensor,
    row_stride: tl.tensor,
    vocabulary: tl.tensor,
    block: tl.constexpr,
) -> None:
    """Row program_id(0)."""
    row = logits + tl.program_id(0).to(tl.int64) * row_stride
    label = tl.load(labels + tl.program_id(0))
    lane = tl.arange(0, block)
    top = tl.full([block], -3.0e38, tl.float32)  # finite: the difference of two infinities is not a number
    total = tl.zeros([block], tl.float32)
    for start in range(0, vocabulary, block):
        x = tl.load(row + start + lane, mask=start + lane < vocabulary, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, x)
        total = total * tl.exp(top - higher) + tl.exp(x - higher)
        top = higher
    largest = tl.max(top, axis=0)
    share = 1.0 / tl.sum(total * tl.exp(top - largest), axis=0)
    for start in range(0, vocabulary, block):
        inside = start + lane < vocabulary
        x = tl.load(row + start + lane, mask=inside, other=float("-inf")).to(tl.float32)
        gradient = tl.exp(x - largest) * share - tl.where(start + lane == label, 1.0, 0.0)
        tl.store(row + start + lane, gradient.to(logits.dtype.element_ty), mask=inside)


def softmax_gradient(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Softmax minus one-hot in place; returns logits.

    Args:
        logits: float32 or bfloat16 [rows, V] on the device, columns contiguous; overwritten.
        labels: int64 [rows].
    """
    if len(logits):
        softmax_gradient_kernel[(len(logits),)](
            logits, labels, logits.stride(0), logits.shape[1], block=BLOCK, **OPTIONS
        )
    return logits
