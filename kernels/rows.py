"""How the kernels that hold a whole row in registers are cut."""

from __future__ import annotations

import triton

MAX_WIDTH = 16_384  # 32 values a thread; 64 spill


def row_options(width: int) -> tuple[int, dict[str, object]]:
    """The tile of a row, a power of two, and launch options: two vectors of 8 bfloat16 a thread, 16 warps at most."""
    tile = max(16, triton.next_power_of_2(width))
    return tile, {"num_warps": min(16, max(1, tile // 512)), "enable_fp_fusion": True}
