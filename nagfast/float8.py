"""The fast tier with float8 products where they pay: which those are, and what they do to the NAGs.

A product in float8 takes half the time of bfloat16 at best, and quantising its tokens comes on top, so both ways are
timed on the device for each of a layer's four products. What the rounding does to the result is measured, not promised:
the overlap of NAGs with those of bfloat16 on random tokens is kept with the backbone and said once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nagfast import reference
from nagfast.checking import random_documents
from nagfast.placing import current
from nagfast.products import EmulatedFloat8Product, Float8Product, PlainProduct, Product
from nagfast.runner import FastTier, layer_products
from nagfast.sinks import Measure, NagSink

Array = npt.NDArray[Any]

TOKENS = 16_384  # tokens a step on a GPU, which the products are timed with
TURNS = 5
MULTIPLE = 16  # both widths of a float8 product are multiples of it
DOCUMENTS, LENGTH, TOP_K = 256, 64, 20  # of the overlap


@dataclass(frozen=True)
class Float8Report:
    """What float8 changes."""

    products: dict[str, bool]
    """Which products (qkv, out, gate_up, down) are in float8."""
    overlap: float
    """Mean share of the top K neurons in common with bfloat16, over layers and documents."""
    documents: int
    """Random documents it was measured on."""

    def __str__(self) -> str:
        used = ", ".join(name for name, picked in self.products.items() if picked) or "no product"
        return f"float8 for {used}; top-{TOP_K} overlap with bfloat16 {self.overlap:.4f} on {self.documents} documents"


def float8_tier(plain: FastTier, config: Any, *, emulate: bool = False) -> tuple[FastTier, Float8Report]:
    """The tier with float8 products, and what they do to the NAGs.

    The bfloat16 weights stay for what is not in float8: memory grows by half of what is.

    Args:
        plain: the tier in bfloat16.
        config: the text configuration.
        emulate: on any device, all products, in float32 arithmetic on quantised values.
    """
    kind = EmulatedFloat8Product if emulate else Float8Product
    picked: dict[str, bool] = {}

    def make(name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        if name not in picked:
            picked[name] = emulate or _pays(weight)
        return kind.of(weight, bias) if picked[name] else PlainProduct(weight, bias)

    with torch.inference_mode(), current(plain.device):
        products = [layer_products(layer, make) for layer in plain.model.layers]
    tier = FastTier(plain.model, plain.device, products)
    top_k = min(TOP_K, plain.model.layers[0].neurons)
    a, b = (_random_nags(t, config, top_k) for t in (plain, tier))
    overlap = float(np.mean([reference.overlap(x, y) for x, y in zip(a, b, strict=True)]))
    return tier, Float8Report(picked, overlap, len(a))


def _pays(weight: torch.Tensor) -> bool:
    """Whether a product of this shape is faster in float8, quantising the tokens included."""
    rows, hidden = weight.shape
    if rows % (2 * MULTIPLE) or hidden % MULTIPLE:  # of gate_up the half is a product too
        return False
    x = torch.randn(TOKENS, weight.shape[1], device=weight.device).to(weight.dtype)
    out = x.new_empty(TOKENS, weight.shape[0])
    plain, float8 = PlainProduct(weight), Float8Product.of(weight)
    times = {p: _milliseconds(lambda p=p: p(x, out)) for p in (plain, float8)}  # type: ignore[misc]
    return times[float8] < times[plain]


def _milliseconds(call: Callable[[], object]) -> float:
    """The fastest of some turns on the GPU, one before them not counted."""
    call()
    best = float("inf")
    for _ in range(TURNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end))
    return best


def _random_nags(tier: FastTier, config: Any, top_k: int) -> Array:
    batch = random_documents(config, [LENGTH] * DOCUMENTS)
    layers = tier.model.layers
    sink = NagSink(DOCUMENTS, len(layers), {"fwd_up": layers[0].neurons}, top_k, tier.device)
    tier.run(batch, Measure(), sink)
    return sink.pending().result()["fwd_up"]
