"""The fast tier: a plain model's layers over flat packed tokens, on the module's own weights.

Per layer: residual sum and norm, the product for queries, keys and values, norm and rotary embedding in place, packed
attention, the output product, residual sum and norm, the product for gate and up, activation and impact in one pass,
the down product. Products go to buffers that are kept; there is no head and no final norm, and of the last layer
nothing that the asked-for neurons do not need. The same code runs on the CPU and on a GPU: ops picks the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nagfast import attention, ops
from nagfast.merging import merge, merge_bias
from nagfast.packing import PackedBatch
from nagfast.placing import Documents, Placed, current, place
from nagfast.plain import PlainLayer, PlainModel
from nagfast.products import PlainProduct, Product
from nagfast.sinks import Measure, Sink

NEURON_TYPES = frozenset({"fwd_up", "fwd_down", "att_o"})
MakeProduct = Callable[[str, torch.Tensor, torch.Tensor | None], Product]


class Buffers:
    """Memory by name that is kept from batch to batch and grows where a batch needs more."""

    def __init__(self) -> None:
        self._flat: dict[str, torch.Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
        """[rows, columns] of whatever was there before, dtype and device of `like`."""
        flat = self._flat.get(name)
        if flat is None or flat.numel() < rows * columns:
            self._flat.pop(name, None)  # given back before more is asked for
            flat = self._flat[name] = torch.empty(rows * columns, dtype=like.dtype, device=like.device)
        return flat[: rows * columns].view(rows, columns)


@dataclass(frozen=True)
class LayerProducts:
    """The products of one layer."""

    qkv: Product
    out: Product
    gate_up: Product
    up: Product
    """The up half of gate_up, for the last layer."""
    down: Product


def plain_product(_name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """In the arithmetic of the weight, whichever product of a layer it is."""
    return PlainProduct(weight, bias)


def layer_products(layer: PlainLayer, make: MakeProduct = plain_product) -> LayerProducts:
    """Products over merged weights; the module's parameters become views of those.

    Args:
        layer: its projections.
        make: called with (qkv, out, gate_up or down; weight; bias).
    """
    gate_up = make("gate_up", merge(*layer.gate_up), merge_bias(*layer.gate_up))
    return LayerProducts(
        make("qkv", merge(*layer.qkv), merge_bias(*layer.qkv)),
        make("out", merge(layer.out), merge_bias(layer.out)),
        gate_up,
        gate_up.tail(layer.neurons),
        make("down", merge(layer.down), merge_bias(layer.down)),
    )


@dataclass(frozen=True)
class _Step:
    """One forward pass."""

    documents: Documents
    reduction: str
    wanted: frozenset[str]
    take: Callable[[str, int, ops.Impacts], None]
    """Called with (neuron type, layer, impacts)."""
    cos: torch.Tensor
    """[T, head_dim], contiguous."""
    sin: torch.Tensor


class FastTier:
    """Runs a plain model."""

    def __init__(self, model: PlainModel, device: torch.device, products: list[LayerProducts] | None = None) -> None:
        """Take a model's weights.

        Args:
            model: its parts.
            device: where they are.
            products: of each layer; default: in the arithmetic of the weights.
        """
        self.model, self.device = model, device
        self.products = products or [layer_products(layer) for layer in model.layers]
        self.buffers = Buffers()

    @torch.inference_mode()
    def run(self, batch: PackedBatch, measure: Measure, sink: Sink) -> None:
        """Measure a batch of at least one document into a sink; neuron types of NEURON_TYPES only."""
        rows, wanted = slice(0, len(batch.rows)), frozenset(measure.neuron_types)

        def take(neuron_type: str, layer: int, impacts: ops.Impacts) -> None:
            if neuron_type in wanted:
                sink.take(neuron_type, layer, rows, impacts)

        with current(self.device):
            placed = place(batch, self.device)
            residual: torch.Tensor = self.model.embed(placed.ids)
            cos, sin = self._angles(residual, placed)
            self._layers(residual, _Step(placed.documents, measure.reduction, wanted, take, cos, sin))

    def _angles(self, hidden: torch.Tensor, placed: Placed) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine of the module's own rotary embedding ([T, head_dim] each)."""
        cos, sin = self.model.rotary(hidden[None], position_ids=placed.positions[None])
        dim = self.model.layers[0].head_dim
        if cos.shape != (1, len(hidden), dim) or sin.shape != cos.shape:
            raise ValueError(f"the rotary embedding is {list(cos.shape)}, not over whole heads of {dim}")
        return cos[0].contiguous(), sin[0].contiguous()

    def _layers(self, residual: torch.Tensor, step: _Step) -> None:
        last = len(self.products) - 1
        block: torch.Tensor | None = None  # what the last block gave, not yet in the residual
        for number, (layer, products) in enumerate(zip(self.model.layers, self.products, strict=True)):
            normed = self._norm(block, residual, layer.input_norm.weight, layer.input_norm.eps)
            block = self._attention(normed, layer, products, step)
            if "att_o" in step.wanted:
                self._measure("att_o", number, block, step)
            if number == last and step.wanted == {"att_o"}:
                return
            normed = self._norm(block, residual, layer.mlp_norm.weight, layer.mlp_norm.eps)
            if number == last and "fwd_down" not in step.wanted:
                self._measure("fwd_up", number, self._product(products.up, normed, "gate_up"), step)
                return
            block = self._mlp(normed, number, layer, products, step)
            if "fwd_down" in step.wanted:
                self._measure("fwd_down", number, block, step)

    def _norm(
        self, block: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        out = self.buffers.take("normed", residual.shape[0], residual.shape[1], residual)
        if block is None:
            return ops.add_rms_norm(residual, None, weight, eps, out=out)
        return ops.add_rms_norm(block, residual, weight, eps, out=out)

    def _attention(self, normed: torch.Tensor, layer: PlainLayer, products: LayerProducts, step: _Step) -> torch.Tensor:
        qkv = self._product(products.qkv, normed, "qkv").unflatten(1, (-1, layer.head_dim))
        query, key, value = qkv.split([layer.heads, layer.kv_heads, layer.kv_heads], dim=1)
        cos, sin = (step.cos, step.sin) if layer.rotary else (None, None)
        if layer.query_norm is None and layer.key_norm is None:
            ops.norm_rotary(qkv[:, : layer.heads + layer.kv_heads], None, 0.0, cos, sin)
        else:
            for x, norm in ((query, layer.query_norm), (key, layer.key_norm)):
                weight, eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
                ops.norm_rotary(x, weight, eps, cos, sin)
        mixed = attention.attend(query, key, value, step.documents, layer.scoring)
        return self._product(products.out, mixed.flatten(1), "block")

    def _mlp(
        self, normed: torch.Tensor, number: int, layer: PlainLayer, products: LayerProducts, step: _Step
    ) -> torch.Tensor:
        gate_up = self._product(products.gate_up, normed, "gate_up")
        impacts = ops.swiglu_impact(
            gate_up, step.documents.cu_seqlens, activation=layer.activation, reduction=step.reduction, finish=False
        )
        step.take("fwd_up", number, impacts)
        return self._product(products.down, gate_up[:, : layer.neurons], "block")

    def _measure(self, neuron_type: str, number: int, x: torch.Tensor, step: _Step) -> None:
        impacts = ops.segment_impact(x, step.documents.cu_seqlens, reduction=step.reduction, finish=False)
        step.take(neuron_type, number, impacts)

    def _product(self, product: Product, x: torch.Tensor, name: str) -> torch.Tensor:
        return product(x, self.buffers.take(name, x.shape[0], product.rows, x))
