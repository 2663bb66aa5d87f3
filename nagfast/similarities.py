"""Packed documents -> similarity to target profiles, with nothing kept: the sums are looked up where the NAGs are made.

Equal to the bit to extracting NAGs and scoring them: the sums are integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast.backbone import Backbone
from nagfast.errors import ArgumentError
from nagfast.extraction import default_batch_tokens
from nagfast.gradients import start_act_grad_nags
from nagfast.packing import PackedBatch
from nagfast.prefix import Ints
from nagfast.profile_tables import profile_tables, similarities_of_nags
from nagfast.progress import Progress
from nagfast.sinks import Measure
from nagfast.steps import Awaited, Steps
from nagfast.targets import TargetProfile

Floats = npt.NDArray[np.float64]


class SimilarityPart:
    """Some documents and their similarities (float64 [n, P]); 0 where there are no tokens."""

    def __init__(self, tokens: Sequence[Ints], profiles: int, progress: Progress | None = None) -> None:
        self.tokens = tokens
        self.similarities = np.zeros((len(tokens), profiles))
        self._progress = progress

    def take(self, batch: PackedBatch, result: Floats) -> None:
        """Keep the similarities of some of the documents."""
        self.similarities[batch.rows] = result
        if self._progress is not None:
            self._progress.advance(len(batch.rows), len(batch.input_ids))


class Similarities:
    """A backbone and one or several profiles.

    Attributes:
        spec: how the NAGs are made that are looked up, K the largest of the profiles.
        notes: differences between the profiles and the backbone that are allowed but worth knowing.
    """

    def __init__(self, backbone: Backbone, profiles: Mapping[str, TargetProfile]) -> None:
        """Check that they belong together.

        Args:
            backbone: the one that the profiles' NAGs were made with.
            profiles: name -> profile.

        Raises:
            ArgumentError: no profile.
            SpecMismatchError: profiles that differ from the backbone or from each other in more than K.
        """
        if not profiles:
            raise ArgumentError("profiles: got none; give at least one")
        first = next(iter(profiles.values())).spec
        self.backbone = backbone
        self.spec = backbone.spec(
            top_k=max(p.spec.top_k for p in profiles.values()),
            neuron_type=first.neuron_type,
            impact=first.impact,
            reduction=first.reduction,
            max_length=first.max_length,
        )
        notes = []
        for name, profile in profiles.items():
            profile.require_comparable(self.spec, "the backbone", f"profile {name}")
            notes += [f"profile {name} and the backbone: {n}" for n in profile.spec.provenance_notes(self.spec)]
        self.notes = list(dict.fromkeys(notes))
        self._tables = profile_tables(list(profiles.values()))
        self._start = self._starter()

    def without_nag(self, tokens: Sequence[Ints]) -> int:
        """How many of some documents have no NAG, and so similarity 0."""
        least = 2 if self.spec.impact == "act_grad" else 1
        return sum(len(t) < least for t in tokens)

    def steps(self, batch_tokens: int | None = None) -> Steps[Floats]:
        """Steps whose results are similarities (float64 [documents, P]).

        Args:
            batch_tokens: tokens per step; default as in extract.
        """
        budget = batch_tokens or default_batch_tokens(self.backbone, self.spec.impact)
        return Steps(self._start, budget, self.backbone.device)

    def _starter(self) -> Callable[[PackedBatch], Awaited[Floats]]:
        backbone, spec, tables = self.backbone, self.spec, self._tables

        def from_nags(indices: Any) -> Floats:
            return similarities_of_nags(tables, indices)

        def from_act_grad(batch: PackedBatch) -> Awaited[Floats]:
            return _Then(start_act_grad_nags(backbone, batch, spec.top_k, spec.reduction), from_nags)

        def from_sums(batch: PackedBatch) -> Awaited[Floats]:
            pending = backbone.start_sums(
                batch, tables[0].table, tables[0].top_k, neuron_type=spec.neuron_type, reduction=spec.reduction
            )
            return _Then(pending, tables[0].similarities)

        def from_projection(batch: PackedBatch) -> Awaited[Floats]:
            measure = Measure((spec.neuron_type,), spec.reduction)
            pending = backbone.start_nags(batch, spec.top_k, measure)
            return _Then(pending, lambda found: from_nags(found[spec.neuron_type]))

        if spec.impact == "act_grad":
            return from_act_grad
        return from_sums if len(tables) == 1 else from_projection  # one pass serves several K by its largest


@dataclass(frozen=True)
class _Then:
    """A result, and what is made of it on the host."""

    pending: Awaited[Any]
    call: Callable[[Any], Floats]

    def result(self) -> Floats:
        return self.call(self.pending.result())
