"""The load-time check: a few random documents must measure packed as they do one at a time in the stock model."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from nagfast import attention
from nagfast.errors import NagfastError
from nagfast.generic import LAYOUTS, GenericTier
from nagfast.packing import PackedBatch
from nagfast.sinks import ImpactSink, Measure, Sink

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]

# Largest difference of an impact from the one-at-a-time run, as a share of the layer's largest impact.
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.06, torch.float16: 0.02}
# What a model raises that cannot take the batch it is given.
FAILURES = (ValueError, RuntimeError, TypeError, IndexError, AttributeError)


class Tier(Protocol):
    """A way to run the model."""

    def run(self, batch: PackedBatch, measure: Measure, sink: Sink) -> None:
        """Measure a batch of at least one document into a sink."""


class Check:
    """What a backbone's tiers are held against."""

    def __init__(self, generic: GenericTier, name: str, dtype: torch.dtype) -> None:
        """Run the stock model one document at a time.

        Args:
            generic: neuron types whose tap does not fit are dropped from its taps.
            name: of the backbone, for messages.
            dtype: of its arithmetic.

        Raises:
            NagfastError: fwd_up itself cannot be measured.
        """
        self.generic, self.name, self.tolerance = generic, name, TOLERANCE.get(dtype, 0.06)
        self.batch = check_batch(generic.config)
        self.expected: dict[str, Array] = {}
        generic.set_layout("equal_length", fuse=False)
        generic.set_attention("eager")
        for neuron_type in list(generic.taps):
            try:
                self.expected |= self._one_at_a_time(Measure((neuron_type,)))
            except FAILURES as error:
                if neuron_type == "fwd_up":
                    raise NagfastError(f"backbone: {name} cannot be run: {str(error).splitlines()[0]}") from error
                log.info("%s: %s neurons cannot be measured", name, neuron_type)
                del generic.taps[neuron_type]

    def _one_at_a_time(self, measure: Measure) -> dict[str, Array]:
        parts: list[dict[str, Array]] = []
        for a, b in pairwise(self.batch.cu_seqlens):
            single = PackedBatch(self.batch.input_ids[a:b], np.array([0, b - a]), np.array([0]))
            parts.append(impacts(self.generic, self.generic, single, measure))
        return {t: np.concatenate([p[t] for p in parts]) for t in measure.neuron_types}

    def choose_layout(self) -> attention.CallLog:
        """Set the first layout that is right, and say what its attention was called with.

        Raises:
            NagfastError: neither layout agrees with one-at-a-time runs.
        """
        reasons: list[str] = []
        layers = len(self.generic.layers)
        for layout in LAYOUTS:
            self.generic.set_layout(layout)
            with attention.watched() as calls:
                reason = self.difference(self.generic, tuple(self.generic.taps))
            if reason is None and layout == "packed" and calls.calls != 2 * layers:
                reason = f"the registered attention ran {calls.calls // 2} times in {layers} layers"
            if reason is None:
                if reasons:
                    log.warning(
                        "%s: documents cannot be packed (%s); running equal lengths together", self.name, reasons[0]
                    )
                return calls
            reasons.append(f"{layout} {reason}")
        raise NagfastError(f"backbone: {self.name} cannot be measured reliably: {'; '.join(reasons)}")

    def difference(self, tier: Tier, neuron_types: tuple[str, ...]) -> str | None:
        """Why what a tier measures is wrong, or None."""
        measure = Measure(neuron_types)
        try:
            # Twice: a second pass sees whatever the first one left behind in buffers.
            impacts(tier, self.generic, self.batch, measure)
            found = impacts(tier, self.generic, self.batch, measure)
        except FAILURES as error:
            return (str(error).splitlines() or [type(error).__name__])[0]
        for neuron_type in neuron_types:
            expected = self.expected[neuron_type]
            scale = np.maximum(np.abs(expected).max(axis=(0, 2), keepdims=True), 1e-30)
            worst = float((np.abs(found[neuron_type] - expected) / scale).max())
            if not worst <= self.tolerance:
                return (
                    f"{neuron_type} impacts differ by {worst:.1e} of the layer's largest (limit {self.tolerance:.0e})"
                )
        return None


def impacts(tier: Tier, generic: GenericTier, batch: PackedBatch, measure: Measure) -> dict[str, Array]:
    """Impacts by one tier (float32 [n, L, N] per neuron type)."""
    neurons = {t: generic.taps[t][0].neurons for t in measure.neuron_types}
    sink = ImpactSink(len(batch.rows), len(generic.layers), neurons, generic.device)
    if len(batch.rows):
        tier.run(batch, measure, sink)
    return sink.result()


def check_batch(config: Any) -> PackedBatch:
    """A few random documents: single tokens, equal lengths, and one past a short sliding window."""
    window = getattr(config, "sliding_window", None) or 0
    limit = getattr(config, "max_position_embeddings", 2048)
    longest = min(window + 9 if 0 < window <= 512 else 67, limit)
    return random_documents(config, [longest, *(n for n in (33, 17, 17, 5, 1, 1) if n < longest)])


def random_documents(config: Any, lengths: list[int]) -> PackedBatch:
    """Documents of random tokens, lengths falling."""
    ids = np.random.default_rng(0).integers(0, int(config.vocab_size), size=sum(lengths), dtype=np.int64)
    return PackedBatch(ids, np.concatenate([[0], np.cumsum(lengths)]), np.arange(len(lengths)))
