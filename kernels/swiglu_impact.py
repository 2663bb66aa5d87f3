"""Gated activation in place and the impact of the up projection on the device; the impact alone of any tensor.

    g <- act(g) * u        in place
    sums[chunk][k] = sum over the chunk's tokens of |u[t][k]|, or of its square

See chunks.py for the chunks. Moves two reads and one write of [T, N], where torch operations take act(g), the product
and |u| apart: eight; the sums add 4 bytes per neuron and chunk.
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
def swiglu_impact_chunk_kernel(
    x: tl.tensor,
    starts: tl.tensor,
    ends: tl.tensor,
    sums: tl.tensor,
    row_stride: tl.tensor,
    neurons: tl.tensor,
    activation: tl.constexpr,
    squares: tl.constexpr,
    token_tile: tl.constexpr,
    neuron_tile: tl.constexpr,
) -> None:
    """Chunk program_id(0), neurons program_id(1) * neuron_tile and on; sums is [chunks, neurons].

    Without an activation x is [tokens, neurons] and not written; with one it is gate and up, [tokens, 2 neurons].
    """
    chunk = tl.program_id(0).to(tl.int64)
    begin = tl.load(starts + chunk)
    end = tl.load(ends + chunk)
    column = tl.program_id(1).to(tl.int64) * neuron_tile + tl.arange(0, neuron_tile)
    total = tl.zeros([token_tile, neuron_tile], tl.float32)
    for offset in range(0, (end - begin).to(tl.int32), token_tile):
        token = begin + offset + tl.arange(0, token_tile)
        inside = (token < end)[:, None] & (column < neurons)[None, :]
        place = x + token[:, None] * row_stride + column[None, :]
        if activation is not None:
            gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
            up = tl.load(place + neurons, mask=inside, other=0.0).to(tl.float32)
            value, _ = curve(gate, activation)
            tl.store(place, (value * up).to(x.dtype.element_ty), mask=inside)
        else:
            up = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        total += up * up if squares else tl.abs(up)
    tl.store(sums + chunk * neurons + column, tl.sum(total, axis=0), mask=column < neurons)


def chunk_sums(
    x: torch.Tensor, cu_seqlens: npt.NDArray[np.int64], *, activation: str | None = None, reduction: str = "mean_abs"
) -> tuple[torch.Tensor, Chunks]:
    """Sums of each chunk (float32 [chunks, N]) and the chunks; with an activation, act(gate) * up in place.

    Args:
        x: float32 or bfloat16 on the device, columns contiguous: [T, N], or with an activation gate and up [T, 2N].
        cu_seqlens: int64 [n + 1], from 0 to T, on the host.
        activation: silu, gelu or gelu_tanh; None: x is measured and not written.
        reduction: mean_abs or l2.
    """
    chunks = cut(cu_seqlens.tobytes(), x.device)
    neurons = x.shape[1] if activation is None else x.shape[1] // 2
    sums = torch.empty((len(chunks.starts), neurons), dtype=torch.float32, device=x.device)
    if sums.numel():
        swiglu_impact_chunk_kernel[(len(sums), triton.cdiv(neurons, NEURONS))](
            x,
            chunks.starts,
            chunks.ends,
            sums,
            x.stride(0),
            neurons,
            activation=activation,
            squares=reduction == "l2",
            token_tile=TOKENS,
            neuron_tile=NEURONS,
            **OPTIONS,
        )
    return sums, chunks
