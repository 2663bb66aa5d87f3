"""Backward pass of a gated MLP's activation a = act(g) * u on the device, with the activation-times-gradient impact.

    g <- d * u * act'(g)        u <- d * act(g)        in place, d = dloss/da
    impact[doc][k] = (1 / T) sum_t |a[t][k] * d[t][k]|, or the root of the sum of squares

Documents are cut into chunks of 128 tokens counted from their own first token. One program takes a chunk and a block of
neurons and writes one float32 sum per neuron; a second kernel adds the chunks of each document in order. Nothing is
added atomically and no sum crosses a document, so the result is the same to the bit whatever a document is packed with.
Moves three reads and two writes of [T, N]; the sums add 4 bytes per neuron and chunk, written and read once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

CHUNK_TOKENS = 128
TOKENS = 16  # a tile is [16 tokens, 128 neurons]: 80 registers a thread; [32, 128] and [16, 256] take 137 and 135
NEURONS = 128
OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def _curve(gate: tl.tensor, activation: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """act(gate) and act'(gate) in float32."""
    if activation == "silu":
        s = tl.sigmoid(gate)
        return gate * s, s * (1.0 + gate * (1.0 - s))
    if activation == "gelu":
        below = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
        return gate * below, below + gate * 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    g = tl.minimum(tl.maximum(gate, -10.0), 10.0)  # at 10 the sigmoid is 0 or 1 to 38 digits
    s = tl.sigmoid(1.5957691216057308 * g * (1.0 + 0.044715 * g * g))
    rise = 1.5957691216057308 * (1.0 + 0.134145 * g * g)
    return tl.maximum(gate, -10.0) * s, s * (1.0 + g * (1.0 - s) * rise)


@triton.jit
def swiglu_backward_chunk_kernel(
    gate_up: tl.tensor,
    d_act: tl.tensor,
    starts: tl.tensor,
    ends: tl.tensor,
    sums: tl.tensor,
    row_stride: tl.tensor,
    d_stride: tl.tensor,
    neurons: tl.tensor,
    activation: tl.constexpr,
    squares: tl.constexpr,
    token_tile: tl.constexpr,
    neuron_tile: tl.constexpr,
) -> None:
    """Chunk program_id(0), neurons program_id(1) * neuron_tile and on; sums is [chunks, neurons]."""
    chunk = tl.program_id(0).to(tl.int64)
    begin = tl.load(starts + chunk)
    end = tl.load(ends + chunk)
    column = tl.program_id(1).to(tl.int64) * neuron_tile + tl.arange(0, neuron_tile)
    total = tl.zeros([neuron_tile], tl.float32)
    for offset in range(0, (end - begin).to(tl.int32), token_tile):
        token = begin + offset + tl.arange(0, token_tile)
        inside = (token < end)[:, None] & (column < neurons)[None, :]
        place = gate_up + token[:, None] * row_stride + column[None, :]
        gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(place + neurons, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(d_act + token[:, None] * d_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        value, slope = _curve(gate, activation)
        d_up = d * value
        tl.store(place, (d * up * slope).to(gate_up.dtype.element_ty), mask=inside)
        tl.store(place + neurons, d_up.to(gate_up.dtype.element_ty), mask=inside)
        product = up * d_up
        total += tl.sum(product * product if squares else tl.abs(product), axis=0)
    tl.store(sums + chunk * neurons + column, total, mask=column < neurons)


@triton.jit
def impact_finish_kernel(
    sums: tl.tensor,
    chunks: tl.tensor,
    lengths: tl.tensor,
    impact: tl.tensor,
    neurons: tl.tensor,
    squares: tl.constexpr,
    neuron_tile: tl.constexpr,
) -> None:
    """Document program_id(0): its chunks, chunks[d] to chunks[d + 1], in order; impact is [documents, neurons]."""
    document = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1).to(tl.int64) * neuron_tile + tl.arange(0, neuron_tile)
    first = tl.load(chunks + document)
    last = tl.load(chunks + document + 1)
    total = tl.zeros([neuron_tile], tl.float32)
    for offset in range(0, (last - first).to(tl.int32)):
        total += tl.load(sums + (first + offset) * neurons + column, mask=column < neurons, other=0.0)
    tokens = tl.maximum(tl.load(lengths + document), 1).to(tl.float32)
    value = tl.sqrt(total) if squares else total / tokens
    tl.store(impact + document * neurons + column, value, mask=column < neurons)


@dataclass(frozen=True)
class Chunks:
    """A packed batch cut into chunks, on the device (int64 tensors)."""

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
    return Chunks(*(torch.from_numpy(x.copy()).to(device) for x in (starts, stops, of_document, lengths)))


def swiglu_backward(
    gate_up: torch.Tensor,
    d_act: torch.Tensor,
    cu_seqlens: npt.NDArray[np.int64],
    *,
    activation: str = "silu",
    reduction: str = "mean_abs",
) -> torch.Tensor:
    """Gradients in place and impact (float32 [n, N]).

    Args:
        gate_up: float32 or bfloat16 [T, 2N] on the device, columns contiguous; overwritten.
        d_act: [T, N], of the same dtype, columns contiguous.
        cu_seqlens: int64 [n + 1], from 0 to T, on the host.
        activation: silu, gelu or gelu_tanh.
        reduction: mean_abs or l2.
    """
    chunks = cut(cu_seqlens.tobytes(), gate_up.device)
    neurons, documents = d_act.shape[1], len(chunks.lengths)
    sums = torch.empty((len(chunks.starts), neurons), dtype=torch.float32, device=gate_up.device)
    impact = torch.empty((documents, neurons), dtype=torch.float32, device=gate_up.device)
    blocks = triton.cdiv(neurons, NEURONS)
    if len(sums):
        swiglu_backward_chunk_kernel[(len(sums), blocks)](
            gate_up,
            d_act,
            chunks.starts,
            chunks.ends,
            sums,
            gate_up.stride(0),
            d_act.stride(0),
            neurons,
            activation=activation,
            squares=reduction == "l2",
            token_tile=TOKENS,
            neuron_tile=NEURONS,
            **OPTIONS,
        )
    if documents:
        impact_finish_kernel[(documents, blocks)](
            sums,
            chunks.of_document,
            chunks.lengths,
            impact,
            neurons,
            squares=reduction == "l2",
            neuron_tile=NEURONS,
            **OPTIONS,
        )
    return impact
