"""Sums over documents that do not depend on what a document is packed with.

    impact[doc][k] = (1 / T) sum_t |x[t][k]|, or the root of the sum of squares

Documents are cut into chunks of 128 tokens counted from their own first token. A program takes a chunk and a block of
neurons and writes one float32 sum per neuron (swiglu_impact, swiglu_backward); whoever reads the sums adds the chunks
of a document in order: the kernel here, or top-k on the fly. Nothing is added atomically and no sum crosses a
document, so the result is the same to the bit for any packing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

CHUNK_TOKENS = 128
TOKENS = 16  # a tile is [16 tokens, 128 neurons]
NEURONS = 128
OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}


@dataclass(frozen=True)
class Chunks:
    """A packed batch cut into chunks, on the device (int64 tensors).

    Parts of one tensor: kernels must not be specialised on whether they begin at a multiple of 16 bytes.
    """

    starts: torch.Tensor
    """First token of each chunk."""
    ends: torch.Tensor
    """One past its last token."""
    of_document: torch.Tensor
    """First chunk of each document, [n + 1]."""
    lengths: torch.Tensor
    """Tokens of each document, [n]."""


@lru_cache(maxsize=4)
def cut(cu_seqlens: bytes, device: torch.device) -> Chunks:
    """Chunks of a batch (the bytes of int64 boundaries); kept, since every layer asks for the same."""
    ends = np.frombuffer(cu_seqlens, np.int64)
    lengths = np.diff(ends)
    counts = -(-lengths // CHUNK_TOKENS)
    of_document = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(of_document[-1]) - np.repeat(of_document[:-1], counts)
    starts = np.repeat(ends[:-1], counts) + within * CHUNK_TOKENS
    stops = np.minimum(starts + CHUNK_TOKENS, np.repeat(ends[1:], counts))
    parts = (starts, stops, of_document, lengths)
    together = torch.from_numpy(np.concatenate(parts))
    if device.type == "cuda":  # one copy, which the host need not wait for
        together = together.pin_memory().to(device, non_blocking=True)
    return Chunks(*together.split([len(part) for part in parts]))


@triton.jit
def document_impact(
    sums: tl.tensor,
    of_document: tl.tensor,
    lengths: tl.tensor,
    document: tl.tensor,
    column: tl.tensor,
    neurons: tl.tensor,
    squares: tl.constexpr,
) -> tl.tensor:
    """Impact of one document at the columns given: its chunks added in order; 0 beyond the last neuron."""
    first = tl.load(of_document + document)
    last = tl.load(of_document + document + 1)
    total = tl.zeros(column.shape, tl.float32)
    for offset in range(0, (last - first).to(tl.int32)):
        total += tl.load(sums + (first + offset) * neurons + column, mask=column < neurons, other=0.0)
    tokens = tl.maximum(tl.load(lengths + document), 1).to(tl.float32)
    return tl.sqrt(total) if squares else total / tokens


@triton.jit(do_not_specialize_on_alignment=["of_document", "lengths"])
def impact_finish_kernel(
    sums: tl.tensor,
    of_document: tl.tensor,
    lengths: tl.tensor,
    impact: tl.tensor,
    neurons: tl.tensor,
    squares: tl.constexpr,
    neuron_tile: tl.constexpr,
) -> None:
    """Document program_id(0), neurons program_id(1) * neuron_tile and on; impact is [documents, neurons]."""
    document = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1).to(tl.int64) * neuron_tile + tl.arange(0, neuron_tile)
    value = document_impact(sums, of_document, lengths, document, column, neurons, squares)
    tl.store(impact + document * neurons + column, value, mask=column < neurons)


def finish(sums: torch.Tensor, of_document: torch.Tensor, lengths: torch.Tensor, reduction: str) -> torch.Tensor:
    """Impacts (float32 [n, N]) of what a chunk kernel has summed.

    Args:
        sums: float32 [chunks, N], contiguous.
        of_document: of Chunks.
        lengths: of Chunks.
        reduction: mean_abs or l2.
    """
    documents, neurons = len(lengths), sums.shape[1]
    impact = torch.empty((documents, neurons), dtype=torch.float32, device=sums.device)
    if documents and neurons:
        grid = (documents, triton.cdiv(neurons, NEURONS))
        impact_finish_kernel[grid](
            sums, of_document, lengths, impact, neurons, squares=reduction == "l2", neuron_tile=NEURONS, **OPTIONS
        )
    return impact
