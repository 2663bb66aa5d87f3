"""Exact nearest targets on the device: bit rows, carry-save adders, radix selection on bit planes.

    count(q, t)  = number of (layer, neuron) pairs that query q and target t both hold
                 = sum over the L K pairs (l, j) of q of bit t of row(l, j)
    nearest(q)   = the k targets of highest count, ties to the lower target

One program takes a query and a block of targets. Full adders (two three-input logic instructions each) add the
query's rows, 16 at a time, into bit planes: plane p holds bit p of the count of every target of the block. Radix
selection walks the planes from the top and ends with the mask of the block's k best; only those are unpacked, as
count * 2^32 + (2^32 - 2 - target), which puts the order wanted into one integer. A top-k over the candidates of all
blocks merges them.

Why rows, for L = 28, K = 20, N = 6,144 on an H100. Estimates from data-sheet rates and the sm_90 code, not measured:

    logic of the adders     35 groups of 38 instructions for 32 pairs, 64 a clock and SM         360 Gpair/s
    rows read from L2       70 bytes a pair at 5.5 TB/s                                           80 Gpair/s
    int8 tensor cores       344,064 operations a pair at 1,979 TOP/s                               6 Gpair/s

Reading the rows is the limit. Two queries have few rows in common, so a tile of queries would save little; programs
that run together share a block instead (queries are the fast axis of the grid), whose popular rows stay in L2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nagfast.kernels.bit_rows import BitRows, build_rows, row_numbers

__all__ = ["BitRows", "build_rows", "search"]

GROUP = 16  # rows that one tree of adders takes
LAUNCH_BYTES = 1 << 28  # most that the row numbers and candidates of one launch may take
OPTIONS = {"num_warps": 1, "enable_fp_fusion": True}  # one warp: sums over a block need no barrier
LAST = tl.constexpr(0xFFFFFFFE)  # so that key -1, no candidate, decodes to count -1 and target -1


@triton.jit
def popcount(x: tl.tensor) -> tl.tensor:
    """Bits set in each uint32; written so that the compiler knows it for the popc instruction."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def full_adder(a: tl.tensor, b: tl.tensor, c: tl.tensor) -> tl.tuple:
    """Add three bits, 32 to a word: a + b + c = sum + 2 carry."""
    either = a ^ b
    return either ^ c, (a & b) | (either & c)


@triton.jit
def load_row(rows: tl.tensor, number: tl.tensor, words: tl.constexpr) -> tl.tensor:
    """The row whose number is stored at `number`, uint32 [words]."""
    start = rows + tl.load(number).to(tl.int64) * words
    return tl.load(start + tl.arange(0, words)).to(tl.uint32, bitcast=True)


@triton.jit
def add_2(rows: tl.tensor, number: tl.tensor, ones: tl.tensor, words: tl.constexpr) -> tl.tuple:
    """Add two rows to the plane of weight 1; return it and the carry of weight 2."""
    return full_adder(ones, load_row(rows, number, words), load_row(rows, number + 1, words))


@triton.jit
def add_4(rows: tl.tensor, number: tl.tensor, ones: tl.tensor, twos: tl.tensor, words: tl.constexpr) -> tl.tuple:
    """Add four rows to the two lowest planes; return them and the carry of weight 4."""
    ones, first = add_2(rows, number, ones, words)
    ones, second = add_2(rows, number + 2, ones, words)
    twos, carry = full_adder(twos, first, second)
    return ones, twos, carry


@triton.jit
def add_8(
    rows: tl.tensor, number: tl.tensor, ones: tl.tensor, twos: tl.tensor, fours: tl.tensor, words: tl.constexpr
) -> tl.tuple:
    """Add eight rows to the three lowest planes; return them and the carry of weight 8."""
    ones, twos, first = add_4(rows, number, ones, twos, words)
    ones, twos, second = add_4(rows, number + 4, ones, twos, words)
    fours, carry = full_adder(fours, first, second)
    return ones, twos, fours, carry


@triton.jit
def add_16(rows: tl.tensor, number: tl.tensor, planes: tl.tuple, words: tl.constexpr) -> tl.tuple:
    """Add sixteen rows to the planes, the carry rippling through all above the four lowest."""
    ones, twos, fours, first = add_8(rows, number, planes[0], planes[1], planes[2], words)
    ones, twos, fours, second = add_8(rows, number + 8, ones, twos, fours, words)
    eights, carry = full_adder(planes[3], first, second)
    added = (ones, twos, fours, eights)
    for p in tl.static_range(4, len(planes)):
        added = added + (planes[p] ^ carry,)
        carry = planes[p] & carry
    return added


@triton.jit
def select_top(planes: tl.tuple, valid: tl.tensor, k: tl.tensor) -> tl.tuple:
    """Targets above the k-th highest count, targets equal to it, and how many of these belong to the k."""
    above = tl.zeros_like(valid)
    equal = valid
    wanted = tl.minimum(k, tl.sum(popcount(valid), axis=0))
    for i in tl.static_range(len(planes)):
        plane = planes[len(planes) - 1 - i]
        ones = equal & plane
        found = tl.sum(popcount(ones), axis=0)
        enough = found >= wanted
        above = tl.where(enough, above, above | ones)
        equal = tl.where(enough, ones, equal ^ ones)
        wanted = tl.where(enough, wanted, wanted - found)
    return above, equal, wanted


