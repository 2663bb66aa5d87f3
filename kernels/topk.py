"""The K neurons of highest impact of each row on the device, exact, and what profiles say about them.

    key    = the float's bits in integer order << 32 | (2^32 - 1 - index)        int64
    nag    = indices of the K largest keys, largest first: ties go to the lower index
    sums[row][p] += sum over the nag of table[index][p]                           int64

One program takes a row in blocks of 1,024: the block's K best by a bitonic top-k, then the K best of these and those so
far. The impacts are read as they are, or made on the fly of a document's chunks (see chunks.py), so that neither they
nor, where only a profile is asked, the NAG are ever written.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from nagfast.kernels.chunks import document_impact

BLOCK = 1024
MAX_K = 512  # so that two sets of K best fit a block
PROFILES = 32  # profiles looked up together
OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}
LOW = tl.constexpr(0xFFFFFFFF)
LOWEST = tl.constexpr(-(2**63))  # below the key of any float


@triton.jit
def sort_key(value: tl.tensor, index: tl.tensor) -> tl.tensor:
    """The larger the value the larger the key, then the lower the index; -0 ties with 0. index is int64."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (LOW - index)


@triton.jit
def add_profiles(
    table: tl.tensor,
    sums: tl.tensor,
    index: tl.tensor,
    held: tl.tensor,
    profiles: tl.tensor,
    profile_tile: tl.constexpr,
) -> None:
    """Add the table's rows at index, where held, to one row of sums."""
    for first in range(0, profiles, profile_tile):
        profile = first + tl.arange(0, profile_tile)
        inside = profile < profiles
        place = table + index[:, None] * profiles + profile[None, :]
        entries = tl.load(place, mask=held[:, None] & inside[None, :], other=0).to(tl.int64)
        before = tl.load(sums + profile, mask=inside, other=0)
        tl.store(sums + profile, before + tl.sum(entries, axis=0), mask=inside)


# Where a layer's NAGs and a batch's tables begin is now a multiple of 16 bytes, now not: one variant for both.
@triton.jit(
    do_not_specialize=["nag_stride", "top_k", "profiles"],
    do_not_specialize_on_alignment=["of_document", "lengths", "nags", "sums"],
)
def topk_kernel(
    values: tl.tensor,
    of_document: tl.tensor,
    lengths: tl.tensor,
    nags: tl.tensor,
    table: tl.tensor,
    sums: tl.tensor,
    broken: tl.tensor,
    value_stride: tl.tensor,
    nag_stride: tl.tensor,
    neurons: tl.tensor,
    top_k: tl.tensor,
    profiles: tl.tensor,
    squares: tl.constexpr,
    k_tile: tl.constexpr,
    profile_tile: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Row program_id(0).

    values: impacts [rows, neurons], or with of_document and lengths the sums of chunks. nags, table with sums: None
    where not wanted. broken: set to 1 where an impact is not a number.
    """
    row = tl.program_id(0).to(tl.int64)
    best = tl.full([k_tile], LOWEST, tl.int64)
    wrong = tl.zeros([block], tl.int32)
    for start in range(0, neurons, block):
        column = start + tl.arange(0, block).to(tl.int64)
        if of_document is not None:
            value = document_impact(values, of_document, lengths, row, column, neurons, squares)
        else:
            value = tl.load(values + row * value_stride + column, mask=column < neurons, other=0.0)
        wrong |= (value != value).to(tl.int32)  # noqa: PLR0124 - not a number
        key = tl.where(column < neurons, sort_key(value, column), LOWEST)
        fresh = tl.topk(key, k_tile)
        best = tl.topk(tl.reshape(tl.join(best, fresh), [2 * k_tile]), k_tile)
    if tl.max(wrong, axis=0) > 0:
        tl.store(broken, 1)
    lane = tl.arange(0, k_tile)
    index = LOW - (best & LOW)
    if nags is not None:
        tl.store(nags + row * nag_stride + lane, index.to(nags.dtype.element_ty), mask=lane < top_k)
    if table is not None:
        add_profiles(table, sums + row * profiles, index, lane < top_k, profiles, profile_tile)


def topk(
    values: torch.Tensor,
    k: int,
    *,
    broken: torch.Tensor,
    nags: torch.Tensor | None = None,
    profiles: tuple[torch.Tensor, torch.Tensor] | None = None,
    chunks: tuple[torch.Tensor, torch.Tensor] | None = None,
    reduction: str = "mean_abs",
) -> None:
    """The K best of each row into nags, what profiles say of them added to their sums, whichever are given.

    Args:
        values: float32 impacts [rows, N] on the device, columns contiguous; with `chunks` the sums [chunks, N].
        k: 1 to the lower of N and MAX_K.
        broken: int32 [1]; set to 1 where an impact is not a number.
        nags: uint16 or uint32 [rows, k], columns contiguous.
        profiles: table, int32 (none negative), uint16 or uint32 [N, P], and sums, int64 [rows, P]; both contiguous.
        chunks: of_document and lengths of Chunks; None: values are impacts.
        reduction: mean_abs or l2, of the chunks.
    """
    rows = len(values) if chunks is None else len(chunks[1])
    k_tile = max(2, triton.next_power_of_2(k))  # 3.6 cannot take the one best
    table, sums = profiles or (None, None)
    width = 1 if table is None else table.shape[1]
    if not rows:
        return
    topk_kernel[(rows,)](
        values,
        *(chunks or (None, None)),
        nags,
        table,
        sums,
        broken,
        values.stride(0),
        0 if nags is None else nags.stride(0),
        values.shape[1],
        k,
        width,
        squares=reduction == "l2",
        k_tile=k_tile,
        profile_tile=min(PROFILES, triton.next_power_of_2(width)),
        block=BLOCK,
        **OPTIONS,
    )
