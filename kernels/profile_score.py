"""Numerator of the similarity to a profile (DESIGN section 2), for NAGs that are on the device.

    sum(d) = sum over layers l and neurons j of NAG_l(d) of table[l, j]          an integer, exact

One program takes a tile of documents and walks their entries in runs of 128, which the warps read side by side; the
table (28 x 6,144 counts of 4 bytes: 0.7 MB) stays in L2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

DOCUMENTS = 8  # a tile is [8 documents, 128 entries]
ENTRIES = 128
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}  # no floats here; the default of the latter differs by version


@triton.jit(do_not_specialize=["documents", "per_document", "top_k", "neurons"])
def profile_sums_kernel(
    nags: tl.tensor,
    table: tl.tensor,
    sums: tl.tensor,
    documents: tl.tensor,
    per_document: tl.tensor,
    top_k: tl.tensor,
    neurons: tl.tensor,
    tile: tl.constexpr,
    width: tl.constexpr,
) -> None:
    """Sums of documents tile program_id(0) .. + tile - 1; indices outside 0..neurons - 1 (the sentinel) add nothing."""
    document = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    total = tl.zeros([tile], tl.int64)
    for start in range(0, per_document, width):
        entry = start + tl.arange(0, width)
        inside = (document < documents)[:, None] & (entry < per_document)[None, :]
        place = document[:, None] * per_document + entry[None, :]
        neuron = tl.load(nags + place, mask=inside, other=0).to(tl.int64)
        held = inside & (neuron >= 0) & (neuron < neurons)
        layer = (entry // top_k).to(tl.int64)
        counts = tl.load(table + layer[None, :] * neurons + neuron, mask=held, other=0)
        total += tl.sum(counts.to(tl.int64), axis=1)
    tl.store(sums + document, total, mask=document < documents)


def profile_sums(nags: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Sum of the table over each document's neurons (int64 [n]).

    Args:
        nags: uint16, uint32, int32 or int64 [n, L, K] on the current device; indices outside 0..N-1 (the
            sentinel) add nothing.
        table: int32 or int64 [L, N] there too.
    """
    documents, layers, top_k = nags.shape
    sums = torch.empty(documents, dtype=torch.int64, device=nags.device)
    if documents:
        profile_sums_kernel[(triton.cdiv(documents, DOCUMENTS),)](
            nags.contiguous(),
            table.contiguous(),
            sums,
            documents,
            layers * top_k,
            top_k,
            table.shape[1],
            tile=DOCUMENTS,
            width=ENTRIES,
            **OPTIONS,
        )
    return sums
