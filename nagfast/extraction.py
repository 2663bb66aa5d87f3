"""Text -> NAGs in memory: tokenise, pack, run the backbone, keep the top K; extract_job.py does it for files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast.backbone import Backbone
from nagfast.errors import ArgumentError
from nagfast.gradients import batch_tokens_for, start_act_grad_nags
from nagfast.overlap import map_ahead
from nagfast.packing import PackedBatch
from nagfast.prefix import Ints, encode_first
from nagfast.progress import Progress
from nagfast.schema import NagBatch, NagSpec
from nagfast.sinks import Measure
from nagfast.steps import Awaited, Steps

Array = npt.NDArray[Any]
Nags = dict[str, Array]

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
WINDOW = 8192  # documents sorted by length together in the in-memory call


def extract(
    texts: Sequence[str],
    backbone: Backbone,
    *,
    top_k: int = 20,
    max_length: int = 120,
    neurons: str = "fwd_up",
    impact: str = "projection",
    reduction: str = "mean_abs",
    batch_tokens: int | None = None,
) -> NagBatch:
    """NAGs of some texts, in memory.

    Args:
        texts: documents; an empty one gets the sentinel.
        backbone: the frozen model.
        top_k: K, neurons kept per layer.
        max_length: tokens kept of each document.
        neurons: neuron type, one of nagfast.schema.NEURON_TYPES.
        impact: projection or act_grad (fwd_up only).
        reduction: mean_abs or l2.
        batch_tokens: tokens per step, default 2,048 on CPU and 16,384 on GPU, fewer where act_grad would not fit
            the memory.

    Returns:
        NagBatch with indices uint16 [n, L, K] (uint32 above 65,535 neurons), in the order of the texts.

    Raises:
        ArgumentError: an argument outside its range, or a text that is not a string.
    """
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ArgumentError(f"texts: item {i} is a {type(text).__name__}; give strings")
    spec = backbone.spec(top_k=top_k, neuron_type=neurons, impact=impact, reduction=reduction, max_length=max_length)
    cuts = [texts[begin : begin + WINDOW] for begin in range(0, max(1, len(texts)), WINDOW)]
    windows: list[NagPart] = []

    def tokenised() -> Iterator[NagPart]:
        for tokens in map_ahead(lambda cut: encode_first(backbone.tokenizer, cut, max_length), cuts):
            windows.append(NagPart(tokens, {neurons: spec}))
            yield windows[-1]

    for _ in nag_steps(backbone, {neurons: spec}, batch_tokens).run(tokenised()):
        pass
    parts = [NagBatch(part.nags[neurons], lengths(part.tokens), spec) for part in windows]
    return parts[0] if len(parts) == 1 else NagBatch.concatenate(parts)


def lengths(tokens: Sequence[Ints]) -> npt.NDArray[np.int32]:
    """Tokens per document (int32 [n])."""
    return np.fromiter((len(t) for t in tokens), dtype=np.int32, count=len(tokens))


class NagPart:
    """Some documents and their NAGs, one array [n, L, K] per neuron type; the sentinel where there are no tokens."""

    def __init__(self, tokens: Sequence[Ints], specs: dict[str, NagSpec], progress: Progress | None = None) -> None:
        self.tokens = tokens
        self.nags = {
            name: np.full((len(tokens), s.num_layers, s.top_k), s.sentinel, s.index_dtype) for name, s in specs.items()
        }
        self._progress = progress

    def take(self, batch: PackedBatch, result: Nags) -> None:
        """Keep the NAGs of some of the documents."""
        for name, indices in result.items():
            self.nags[name][batch.rows] = indices
        if self._progress is not None:
            self._progress.advance(len(batch.rows), len(batch.input_ids))


def nag_steps(backbone: Backbone, specs: dict[str, NagSpec], batch_tokens: int | None = None) -> Steps[Nags]:
    """Steps whose results are NAGs by neuron type."""
    budget = batch_tokens or default_batch_tokens(backbone, next(iter(specs.values())).impact)
    return Steps(_start(backbone, specs), budget, backbone.device)


def token_nags(
    backbone: Backbone,
    tokens: Sequence[Ints],
    specs: dict[str, NagSpec],
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Array]:
    """NAGs of tokenised documents, one array [n, L, K] per neuron type; the sentinel where there are no tokens.

    Where the device runs out of memory the batch is cut in half and tried again; no document is lost.
    """
    part = NagPart(tokens, specs, progress)
    for _ in nag_steps(backbone, specs, batch_tokens).run([part]):
        pass
    return part.nags


def default_batch_tokens(backbone: Backbone, impact: str) -> int:
    """Tokens per step where none are asked for; act_grad keeps activations, so free memory counts."""
    most = BATCH_TOKENS[backbone.device.type]
    return batch_tokens_for(backbone, most) if impact == "act_grad" else most


def _start(backbone: Backbone, specs: dict[str, NagSpec]) -> Callable[[PackedBatch], Awaited[Nags]]:
    spec = next(iter(specs.values()))
    # K may differ between neuron types only through --top-ratio: each K has a pass of its own.
    by_k: dict[int, list[str]] = {}
    for name, each in specs.items():
        by_k.setdefault(each.top_k, []).append(name)

    def start(batch: PackedBatch) -> Awaited[Nags]:
        if spec.impact == "act_grad":
            return _ActGrad(start_act_grad_nags(backbone, batch, spec.top_k, spec.reduction))
        measures = [(k, Measure(tuple(names), spec.reduction)) for k, names in by_k.items()]
        return _Together([backbone.start_nags(batch, top_k, measure) for top_k, measure in measures])

    return start


@dataclass(frozen=True)
class _Together:
    """Several results as one."""

    pending: list[Awaited[Nags]]

    def result(self) -> Nags:
        return {name: indices for each in self.pending for name, indices in each.result().items()}


@dataclass(frozen=True)
class _ActGrad:
    """NAGs under the name of their neuron type."""

    pending: Awaited[Array]

    def result(self) -> Nags:
        return {"fwd_up": self.pending.result()}
