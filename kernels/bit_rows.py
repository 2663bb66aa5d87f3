"""Targets by columns: for each (layer, neuron) that some target holds, one row with a bit for every target.

Cut into blocks of `words` 32-bit words, [blocks, rows, words]: a block's part of a row is one run of bytes, and the
programs that work on one block stay within one stretch of memory. 100,000 targets that between them hold each of
28 x 6,144 neurons take 2.2 GB.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

MIN_WORDS = 32  # a row of a block is at least one cache line
MAX_WORDS = 128  # and at most 16 bytes for each thread of a warp
TILE = 1024  # NAG entries a program
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}  # no floats here; the default of the latter differs by version


class BitRows(NamedTuple):
    """What bit_search reads, on one device."""

    rows: torch.Tensor
    """int32 [blocks, present + 1, words]: bit b of word w of block i is target (i words + w) 32 + b; row 0 is zero."""
    row_of: torch.Tensor
    """int32 [L, N]: the row of each neuron, 0 where no target holds it."""
    targets: int
    """Targets, those without a NAG among them."""


def block_words(targets: int) -> int:
    """Words of a block: the power of two that holds the targets, within MIN_WORDS..MAX_WORDS."""
    return min(MAX_WORDS, max(MIN_WORDS, triton.next_power_of_2(triton.cdiv(targets, 32))))


@triton.jit
def load_entries(
    nags: tl.tensor,
    entries: tl.tensor,
    neurons: tl.tensor,
    per_document: tl.tensor,
    top_k: tl.tensor,
    tile: tl.constexpr,
) -> tl.tuple:
    """One tile of NAG entries: place, layer * N + neuron, and whether there is a neuron (the sentinel is none)."""
    entry = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    neuron = tl.load(nags + entry, mask=entry < entries, other=0).to(tl.int64)
    layer = (entry % per_document) // top_k
    held = (entry < entries) & (neuron >= 0) & (neuron < neurons)
    return entry, layer * neurons + neuron, held


@triton.jit(do_not_specialize=["entries", "neurons", "per_document", "top_k"])
def bit_rows_mark_kernel(
    nags: tl.tensor,
    present: tl.tensor,
    entries: tl.tensor,
    neurons: tl.tensor,
    per_document: tl.tensor,
    top_k: tl.tensor,
    tile: tl.constexpr,
) -> None:
    """present[l, j] = 1 where some document holds neuron j in layer l."""
    _, neuron, held = load_entries(nags, entries, neurons, per_document, top_k, tile)
    tl.store(present + neuron, tl.full([tile], 1, tl.int32), mask=held)


@triton.jit(do_not_specialize=["entries", "neurons", "per_document", "top_k", "num_rows"])
def bit_rows_set_kernel(
    nags: tl.tensor,
    row_of: tl.tensor,
    rows: tl.tensor,
    entries: tl.tensor,
    neurons: tl.tensor,
    per_document: tl.tensor,
    top_k: tl.tensor,
    num_rows: tl.tensor,
    words: tl.constexpr,
    tile: tl.constexpr,
) -> None:
    """Set the bit of every (document, neuron); documents that share a word meet there, hence the atomics."""
    entry, neuron, held = load_entries(nags, entries, neurons, per_document, top_k, tile)
    document = entry // per_document
    row = tl.load(row_of + neuron, mask=held, other=0).to(tl.int64)
    word = document // 32
    place = ((word // words) * num_rows + row) * words + word % words
    bit = tl.full([tile], 1, tl.int32) << (document % 32).to(tl.int32)
    tl.atomic_or(rows + place, bit, mask=held, sem="relaxed")


@triton.jit(do_not_specialize=["entries", "neurons", "per_document", "top_k", "width"])
def bit_rows_number_kernel(
    nags: tl.tensor,
    row_of: tl.tensor,
    numbers: tl.tensor,
    entries: tl.tensor,
    neurons: tl.tensor,
    per_document: tl.tensor,
    top_k: tl.tensor,
    width: tl.tensor,
    tile: tl.constexpr,
) -> None:
    """numbers[d, i] = row of the i-th neuron of document d, for a matrix of `width` columns."""
    entry, neuron, held = load_entries(nags, entries, neurons, per_document, top_k, tile)
    row = tl.load(row_of + neuron, mask=held, other=0)
    tl.store(numbers + (entry // per_document) * width + entry % per_document, row, mask=held)


def build_rows(nags: torch.Tensor, num_neurons: int) -> BitRows:
    """Bit rows of target NAGs.

    Args:
        nags: uint16, uint32, int32 or int64 [n, L, K] on the current device, n at least 1. Indices outside 0..N-1 (the
            sentinel) are no neuron; a neuron twice in a layer counts once.
        num_neurons: N.
    """
    targets, layers, top_k = nags.shape
    nags = nags.contiguous()
    shape = (nags.numel(), num_neurons, layers * top_k, top_k)
    grid = (triton.cdiv(nags.numel(), TILE),)
    present = torch.zeros((layers, num_neurons), dtype=torch.int32, device=nags.device)
    bit_rows_mark_kernel[grid](nags, present, *shape, tile=TILE, **OPTIONS)
    row_of = present.view(-1).cumsum(0, dtype=torch.int32).view_as(present) * present
    num_rows = int(row_of.max()) + 1
    words = block_words(targets)
    blocks = triton.cdiv(targets, 32 * words)
    rows = torch.zeros((blocks, num_rows, words), dtype=torch.int32, device=nags.device)
    bit_rows_set_kernel[grid](nags, row_of, rows, *shape, num_rows, words=words, tile=TILE, **OPTIONS)
    return BitRows(rows, row_of, targets)


def row_numbers(row_of: torch.Tensor, nags: torch.Tensor, multiple: int) -> torch.Tensor:
    """Rows that each query adds (int32 [q, L K, rounded up to a multiple]); 0, the zero row, elsewhere.

    Args:
        row_of: of BitRows, int32 [L, N].
        nags: queries, as build_rows takes them.
        multiple: what the width of the result is a multiple of.
    """
    queries, layers, top_k = nags.shape
    per_query = layers * top_k
    width = triton.cdiv(per_query, multiple) * multiple
    numbers = torch.zeros((queries, width), dtype=torch.int32, device=nags.device)
    bit_rows_number_kernel[(triton.cdiv(nags.numel(), TILE),)](
        nags.contiguous(), row_of, numbers, nags.numel(), row_of.shape[1], per_query, top_k, width, tile=TILE, **OPTIONS
    )
    return numbers
