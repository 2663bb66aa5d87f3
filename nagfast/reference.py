"""Ground truth: every definition of nagfast in plain torch and numpy; every fast path is tested against it.

Impact (arXiv 2604.15706, section 2.2), for a document of T tokens and the output x of a tapped projection:

    projection   impact_k = (1/T) sum_t |x_tk|            reduction "mean_abs"
                 impact_k = sqrt(sum_t x_tk^2)            reduction "l2"
    act_grad     impact_k = (1/T) sum_t |a_tk dloss/da_tk|, a the input of the down projection, loss the
                 cross-entropy of the next token summed over the document (the last token has no label);
                 "l2" takes the root of the sum of squares of the same products.

NAG: per layer the K neurons of highest impact, highest first, ties to the lower index.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nagfast.errors import ArgumentError
from nagfast.schema import MAX_UINT16_NEURONS

Array = npt.NDArray[Any]


# --- impact -----------------------------------------------------------------------------------------------------------


def impact(x: torch.Tensor, reduction: str = "mean_abs") -> torch.Tensor:
    """Impact of every neuron over one document (float [T, N] -> float [N]); zeros where T is 0."""
    if x.shape[0] == 0:
        return x.new_zeros(x.shape[1:])
    if reduction == "mean_abs":
        return x.abs().mean(dim=0)
    if reduction == "l2":
        return x.square().sum(dim=0).sqrt()
    raise ArgumentError(f"reduction: got {reduction!r}; use mean_abs or l2")


def activate(x: torch.Tensor, activation: str) -> torch.Tensor:
    """act(x) for silu, gelu (by the error function) or gelu_tanh."""
    if activation == "silu":
        return nn.functional.silu(x)
    return nn.functional.gelu(x, approximate={"gelu": "none", "gelu_tanh": "tanh"}[activation])


def swiglu(gate: torch.Tensor, up: torch.Tensor, activation: str = "silu") -> torch.Tensor:
    """act(gate) * up, the input of the down projection."""
    return activate(gate, activation) * up


def swiglu_backward(
    gate: torch.Tensor, up: torch.Tensor, d_act: torch.Tensor, activation: str = "silu"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Backward pass of a = act(gate) * up: dloss/dgate, dloss/dup and a * dloss/da (float [T, N] each).

    Args:
        gate: [T, N].
        up: [T, N].
        d_act: dloss/da [T, N].
        activation: silu, gelu or gelu_tanh.
    """
    with torch.enable_grad():
        leaves = gate.detach().requires_grad_(), up.detach().requires_grad_()
        a = swiglu(*leaves, activation)
        d_gate, d_up = torch.autograd.grad(a, leaves, d_act)
    return d_gate, d_up, a.detach() * d_act


FLOAT8_MAX = 448.0  # of e4m3


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row as float8 (e4m3) times a scale, its largest magnitude / 448 ([T, H] -> float8 [T, H], float32 [T, 1]).

    A row of zeros has the scale 1 / 448.
    """
    largest = x.float().abs().amax(dim=1, keepdim=True)
    scales = torch.where(largest == 0, 1.0, largest) / FLOAT8_MAX
    return (x.float() / scales).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn), scales


def softmax_gradient(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Gradient of the summed cross-entropy by the logits (float [rows, V]): softmax minus one-hot of the labels."""
    return torch.softmax(logits, dim=-1) - nn.functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of the last dimension, x / sqrt(mean(x^2) + eps) * weight (float [..., H])."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


def norm_rotary(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
) -> torch.Tensor:
    """RMS norm over each head, then rotary embedding with rotated halves (float [T, heads, dim]).

    Args:
        x: queries or keys [T, heads, dim].
        weight: of the norm [dim]; None leaves the norm out.
        eps: added to the mean square.
        cos: [T, dim]; None, as sin, leaves the rotary embedding out.
        sin: [T, dim].
    """
    if weight is not None:
        x = rms_norm(x, weight, eps)
    if cos is None or sin is None:
        return x
    low, high = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat([-high, low], dim=-1) * sin[:, None]


def causal_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens: Array,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """softmax(scale q k^T) v inside each document, over the tokens up to one's own (float [T, heads, value_dim]).

    Args:
        query: [T, heads, dim].
        key: [T, kv_heads, dim]; heads is a multiple of kv_heads.
        value: [T, kv_heads, value_dim].
        cu_seqlens: int64 [n + 1], the documents' boundaries.
        scale: factor on the scores.
        window: tokens a query sees, itself included; None: all before it.
    """
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    out = query.new_empty((*query.shape[:2], value.shape[2]))
    for a, b in itertools.pairwise(cu_seqlens.tolist()):
        scores = torch.einsum("qhd,khd->hqk", query[a:b], key[a:b]) * scale
        position = torch.arange(b - a, device=query.device)
        behind = position[:, None] - position[None, :]
        hidden = (behind < 0) | (behind >= (b - a if window is None else window))
        weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1)
        out[a:b] = torch.einsum("hqk,khd->qhd", weights, value[a:b])
    return out


