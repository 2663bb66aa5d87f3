"""What nagfast is compared with: the ways of the published pipeline, written anew in a few lines each.

`padded_nags` does per batch what that pipeline does: the documents in the order given, eight at a time, padded on the
left; a whole forward pass with eager attention, a mask and lm_head; the up projection evaluated a second time for its
scores; the masked mean of |u|; torch.topk; Python lists. The published code also scores the five other neuron types in
every pass; that work is left out here, so this baseline is the faster of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Array = npt.NDArray[Any]
BATCH = 8


def pad_left(tokens: Sequence[Array], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (int64 [n, longest]) of some documents, padding first."""
    longest = max(len(t) for t in tokens)
    ids = torch.full((len(tokens), longest), pad_id)
    mask = torch.zeros((len(tokens), longest), dtype=torch.int64)
    for row, document in enumerate(tokens):
        ids[row, longest - len(document) :] = torch.from_numpy(document)
        mask[row, longest - len(document) :] = 1
    return ids, mask


@contextmanager
def attention(model: nn.Module, name: str = "eager") -> Iterator[None]:
    """Stock attention (eager or sdpa) inside, whatever was set before afterwards."""
    before = model.config._attn_implementation  # type: ignore[union-attr]
    model.set_attn_implementation(name)  # type: ignore[operator]
    try:
        yield
    finally:
        model.set_attn_implementation(before)  # type: ignore[operator]


@torch.inference_mode()
def padded_impacts(
    model: nn.Module, layers: nn.ModuleList, ids: torch.Tensor, mask: torch.Tensor, *, exact_sums: bool = False
) -> torch.Tensor:
    """Masked means of |u| by a whole padded forward pass (float32 [n, L, N]); lm_head runs and is thrown away.

    The means come in the dtype of the model, as published; exact_sums adds up in float32, which is what a check can
    compare with: means of bfloat16 have ties wherever one looks.
    """
    weight = mask.unsqueeze(-1)
    count = weight.sum(dim=1).clamp_min(1e-6)
    scores: list[torch.Tensor] = []

    def score_again(mlp: nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        up = mlp.up_proj(inputs[0])  # type: ignore[operator]
        up = up.float() if exact_sums else up
        scores.append((up.abs() * weight).sum(dim=1) / count)

    handles = [layer.mlp.register_forward_hook(score_again) for layer in layers]  # type: ignore[union-attr, operator]
    try:
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(scores).transpose(0, 1).contiguous().float()


def padded_nags(
    model: nn.Module,
    layers: nn.ModuleList,
    tokens: Sequence[Array],
    top_k: int,
    *,
    batch: int = BATCH,
    exact_sums: bool = False,
) -> list[list[list[int]]]:
    """NAGs as nested lists [n][L][K]; the model must be in eager attention (see attention)."""
    nags: list[list[list[int]]] = []
    device = next(model.parameters()).device
    for begin in range(0, len(tokens), batch):
        ids, mask = pad_left(tokens[begin : begin + batch], 0)
        impacts = padded_impacts(model, layers, ids.to(device), mask.to(device), exact_sums=exact_sums)
        nags.extend(torch.topk(impacts, k=top_k, dim=2, largest=True, sorted=True).indices.cpu().tolist())
    return nags


@torch.inference_mode()
def forward_only(model: nn.Module, tokens: Sequence[Array], batch_tokens: int, *, head: bool) -> None:
    """A plain forward pass that measures nothing: what the model itself costs. In sdpa attention, shortest first.

    Args:
        model: a causal language model.
        tokens: documents; those of a batch are padded to the longest, and have no mask where all are equally long.
        batch_tokens: tokens per step, padding included.
        head: with lm_head (logits of all tokens) or without.
    """
    device = next(model.parameters()).device
    module = model if head else model.base_model
    ordered = sorted(tokens, key=len)
    begin = 0
    while begin < len(ordered):
        end = begin + 1
        while end < len(ordered) and len(ordered[end]) * (end + 1 - begin) <= batch_tokens:
            end += 1
        ids, mask = pad_left(ordered[begin:end], 0)
        needed = None if bool(mask.all()) else mask.to(device)
        module(input_ids=ids.to(device), attention_mask=needed, use_cache=False)  # type: ignore[operator]
        begin = end


def padded_act_grad_impacts(
    model: nn.Module, layers: nn.ModuleList, ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Masked means of |a * dloss/da| by autograd on the whole model (float32 [n, L, N]).

    Activations before the down projections are retained, logits are whole. Parameters that require a gradient get one,
    which is thrown away.
    """
    kept: list[torch.Tensor] = []

    def retain(_down: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        inputs[0].retain_grad()
        kept.append(inputs[0])

    handles = [layer.mlp.down_proj.register_forward_pre_hook(retain) for layer in layers]  # type: ignore[union-attr]
    try:
        with torch.enable_grad():
            embedded = model.get_input_embeddings()(ids).detach().requires_grad_()  # type: ignore[operator]
            logits = model(inputs_embeds=embedded, attention_mask=mask, use_cache=False).logits
            labels = ids[:, 1:].masked_fill(mask[:, :-1] == 0, -100)  # the padding does not predict the first token
            nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels.flatten(), reduction="sum"
            ).backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    weight = mask.unsqueeze(-1)
    count = weight.sum(dim=1)
    means = [((a.detach().float() * a.grad.float()).abs() * weight).sum(dim=1) / count for a in kept]  # type: ignore[union-attr]
    return torch.stack(means).transpose(0, 1).contiguous().float()


def padded_act_grad_nags(
    model: nn.Module, layers: nn.ModuleList, tokens: Sequence[Array], top_k: int
) -> list[list[list[int]]]:
    """NAGs as nested lists [n][L][K], eight documents at a time; the model must be in eager attention."""
    nags: list[list[list[int]]] = []
    device = next(model.parameters()).device
    for begin in range(0, len(tokens), BATCH):
        ids, mask = pad_left(tokens[begin : begin + BATCH], 0)
        impacts = padded_act_grad_impacts(model, layers, ids.to(device), mask.to(device))
        nags.extend(torch.topk(impacts, k=top_k, dim=2, largest=True, sorted=True).indices.cpu().tolist())
    return nags


@contextmanager
def trainable(model: nn.Module) -> Iterator[None]:
    """Parameters that require a gradient inside, as a model comes out of from_pretrained; frozen afterwards."""
    model.requires_grad_(True)
    try:
        yield
    finally:
        model.requires_grad_(False)


def gathered_similarity(nags: Array, weights: Array) -> npt.NDArray[np.float64]:
    """Similarity to a profile by one numpy gather a layer, float64 throughout.

    Args:
        nags (uint16 [n, L, K]): as stored; widened to int64 first, as the published routine does.
        weights (float64 [L, N]): the profile's, zero where a neuron is not in it.
    """
    wide = nags.astype(np.int64)
    total = np.zeros(len(nags))
    for layer, row in enumerate(weights):
        known = np.flatnonzero(row)
        if len(known) == 0:
            continue
        limit = int(known[-1])
        index = wide[:, layer, :]
        inside = (index >= 0) & (index <= limit)
        total += (row[: limit + 1][np.where(inside, index, 0)] * inside).sum(axis=1)
    return total / len(weights)
