"""Activation-times-gradient impact of packed documents, by a backward pass through activations only.

Documents are independent in a packed batch, so one backward pass of the summed loss gives every document its own
gradients. Parameters are frozen, the graph begins at the first layer's MLP (mlp_backward.py), the gradient of the loss
is formed without the logits of the whole batch (head.py), and each layer's impacts become its top K as soon as the
backward pass has gone through it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from nagfast import env, ops
from nagfast.backbone import Backbone
from nagfast.errors import NagfastError
from nagfast.head import Head
from nagfast.mlp_backward import Site, Sweep, find_site, measured
from nagfast.packing import PackedBatch
from nagfast.placing import current, equal_lengths, to_device
from nagfast.sinks import NagSink, Pending

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
Keep = Callable[[int, slice, torch.Tensor], None]

# Largest difference of a logit from the model's own, as a share of the largest.
HEAD_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.004}


@dataclass
class _Plan:
    """How a backbone is differentiated: found once."""

    sites: list[Site]
    head: Head | None
    """None: the model's own logits, whole."""
    scratch: torch.Tensor | None = None
    """Kept between batches: fresh memory costs page faults."""
    free_memory: int | None = None
    """Bytes, see _free_memory."""


_PLANS: WeakKeyDictionary[Backbone, _Plan] = WeakKeyDictionary()


def start_act_grad_nags(
    backbone: Backbone, batch: PackedBatch, top_k: int, reduction: str = "mean_abs"
) -> Pending[Array]:
    """Begin act_grad_nags; on a GPU it returns before the work is done, and result() waits and may raise.

    Raises:
        NagfastError: the architecture has no down projection to measure before.
    """
    neurons = {"fwd_up": backbone.num_neurons()}
    sink = NagSink(len(batch.rows), backbone.num_layers, neurons, top_k, backbone.device)
    _run(backbone, batch, reduction, partial(sink.take, "fwd_up"))
    without = batch.lengths < 2

    def finish(found: dict[str, Array]) -> Array:
        nags = found["fwd_up"]
        nags[without] = np.iinfo(nags.dtype).max
        return nags

    return Pending(sink.nags, sink.broken, finish)


def act_grad_nags(backbone: Backbone, batch: PackedBatch, top_k: int, reduction: str = "mean_abs") -> Array:
    """NAGs by |a * dloss/da| (uint16 or uint32 [n, L, K]); the sentinel where a document has fewer than 2 tokens.

    Raises:
        ArgumentError: an impact that is not a number.
        NagfastError: the architecture has no down projection to measure before.
    """
    return start_act_grad_nags(backbone, batch, top_k, reduction).result()


def act_grad_impacts(backbone: Backbone, batch: PackedBatch, reduction: str = "mean_abs") -> list[Array]:
    """Impacts per layer (float32 [n, N] each); zeros where a document has fewer than 2 tokens.

    Raises:
        NagfastError: the architecture has no down projection to measure before.
    """
    parts: list[list[Array]] = [[] for _ in range(backbone.num_layers)]
    _run(backbone, batch, reduction, lambda layer, _rows, impacts: parts[layer].append(impacts.cpu().numpy()))
    return [np.concatenate(p) for p in parts]


