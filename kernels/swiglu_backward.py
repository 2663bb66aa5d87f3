"""Backward pass of a gated MLP's activation a = act(g) * u on the device, with the activation-times-gradient impact.

    g <- d * u * act'(g)        u <- d * act(g)        in place, d = dloss/da
    impact[doc][k] = (1 / T) sum_t |a[t][k] * d[t][k]|, or the root of the sum of squares

See chunks.py for how a document's sums are made of its chunks'. Moves three reads and two writes of [T, N]; the sums
add 4 bytes per neuron and chunk, written and read once. A tile of 16 tokens takes 80 registers a thread; [32, 128] and
[16, 256] take 137 and 135.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from nagfast.kernels.activations import curve
from nagfast.kernels.chunks import NEURONS, OPTIONS, TOKENS, Chunks, cut


@triton.jit(do_not_specialize_on_alignment=["starts", "ends"])
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
        value, slope = curve(gate, activation)
        d_up = d * value
        tl.store(place, (d * up * slope).to(gate_up.dtype.element_ty), mask=inside)
        tl.store(place + neurons, d_up.to(gate_up.dtype.element_ty), mask=inside)
        product = up * d_up
        total += tl.sum(product * product if squares else tl.abs(product), axis=0)
    tl.store(sums + chunk * neurons + column, total, mask=column < neurons)


def swiglu_backward(
    gate_up: torch.Tensor,
    d_act: torch.Tensor,
    cu_seqlens: npt.NDArray[np.int64],
    *,
    activation: str = "silu",
    reduction: str = "mean_abs",
) -> tuple[torch.Tensor, Chunks]:
    """Gradients in place; sums of each chunk (float32 [chunks, N]) and the chunks.

    Args:
        gate_up: float32 or bfloat16 [T, 2N] on the device, columns contiguous; overwritten.
        d_act: [T, N], of the same dtype, columns contiguous.
        cu_seqlens: int64 [n + 1], from 0 to T, on the host.
        activation: silu, gelu or gelu_tanh.
        reduction: mean_abs or l2.
    """
    chunks = cut(cu_seqlens.tobytes(), gate_up.device)
    neurons = d_act.shape[1]
    sums = torch.empty((len(chunks.starts), neurons), dtype=torch.float32, device=gate_up.device)
    if sums.numel():
        swiglu_backward_chunk_kernel[(len(sums), triton.cdiv(neurons, NEURONS))](
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
    return sums, chunks