@triton.jit
def write_candidates(
    keys: tl.tensor, chosen: tl.tensor, planes: tl.tuple, first: tl.tensor, begin: tl.tensor, end: tl.tensor
) -> None:
    """Write the keys of the chosen targets, lowest first, into slots begin to end - 1; those beyond are dropped.

    first: target of bit 0 of each word, int64 [words].
    """
    have = popcount(chosen)
    slot = begin + tl.cumsum(have, axis=0) - have
    chosen = tl.where(slot < end, chosen, tl.zeros_like(chosen))
    while tl.max((chosen != 0).to(tl.int32), axis=0) > 0:
        rest = chosen & (chosen - 1)
        bit = popcount((chosen ^ rest) - 1) & 31  # words with nothing left write nothing; keep their shift defined
        count = tl.zeros_like(bit)
        for p in tl.static_range(len(planes)):
            count += (((planes[p] >> bit.to(tl.uint32)) & 1) << p).to(tl.int32)
        key = (count.to(tl.int64) << 32) + (LAST - first - bit)
        tl.store(keys + slot, key, mask=chosen != 0)
        slot += 1
        chosen = tl.where(slot < end, rest, tl.zeros_like(rest))


@triton.jit(do_not_specialize=["num_rows", "groups", "targets", "slots"])
def bit_search_kernel(
    rows: tl.tensor,
    numbers: tl.tensor,
    keys: tl.tensor,
    num_rows: tl.tensor,
    groups: tl.tensor,
    targets: tl.tensor,
    slots: tl.tensor,
    num_planes: tl.constexpr,
    words: tl.constexpr,
) -> None:
    """Best `slots` targets of block program_id(1) for query program_id(0), unordered.

    rows: int32 [blocks, num_rows, words]. numbers: int32 [queries, 16 groups]. keys: int64 [queries, blocks, slots],
    left as it is where the block holds fewer targets.
    """
    query = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1).to(tl.int64)
    rows += block * num_rows * words
    numbers += query * groups * 16
    planes = ()
    for _ in tl.static_range(num_planes):
        planes = planes + (tl.zeros([words], tl.uint32),)
    for group in range(groups):
        planes = add_16(rows, numbers + group * 16, planes, words)

    first = (block * words + tl.arange(0, words)) * 32
    left = tl.minimum(tl.maximum(targets - first, 0), 32).to(tl.int32)
    # A shift by 32 is undefined: take the low half of a 64-bit shift.
    valid = ((tl.full([words], 1, tl.int64) << left) - 1).to(tl.uint32)
    above, equal, wanted = select_top(planes, valid, slots)
    keys += (query * tl.num_programs(1) + block) * slots
    sure = tl.sum(popcount(above), axis=0)
    write_candidates(keys, above, planes, first, 0, sure)
    write_candidates(keys, equal, planes, first, sure, sure + wanted)


def plane_count(largest: int) -> int:
    """Planes that hold counts up to `largest`; five at least, the four of the adder tree and one for its carry."""
    return max(5, largest.bit_length())


def search(bit_rows: BitRows, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k targets that share most neurons with each query, most first, ties to the lower target.

    Args:
        bit_rows: the targets, on the current device.
        queries: uint16, uint32, int32 or int64 [q, L, K] on the same device; K need not be that of the targets.
            Indices outside 0..N-1 (the sentinel) are no neuron; a neuron must not come twice in a layer.
        k: 1 or more.

    Returns:
        counts (int32 [q, k]) and targets (int64 [q, k]), both -1 where there are fewer than k targets.
    """
    rows, row_of, targets = bit_rows
    blocks, num_rows, words = rows.shape
    slots = min(k, 32 * words)
    counts = torch.full((len(queries), k), -1, dtype=torch.int32, device=rows.device)
    ids = torch.full((len(queries), k), -1, dtype=torch.int64, device=rows.device)
    per_query = queries.shape[1] * queries.shape[2]
    shape = {"num_planes": plane_count(per_query), "words": words}
    step = max(1, LAUNCH_BYTES // (8 * blocks * slots + 4 * per_query))
    for start in range(0, len(queries), step):
        numbers = row_numbers(row_of, queries[start : start + step], GROUP)
        found, width = numbers.shape
        keys = torch.full((found, blocks, slots), -1, dtype=torch.int64, device=rows.device)
        bit_search_kernel[(found, blocks)](
            rows, numbers, keys, num_rows, width // GROUP, targets, slots, **shape, **OPTIONS
        )
        best = keys.view(found, -1).topk(min(k, blocks * slots), dim=1).values
        counts[start : start + step, : best.shape[1]] = best >> 32
        ids[start : start + step, : best.shape[1]] = LAST.value - (best & 0xFFFFFFFF)
    return counts, ids
