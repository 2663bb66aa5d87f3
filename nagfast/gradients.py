"""Activation-times-gradient impact of packed documents by plain autograd, for any tapped architecture.

Documents are independent in a packed batch, so one backward pass of the summed loss gives every document its own
gradients. Only the activations before the down projections get a gradient; parameters are frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nagfast import ops, taps
from nagfast.backbone import Backbone
from nagfast.errors import NagfastError
from nagfast.packing import PackedBatch

Array = npt.NDArray[Any]


def act_grad_nags(backbone: Backbone, batch: PackedBatch, top_k: int, reduction: str = "mean_abs") -> Array:
    """NAGs by |a * dloss/da| (uint16 or uint32 [n, L, K]); the sentinel where a document has fewer than 2 tokens."""
    dtype = ops.index_dtype(backbone.num_neurons())
    out = np.full((len(batch.rows), backbone.num_layers, top_k), np.iinfo(dtype).max, dtype)
    for layer, impacts in enumerate(act_grad_impacts(backbone, batch, reduction)):
        out[:, layer] = ops.topk(impacts, top_k)
    out[batch.lengths < 2] = np.iinfo(dtype).max
    return out


def act_grad_impacts(backbone: Backbone, batch: PackedBatch, reduction: str = "mean_abs") -> list[Array]:
    """Impacts per layer (float32 [n, N] each); zeros where a document has fewer than 2 tokens.

    Raises:
        NagfastError: the architecture has no down projection to measure before.
    """
    downs = [taps.find_down(layer) for layer in backbone.layers]
    if any(d is None for d in downs):
        raise NagfastError(f"backbone: {backbone.name} has no down projection; act_grad cannot be measured")
    if backbone.layout == "packed":
        inputs = {
            "position_ids": torch.from_numpy(batch.position_ids)[None].to(backbone.device),
            "document_runs": batch.runs(),
        }
        return _backward(backbone, downs, batch.input_ids[None], inputs, batch.cu_seqlens, reduction)
    parts = []
    for first, documents, length in batch.runs():
        ids = batch.input_ids[first : first + documents * length].reshape(documents, length)
        parts.append(_backward(backbone, downs, ids, {}, np.arange(documents + 1) * length, reduction))
    return [np.concatenate([p[layer] for p in parts]) for layer in range(backbone.num_layers)]


def _backward(
    backbone: Backbone,
    downs: list[nn.Module | None],
    ids: npt.NDArray[np.int64],
    inputs: dict[str, Any],
    cu_seqlens: npt.NDArray[np.int64],
    reduction: str,
) -> list[Array]:
    model = backbone.model
    activations: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            activations[layer] = arguments[0]

        return hook

    handles = [d.register_forward_pre_hook(keep(i)) for i, d in enumerate(downs) if d is not None]
    tokens = torch.from_numpy(np.ascontiguousarray(ids)).to(backbone.device)
    try:
        with torch.enable_grad():
            embedded = model.get_input_embeddings()(tokens).requires_grad_()  # type: ignore[operator]
            logits = model(inputs_embeds=embedded, use_cache=False, **inputs).logits.flatten(0, 1)
            labels = tokens.flatten().roll(-1)
            labels[torch.from_numpy(cu_seqlens[1:] - 1)] = -100  # the last token of a document has no label
            loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=-100)
            order = [activations[i] for i in range(len(downs))]
            grads = torch.autograd.grad(loss, order)
    finally:
        for handle in handles:
            handle.remove()
    impacts = []
    for a, grad in zip(order, grads, strict=True):
        product = (a.detach().float() * grad.float()).reshape(-1, a.shape[-1]).cpu()
        impacts.append(ops.segment_impact(product, cu_seqlens, reduction=reduction))
    return impacts
