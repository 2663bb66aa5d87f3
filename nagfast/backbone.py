"""The frozen language model: what it can measure, and which way of running it is right.

Two tiers measure: the runner (runner.py) where a model is of the plain family, and hooks on the model's own forward
pass (generic.py) for everything else. Both are held against one-at-a-time runs of the stock model when it is loaded.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nagfast import attention, env, taps
from nagfast.checking import Check, Tier, impacts
from nagfast.errors import ArgumentError, NagfastError
from nagfast.fingerprints import model_fingerprint, tokenizer_fingerprint
from nagfast.float8 import Float8Report, float8_tier
from nagfast.generic import GenericTier
from nagfast.loading import load_model, pick_device, pick_dtype, require_float8
from nagfast.packing import PackedBatch
from nagfast.plain import NotPlainError, find_plain
from nagfast.runner import NEURON_TYPES as FAST_TYPES
from nagfast.runner import FastTier
from nagfast.schema import NEURON_TYPES, NagSpec
from nagfast.sinks import Measure, NagSink, Pending, Sink, SumSink

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
TIERS = ("auto", "fast", "generic")

__all__ = ["Backbone", "Measure"]


class Backbone:
    """A frozen causal language model that measures neuron impacts.

    Attributes:
        model: the Hugging Face model; its parameters are frozen.
        tokenizer: its tokenizer.
        name: what it was loaded from.
        num_layers: L.
        taps: per neuron type where each layer is measured.
        generic: runs any architecture.
        fast: runs this one, where it is of the plain family; else None.
        tier_reason: why the tier is what it is, in a few words.
        float8_report: what float8 products do to the NAGs; None where there are none.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, name: str, device: torch.device) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.device = device
        self.config = model.config.get_text_config()  # type: ignore[operator, union-attr]
        self.num_layers = int(self.config.num_hidden_layers)
        self.layers = taps.decoder_layers(model, self.num_layers)
        self.dtype = next(model.parameters()).dtype
        self.fingerprint = model_fingerprint(model, self.config)
        self.max_positions = _learned_positions(model, self.config)
        self.tokenizer_fingerprint = tokenizer_fingerprint(tokenizer)
        self.taps = {t: found for t in NEURON_TYPES if (found := self._find_taps(t)) is not None}
        if "fwd_up" not in self.taps:
            raise NagfastError(
                f"backbone: {name} ({type(model).__name__}) has no up projection that sees every token "
                "(mixture of experts?); use a model with a plain or gated MLP"
            )
        self.generic = GenericTier(model, self.config, self.layers, self.taps, device)
        self.fast: FastTier | None = None
        self.tier_reason = "not prepared"
        self.float8_report: Float8Report | None = None
        self._table: tuple[Array, torch.Tensor] | None = None

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        dtype: str = "auto",
        device: str = "auto",
        trust_remote_code: bool = False,
        check: bool = True,
        tier: str = "auto",
    ) -> Backbone:
        """Load a causal language model from a local folder or a hub id and check it.

        Args:
            name: local folder, hub id, or "bundled".
            dtype: auto (bfloat16 on GPUs and on CPUs that multiply it in hardware, else float32), float32, bfloat16,
                float8 (see use_float8).
            device: auto, cpu, cuda or cuda:I.
            trust_remote_code: run model code that comes with the weights.
            check: compare packed batches with one-at-a-time runs; leave it on.
            tier: auto, fast or generic, see prepare.

        Raises:
            ArgumentError: no such model, or a wrong dtype, device or tier.
            NagfastError: the architecture cannot be tapped, or the check failed.
        """
        where = pick_device(device)
        kind = pick_dtype(dtype, where)
        model, tokenizer = load_model(name, kind, where, trust_remote_code=trust_remote_code)
        backbone = cls(model, tokenizer, str(name), where)
        backbone.prepare(check=check, tier=tier)
        if dtype == "float8":
            backbone.use_float8()
        return backbone

    @classmethod
    def bundled(cls, *, dtype: str = "auto", device: str = "auto") -> Backbone:
        """The small Qwen3-architecture model that comes with nagfast (model card in nagfast/bundled/model)."""
        return cls.load("bundled", dtype=dtype, device=device)

    # --- what it can measure ------------------------------------------------------------------------------------------

    @property
    def layout(self) -> str:
        """How the generic tier runs: "packed" (end to end) or "equal_length" (documents of one length at once)."""
        return self.generic.layout

    @property
    def tier(self) -> str:
        """What measures fwd_up: "fast" or "generic"."""
        return "generic" if self.fast is None else "fast"

    def _find_taps(self, neuron_type: str) -> list[taps.Tap] | None:
        found = [taps.find_tap(layer, neuron_type, self.config) for layer in self.layers]
        whole = [t for t in found if t is not None]
        if len(whole) != self.num_layers or len({t.neurons for t in whole}) != 1:
            return None
        return whole

    def num_neurons(self, neuron_type: str = "fwd_up") -> int:
        """N, the neurons of a layer.

        Raises:
            ArgumentError: the architecture has no such neurons.
        """
        if neuron_type not in self.taps:
            raise ArgumentError(
                f"--neurons: {self.name} has no {neuron_type} neurons of one width; it has {', '.join(self.taps)}"
            )
        return self.taps[neuron_type][0].neurons

    def spec(
        self,
        *,
        top_k: int = 20,
        neuron_type: str = "fwd_up",
        impact: str = "projection",
        reduction: str = "mean_abs",
        max_length: int = 120,
    ) -> NagSpec:
        """The identity and provenance of NAGs that this backbone makes with these settings.

        Raises:
            ArgumentError: a setting outside its range, or a max_length beyond the model's position table.
        """
        if self.max_positions is not None and max_length > self.max_positions:
            raise ArgumentError(
                f"--max-length: got {max_length}; {self.name} has a table of {self.max_positions} positions"
            )
        return NagSpec(
            fingerprint=self.fingerprint,
            num_layers=self.num_layers,
            num_neurons=self.num_neurons(neuron_type),
            top_k=top_k,
            neuron_type=neuron_type,
            impact=impact,
            reduction=reduction,
            max_length=max_length,
            tokenizer=self.tokenizer_fingerprint,
            backbone=self.name,
            dtype=self._arithmetic(neuron_type, impact),
            device=self.device.type,
            versions=env.core_versions(),
        )

    def _arithmetic(self, neuron_type: str, impact: str) -> str:
        """What the spec records as dtype: float8 only where some product of the measurement is."""
        used = self.float8_report is not None and any(self.float8_report.products.values())
        if used and impact == "projection" and neuron_type in FAST_TYPES:
            return "float8"
        return str(self.dtype).removeprefix("torch.")

    # --- running it ---------------------------------------------------------------------------------------------------

    def start_nags(self, batch: PackedBatch, top_k: int, measure: Measure | None = None) -> Pending[dict[str, Array]]:
        """Begin to measure a packed batch by projection impact; the result is a dictionary as nags gives it.

        On a GPU it returns before the work is done, and result() waits; an impact that is not a number is an
        ArgumentError there. On the CPU everything is done at once.

        Args:
            batch: documents of at least one token each.
            top_k: K.
            measure: neuron types and reduction.
        """
        measure = measure or Measure()
        neurons = {t: self.num_neurons(t) for t in measure.neuron_types}
        sink = NagSink(len(batch.rows), self.num_layers, neurons, top_k, self.device)
        self._run(batch, measure, sink)
        return sink.pending()

    def nags(self, batch: PackedBatch, top_k: int, measure: Measure | None = None) -> dict[str, Array]:
        """NAGs of a packed batch by projection impact (uint16 or uint32 [n, L, K] per neuron type).

        Args:
            batch: documents of at least one token each.
            top_k: K.
            measure: neuron types and reduction.

        Raises:
            ArgumentError: an impact was not a number.
        """
        return self.start_nags(batch, top_k, measure).result()

    def start_sums(
        self,
        batch: PackedBatch,
        table: Array,
        top_k: int,
        *,
        neuron_type: str = "fwd_up",
        reduction: str = "mean_abs",
    ) -> Pending[npt.NDArray[np.int64]]:
        """Begin to score a packed batch against profiles; no NAG is ever written. The result is int64 [n, P].

        Args:
            batch: documents of at least one token each.
            table: uint16 or uint32 [L, N, P], P profiles side by side, as ops.score takes it; kept on the device until
                another one comes, so give the same array again.
            top_k: K.
            neuron_type: one of NEURON_TYPES.
            reduction: mean_abs or l2.

        Raises:
            ArgumentError: a table of another shape.
        """
        neurons = self.num_neurons(neuron_type)
        if table.ndim != 3 or table.shape[:2] != (self.num_layers, neurons):
            raise ArgumentError(f"table: got {list(table.shape)}; give [{self.num_layers}, {neurons}, profiles]")
        if self._table is None or self._table[0] is not table:
            self._table = table, torch.from_numpy(np.ascontiguousarray(table)).to(self.device)
        sink = SumSink(len(batch.rows), self._table[1], top_k)
        self._run(batch, Measure((neuron_type,), reduction), sink)
        return sink.pending()

    def impacts(self, batch: PackedBatch, measure: Measure | None = None) -> dict[str, Array]:
        """Projection impacts of a packed batch (float32 [n, L, N] per neuron type)."""
        measure = measure or Measure()
        return impacts(self._tier_for(measure), self.generic, batch, measure)

    def _tier_for(self, measure: Measure) -> Tier:
        if self.fast is not None and FAST_TYPES.issuperset(measure.neuron_types):
            return self.fast
        return self.generic

    def _run(self, batch: PackedBatch, measure: Measure, sink: Sink) -> None:
        if len(batch.rows):
            self._tier_for(measure).run(batch, measure, sink)

    # --- the load-time check ------------------------------------------------------------------------------------------

    def prepare(self, *, check: bool = True, tier: str = "auto") -> None:
        """Choose the layout and the tier, checked against one-at-a-time runs of the stock model.

        Args:
            check: leave it on; without it nothing is compared, and the generic tier runs packed.
            tier: auto (fast where that is right), fast (or an error) or generic.

        Raises:
            ArgumentError: another tier, or fast where that is not possible.
            NagfastError: neither layout agrees with one-at-a-time runs.
        """
        if tier not in TIERS:
            raise ArgumentError(f"tier: got {tier!r}; use one of {', '.join(TIERS)}")
        self.fast, self.float8_report = None, None
        if not check:
            self.generic.set_layout("packed")
            self.tier_reason = "not checked"
        else:
            checked = Check(self.generic, self.name, self.dtype)
            calls = checked.choose_layout()
            self.tier_reason = "asked for"
            if tier != "generic":
                self.fast = self._checked_fast_tier(checked, calls)
        if tier == "fast" and self.fast is None:
            raise ArgumentError(f"tier: {self.name} has no fast tier ({self.tier_reason}); use auto or generic")

    def _checked_fast_tier(self, check: Check, calls: attention.CallLog) -> FastTier | None:
        """The runner where the model is of the plain family and it measures the same; else None, the reason noted."""
        try:
            if self.layout != "packed":
                raise NotPlainError("documents cannot be packed")
            base = self.model.base_model
            assert isinstance(base, nn.Module)
            fast = FastTier(find_plain(base, self.layers, self.config, calls.scoring), self.device)
            reason = check.difference(fast, tuple(t for t in self.taps if t in FAST_TYPES))
            if reason is not None:
                raise NotPlainError(f"it looks plain, but {reason}")
        except NotPlainError as error:
            self.tier_reason = str(error)
            level = logging.WARNING if self.device.type == "cuda" else logging.DEBUG  # a user pays for a GPU
            log.log(level, "%s: generic tier (%s)", self.name, error)
            return None
        self.tier_reason = "plain family, checked"
        return fast

    def use_float8(self, *, emulate: bool = False) -> None:
        """Multiply in float8 from now on where that is faster on this device, and say what it does to the NAGs.

        Projection impacts of the fast tier only; everything else stays in bfloat16.

        Args:
            emulate: on any device, for all products, in float32 arithmetic on quantised values (slow; for tests).

        Raises:
            ArgumentError: a device without float8 products, another arithmetic than bfloat16, or no fast tier.
        """
        if not emulate:
            require_float8(self.device)
        if self.dtype != torch.bfloat16:
            raise ArgumentError(f"--dtype: float8 is made from bfloat16 weights, {self.name} is in {self.dtype}")
        if self.fast is None:
            raise ArgumentError(
                f"--dtype: float8 needs the fast tier, which {self.name} does not have ({self.tier_reason}); "
                "use bfloat16"
            )
        self.fast, self.float8_report = float8_tier(self.fast, self.config, emulate=emulate)
        log.info("%s: %s", self.name, self.float8_report)


def _learned_positions(model: nn.Module, config: Any) -> int | None:
    """Length of the position table of a model that has one, else None."""
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    tokens = model.get_input_embeddings()  # type: ignore[operator]
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not tokens]
    if limit and any(limit <= m.num_embeddings <= limit + 8 for m in tables):
        return int(limit)
    return None