def topk(impacts: Array, k: int) -> Array:
    """Indices of the k largest, largest first, ties to the lower index (float [..., N] -> int64 [..., k]).

    Raises:
        ArgumentError: k outside 1..N, or an impact that is not a number.
    """
    impacts = np.asarray(impacts)
    if not 1 <= k <= impacts.shape[-1]:
        raise ArgumentError(f"k: got {k}; use 1 to {impacts.shape[-1]}, the neurons of a layer")
    if np.isnan(impacts).any():
        raise ArgumentError("impacts: not a number (NaN) among them; the backbone's arithmetic overflowed")
    order: Array = np.argsort(-impacts, axis=-1, kind="stable")
    return order[..., :k]


def projection_impacts(
    model: nn.Module, taps: Sequence[nn.Module], input_ids: Sequence[int], reduction: str = "mean_abs", repeat: int = 1
) -> Array:
    """Impacts of one document, run alone through the model (float32 [L, N]).

    Args:
        model: called as model(input_ids [1, T], use_cache=False).
        taps: per layer the module whose output is measured.
        input_ids: tokens of the document.
        reduction: mean_abs or l2.
        repeat: query heads per key/value head: att_k and att_v are repeated to the number of query heads.
    """
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            seen[layer] = output.detach()

        return hook

    handles = [tap.register_forward_hook(keep(i)) for i, tap in enumerate(taps)]
    try:
        with torch.no_grad():
            model(torch.tensor([list(input_ids)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    rows = []
    for layer in range(len(taps)):
        x = seen[layer].float()
        if repeat > 1:
            heads = x if x.ndim == 4 else None
            if heads is None:
                raise ArgumentError("repeat: needs a tap that keeps its heads ([1, T, heads, head_dim])")
            x = heads.repeat_interleave(repeat, dim=2)
        rows.append(impact(x.reshape(len(input_ids), -1), reduction))
    return torch.stack(rows).cpu().numpy()


def act_grad_impacts(
    model: nn.Module, down_projections: Sequence[nn.Module], input_ids: Sequence[int], reduction: str = "mean_abs"
) -> Array:
    """Activation-times-gradient impacts of one document by plain autograd (float [L, N]).

    Args:
        model: a causal LM, model(input_ids).logits.
        down_projections: per layer the module whose input is a.
        input_ids: at least 2 tokens; a document with fewer has no loss and no NAG.
        reduction: mean_abs or l2.
    """
    if len(input_ids) < 2:
        raise ArgumentError(f"input_ids: {len(input_ids)} tokens; act_grad needs at least 2")
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            inputs[0].retain_grad()
            seen[layer] = inputs[0]

        return hook

    handles = [m.register_forward_pre_hook(keep(i)) for i, m in enumerate(down_projections)]
    ids = torch.tensor([list(input_ids)])
    try:
        with torch.enable_grad():
            logits = model(ids, use_cache=False).logits
            nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    rows = []
    for layer in range(len(down_projections)):
        a = seen[layer]
        if a.grad is None:
            raise ArgumentError(f"model: no gradient reached the activations of layer {layer}")
        rows.append(impact((a * a.grad).detach().reshape(len(input_ids), -1), reduction))
    return torch.stack(rows).cpu().numpy()


# --- profile and similarity -------------------------------------------------------------------------------------------


def sentinel(num_neurons: int) -> int:
    """The index that fills the NAG of a document without one."""
    return 0xFFFF if num_neurons <= MAX_UINT16_NEURONS else 0xFFFF_FFFF


def profile_counts(nags: Array, num_neurons: int) -> tuple[Array, int]:
    """c_l[k], in how many NAGs neuron k of layer l is (int64 [L, N]), and how many documents had a NAG."""
    _, layers, _ = nags.shape
    counts = np.zeros((layers, num_neurons), dtype=np.int64)
    documents = 0
    for nag in nags:
        if nag[0, 0] == sentinel(num_neurons):
            continue
        documents += 1
        for layer in range(layers):
            for neuron in nag[layer]:
                counts[layer, neuron] += 1
    return counts, documents


def profile_weights(counts: Array, power: float = 1.0) -> Array:
    """w_l[k] = c_l[k]^p / sum_k c_l[k]^p (float64 [L, N]); a layer with no counts has weight 0."""
    raised = np.where(counts > 0, counts.astype(np.float64) ** power, 0.0)
    total = raised.sum(axis=1, keepdims=True)
    weights: Array = np.divide(raised, total, out=np.zeros_like(raised), where=total > 0)
    return weights


def similarity(nags: Array, weights: Array) -> Array:
    """s(d) = (1/L) sum_l sum_{k in NAG_l(d)} w_l[k] (float64 [n]); 0 for a document without a NAG."""
    layers, num_neurons = weights.shape
    scores = np.zeros(len(nags))
    for d, nag in enumerate(nags):
        if nag[0, 0] != sentinel(num_neurons):
            scores[d] = sum(weights[layer, nag[layer]].sum() for layer in range(layers)) / layers
    return scores


def integer_sums(nags: Array, counts: Array) -> Array:
    """sum_l sum_{k in NAG_l(d)} c_l[k] (int64 [n]): the exact numerator of the similarity at p = 1."""
    layers, num_neurons = counts.shape
    sums = np.zeros(len(nags), dtype=np.int64)
    for d, nag in enumerate(nags):
        if nag[0, 0] != sentinel(num_neurons):
            sums[d] = sum(int(counts[layer, nag[layer]].sum()) for layer in range(layers))
    return sums


def table_sums(nags: Array, table: Array) -> Array:
    """Sums of the table's rows over one layer's neurons (integers [rows, K] and [N, P] -> int64 [rows, P])."""
    sums: Array = table.astype(np.int64)[nags.astype(np.int64)].sum(axis=1)
    return sums


def overlap(a: Array, b: Array) -> float:
    """NAG similarity of two documents, (1/(L K)) sum_l |A_l and B_l in common|."""
    layers, k = a.shape
    shared = sum(len(set(a[layer].tolist()) & set(b[layer].tolist())) for layer in range(layers))
    return float(shared / (layers * k))


# --- selection --------------------------------------------------------------------------------------------------------


def select(
    distance: Array,
    docids: Sequence[str],
    amount: Sequence[float | None],
    fraction: float,
    total: int | None = None,
) -> list[int]:
    """Rows chosen, in order: sort by (distance, docid), keep the longest prefix within int(total * fraction).

    Args:
        distance: float64 [n], lower is better.
        docids: breaks exact ties.
        amount: tokens (or bytes, or ones) per row; None counts 0.
        fraction: share of the total amount to keep.
        total: the amount that the fraction is of; default: the sum over the rows.

    Returns:
        Row numbers. The first document alone where it is over budget by itself; nothing where the total is 0.
    """
    order = sorted(range(len(docids)), key=lambda i: (distance[i], docids[i]))
    sizes = [0 if amount[i] is None else amount[i] for i in order]
    total = int(sum(s for s in sizes if s is not None)) if total is None else total
    if total <= 0:
        return []
    budget = int(total * fraction)
    chosen, spent = [], 0.0
    for row, size in zip(order, sizes, strict=True):
        spent += size or 0
        if spent > budget:
            break
        chosen.append(row)
    return chosen or order[:1]


def minmax(values: Array) -> Array:
    """(v - min) / (max - min), all 0 where every value is equal (float64 [n])."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0 or values.min() == values.max():
        return np.zeros_like(values)
    return np.asarray((values - values.min()) / (values.max() - values.min()))


def quality_mix(distance: Array, quality: Array, *, higher_is_better: bool = False) -> Array:
    """Sum of both signals after min-max over the pool (float64 [n], lower is better); no quality may be missing."""
    normalised = minmax(quality)
    return minmax(distance) + (1.0 - normalised if higher_is_better else normalised)


def multi_target(
    distances: Sequence[Array],
    docids: Sequence[str],
    amount: Sequence[float | None],
    fraction: float,
    *,
    refill: bool = False,
) -> list[tuple[int, int]]:
    """(target, row) pairs over M targets, each of which selects fraction / M.

    Without refill the M selections are concatenated, repeats and all, as published. With refill the targets choose
    one after the other, each from the documents that no earlier target took, so every document is taken once and
    every target still gets its int(total * fraction / M).
    """
    share = fraction / len(distances)
    total = int(sum(a or 0 for a in amount))
    chosen: list[tuple[int, int]] = []
    free = list(range(len(docids)))
    for m, d in enumerate(distances):
        rows = [free[i] for i in select(d[free], [docids[i] for i in free], [amount[i] for i in free], share, total)]
        chosen += [(m, row) for row in rows]
        if refill:
            free = [i for i in free if i not in set(rows)]
    return chosen


def deactivation_keys(counts: Array, top_k: int) -> list[list[int]]:
    """Per layer the neurons found in most target NAGs, most frequent first, ties to the lower index."""
    keys = []
    for layer in counts:
        order = np.argsort(-layer, kind="stable")[:top_k]
        keys.append([int(k) for k in order if layer[k] > 0])
    return keys
