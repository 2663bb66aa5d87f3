"""What the device can do at best, measured in the run whose results are compared with it.

Products: one large square matrix product of random numbers (zeros draw less power and run faster), 2 n^3 operations.
Copy: one large tensor to another on the same device; bytes read and bytes written both count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from nagfast.benchmarks import devices

SIZE = {"cpu": 1024, "cuda": 8192}  # rows and columns of the product
COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 31}
SECONDS = {"cpu": 0.1, "cuda": 0.5}  # long enough for the clock to settle under load


def _rate(call: Callable[[], object], device: str, work: float) -> float:
    """Work per second: median over calls for about SECONDS, at least five."""
    kind = torch.device(device).type
    call()
    devices.synchronize(device)
    samples: list[float] = []
    end = time.perf_counter() + SECONDS[kind]
    while len(samples) < 5 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        devices.synchronize(device)
        samples.append(time.perf_counter() - begin)
    return work / float(np.median(samples))


def _float8_product(a: torch.Tensor, b: torch.Tensor) -> Callable[[], object]:
    """Rows and columns scaled one by one, as the engine multiplies."""
    kind = torch.float8_e4m3fn
    rows = torch.ones((len(a), 1), device=a.device)
    columns = torch.ones((1, len(b)), device=a.device)
    left, right = a.to(kind), b.to(kind).t()
    return lambda: torch._scaled_mm(left, right, scale_a=rows, scale_b=columns, out_dtype=torch.bfloat16)


@cache
def product_tflops(device: str, dtype: str) -> float | None:
    """TFLOP/s of a large matrix product; None where the device does not multiply that dtype.

    Args:
        device: cpu or cuda, cuda:I.
        dtype: float32, bfloat16 or float8 (e4m3, scaled by row; GPUs from Ada and Hopper on).
    """
    n = SIZE[torch.device(device).type]
    generator = torch.Generator(device).manual_seed(0)
    kind = torch.float32 if dtype == "float32" else torch.bfloat16
    a, b = (torch.randn((n, n), generator=generator, device=device, dtype=kind) for _ in range(2))
    if dtype != "float8":
        return _rate(lambda: a @ b, device, 2.0 * n**3) / 1e12
    if not device.startswith("cuda") or torch.cuda.get_device_capability(device) < (8, 9):
        return None
    return _rate(_float8_product(a, b), device, 2.0 * n**3) / 1e12


@cache
def copy_gbs(device: str) -> float:
    """GB/s of a copy on the device, read and written bytes together."""
    size = COPY_BYTES[torch.device(device).type]
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return _rate(lambda: target.copy_(source), device, 2.0 * size) / 1e9


def measured(device: str, dtype: str) -> dict[str, float]:
    """Both ceilings as a record: {"TFLOP/s", "GB/s"}, the product left out where there is none."""
    products = product_tflops(device, dtype)
    found = {} if products is None else {"TFLOP/s": round(products, 3)}
    return found | {"GB/s": round(copy_gbs(device), 2)}