def saved_bytes_per_token(backbone: Backbone) -> int:
    """What the backward pass keeps of one token, over all layers, estimated from the configuration.

    The gate and up products (2N); queries, keys, values and the attention's output, before and after rotary embedding;
    two norms' inputs and the residual sums between, the norms' in float32 whatever the dtype of the weights. Attention
    that keeps its scores (sliding windows, soft caps) and further norms are not in it: the half that batch_tokens_for
    leaves free is for them too.
    """
    config, item = backbone.config, backbone.dtype.itemsize
    heads = int(config.num_attention_heads)
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    hidden = int(config.hidden_size)
    head_dim = int(getattr(config, "head_dim", None) or hidden // heads)
    attention = (2 * heads + 2 * shared) * head_dim * item + (heads + shared) * head_dim * max(item, 4)
    norms = 2 * hidden * max(item, 4) + 2 * hidden * item
    mlp = 2 * backbone.num_neurons() * item
    return backbone.num_layers * (mlp + attention + norms)


def batch_tokens_for(backbone: Backbone, most: int) -> int:
    """Tokens per step that fit the memory: a power of two, at least 256 and at most `most`.

    Half of what is free is left to the logits of a chunk, the products in flight and the allocator. Free memory on a
    GPU is read once per backbone and powers of two are far apart, so that a run that is taken up again packs as before.
    On the CPU the budget is a quarter of what the process may use.
    """
    budget = env.memory_budget() if backbone.device.type == "cpu" else _free_memory(backbone) // 2
    tokens = max(256, budget // saved_bytes_per_token(backbone))
    return int(min(most, 1 << (tokens.bit_length() - 1)))


def _free_memory(backbone: Backbone) -> int:
    """Bytes of the GPU that were free, or held by torch without being used, when first asked."""
    plan = _plan(backbone)
    if plan.free_memory is None:
        free, _ = torch.cuda.mem_get_info(backbone.device)
        unused = torch.cuda.memory_reserved(backbone.device) - torch.cuda.memory_allocated(backbone.device)
        plan.free_memory = free + unused
    return plan.free_memory


def _run(backbone: Backbone, batch: PackedBatch, reduction: str, keep: Keep) -> None:
    """Forward and backward; calls keep(layer, rows, impacts float32 [documents, N] on the backbone's device)."""
    plan = _plan(backbone)
    if backbone.layout == "packed":
        rows = slice(0, len(batch.rows))
        _sweep(backbone, plan, batch, reduction, lambda layer, x: keep(layer, rows, x))
        return
    for rows, part in equal_lengths(batch):
        _sweep(backbone, plan, part, reduction, lambda layer, x, rows=rows: keep(layer, rows, x))  # type: ignore[misc]


def _sweep(
    backbone: Backbone,
    plan: _Plan,
    batch: PackedBatch,
    reduction: str,
    keep: Callable[[int, torch.Tensor], None],
) -> None:
    inputs = backbone.generic.inputs(batch)
    tokens = np.arange(len(batch.input_ids))
    rows = to_device(np.delete(tokens, batch.cu_seqlens[1:] - 1), backbone.device)  # all but each document's last
    labels = inputs["input_ids"].flatten()[rows + 1]
    anchor = torch.zeros((), device=backbone.device, requires_grad=True)
    sweep = Sweep(batch.cu_seqlens, reduction, keep, anchor, plan.scratch)
    with current(backbone.device), measured(plan.sites, sweep), torch.enable_grad():
        if plan.head is None:
            logits = backbone.model(**inputs).logits.flatten(0, 1)[rows]
            logits.backward(ops.softmax_gradient(logits.detach().clone(), labels))
        else:
            hidden = backbone.model.base_model(**inputs).last_hidden_state  # type: ignore[operator]
            gradient = plan.head.gradient(hidden.detach().flatten(0, 1), rows, labels)
            hidden.backward(gradient.view_as(hidden))
    plan.scratch = sweep.scratch


def _plan(backbone: Backbone) -> _Plan:
    if backbone not in _PLANS:
        sites = [site for layer in backbone.layers if (site := find_site(layer)) is not None]
        if len(sites) != backbone.num_layers:
            raise NagfastError(f"backbone: {backbone.name} has no down projection; act_grad cannot be measured")
        _PLANS[backbone] = _Plan(sites, _checked_head(backbone))
    return _PLANS[backbone]


@torch.no_grad()
def _checked_head(backbone: Backbone) -> Head | None:
    """The head in chunks where it gives the model's own logits on a few tokens, else None."""
    head = Head.of(backbone.model, backbone.config)
    if head is None:
        log.debug("%s: the head is no linear projection; whole logits are used", backbone.name)
        return None
    ids = np.random.default_rng(0).integers(0, int(backbone.config.vocab_size), size=8)
    batch = PackedBatch(ids, np.array([0, len(ids)]), np.array([0]))
    inputs = backbone.generic.inputs(batch)
    expected = backbone.model(**inputs).logits[0].float()
    hidden = backbone.model.base_model(**inputs).last_hidden_state[0]  # type: ignore[operator]
    found = head.logits(hidden).float()
    if found.shape == expected.shape:
        worst = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        if worst <= HEAD_TOLERANCE.get(backbone.dtype, 0.02):
            return head
    log.debug("%s: logits in chunks differ from the model's own; whole logits are used", backbone.name)
    return None
