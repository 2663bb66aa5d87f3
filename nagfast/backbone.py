"""The frozen language model: loading, the impact taps, and the load-time check that packing and tapping are right."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nagfast import attention, env, ops, taps
from nagfast.errors import ArgumentError, NagfastError
from nagfast.fingerprints import model_fingerprint, tokenizer_fingerprint
from nagfast.fused_attention import FusedAttentions
from nagfast.mlp import FusedMlps
from nagfast.packing import PackedBatch
from nagfast.schema import NEURON_TYPES, NagSpec

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]

# Largest difference of an impact from the one-at-a-time run, as a share of the layer's largest impact.
CHECK_TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.06, torch.float16: 0.02}


# Neuron types that are measured before norm and rotary embedding are done: attention is not fused for them.
INSIDE_ATTENTION = frozenset({"att_q", "att_k", "att_v"})


@dataclass(frozen=True)
class Measure:
    """What to measure in a forward pass."""

    neuron_types: tuple[str, ...] = ("fwd_up",)
    """Any of NEURON_TYPES."""
    reduction: str = "mean_abs"
    """mean_abs or l2."""


class Backbone:
    """A frozen causal language model that measures neuron impacts.

    Attributes:
        model: the Hugging Face model; its parameters are frozen.
        tokenizer: its tokenizer.
        name: what it was loaded from.
        num_layers: L.
        layout: "packed" (documents end to end) or "equal_length" (documents of one length at a time), whichever the
            load-time check found right.
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
        self.layout = "packed"
        self._fused: FusedMlps | None = None
        self._attention: FusedAttentions | None = None

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        dtype: str = "auto",
        device: str = "auto",
        trust_remote_code: bool = False,
        check: bool = True,
    ) -> Backbone:
        """Load a causal language model from a local folder or a hub id and check it.

        Args:
            name: local folder, hub id, or "bundled".
            dtype: auto (bfloat16 on GPUs and on CPUs that multiply it in hardware, else float32), float32, bfloat16.
            device: auto, cpu, cuda or cuda:I.
            trust_remote_code: run model code that comes with the weights.
            check: compare packed batches with one-at-a-time runs; leave it on.

        Raises:
            ArgumentError: no such model, or a wrong dtype or device.
            NagfastError: the architecture cannot be tapped, or the check failed.
        """
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging as hf_logging

        label = str(name)
        if label == "bundled":
            from nagfast.bundled import MODEL

            name = MODEL
        where = pick_device(device)
        kind = pick_dtype(dtype, where)
        try:
            hf_logging.disable_progress_bar()
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=kind, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ArgumentError(
                f"--backbone: cannot load {str(name)!r} ({first}); give a hub id or a folder with config.json, "
                "weights and tokenizer"
            ) from None
        backbone = cls(model.to(where), tokenizer, label, where)
        backbone.prepare(check=check)
        return backbone

    @classmethod
    def bundled(cls, *, dtype: str = "auto", device: str = "auto") -> Backbone:
        """The small Qwen3-architecture model that comes with nagfast (model card in nagfast/bundled/model)."""
        return cls.load("bundled", dtype=dtype, device=device)

    # --- what it can measure ------------------------------------------------------------------------------------------

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
            dtype=str(self.dtype).removeprefix("torch."),
            device=self.device.type,
            versions=env.core_versions(),
        )

    # --- running it ---------------------------------------------------------------------------------------------------

    def nags(self, batch: PackedBatch, top_k: int, measure: Measure | None = None) -> dict[str, Array]:
        """NAGs of a packed batch by projection impact (uint16 or uint32 [n, L, K] per neuron type).

        Args:
            batch: documents of at least one token each.
            top_k: K.
            measure: neuron types and reduction.
        """
        measure = measure or Measure()
        documents = len(batch.rows)
        out = {
            t: torch.zeros(
                (documents, self.num_layers, top_k),
                dtype=ops.torch_index_dtype(self.num_neurons(t)),
                device=self.device,
            )
            for t in measure.neuron_types
        }
        broken = torch.zeros(1, dtype=torch.int32, device=self.device)

        def keep(neuron_type: str, layer: int, rows: slice, impacts: torch.Tensor) -> None:
            ops.topk(impacts, top_k, out=out[neuron_type][rows, layer], broken=broken)

        self._run(batch, measure, keep)
        ops.check_broken(broken)
        return {t: nags.cpu().numpy() for t, nags in out.items()}

    def impacts(self, batch: PackedBatch, measure: Measure | None = None) -> dict[str, Array]:
        """Projection impacts of a packed batch (float32 [n, L, N] per neuron type)."""
        measure = measure or Measure()
        documents = len(batch.rows)
        out = {
            # Not a number until measured: a tap that never fires fails every comparison.
            t: np.full((documents, self.num_layers, self.num_neurons(t)), np.nan, np.float32)
            for t in measure.neuron_types
        }

        def keep(neuron_type: str, layer: int, rows: slice, impacts: torch.Tensor) -> None:
            out[neuron_type][rows, layer] = impacts.cpu().numpy()

        self._run(batch, measure, keep)
        return out

    @torch.inference_mode()
    def _run(self, batch: PackedBatch, measure: Measure, keep: Any) -> None:
        """Forward without lm_head; calls keep(neuron_type, layer, rows, impacts float32 [documents, N])."""
        if len(batch.rows) == 0:
            return
        if self.layout == "packed":
            inputs = {
                "input_ids": torch.from_numpy(batch.input_ids)[None].to(self.device),
                "position_ids": torch.from_numpy(batch.position_ids)[None].to(self.device),
                "document_runs": batch.runs(),
            }
            self._forward(inputs, batch.cu_seqlens, slice(0, len(batch.rows)), measure, keep)
            return
        begin = 0
        for first, documents, length in batch.runs():
            ids = torch.from_numpy(batch.input_ids[first : first + documents * length]).view(documents, length)
            cu_seqlens = np.arange(documents + 1, dtype=np.int64) * length
            rows = slice(begin, begin + documents)
            self._forward({"input_ids": ids.to(self.device)}, cu_seqlens, rows, measure, keep)
            begin += documents

    def _forward(
        self, inputs: dict[str, Any], cu_seqlens: npt.NDArray[np.int64], rows: slice, measure: Measure, keep: Any
    ) -> None:
        fused = self._fused if measure.neuron_types else None
        length = inputs["input_ids"].shape[1]
        if self._attention is not None:
            self._attention.active = not INSIDE_ATTENTION.intersection(measure.neuron_types)
        try:
            with self._hooks(cu_seqlens, length, rows, measure, keep, fused):
                self.model.base_model(**inputs, use_cache=False)  # type: ignore[operator]
        finally:
            if self._attention is not None:
                self._attention.active = False

    @contextmanager
    def _hooks(
        self,
        cu_seqlens: npt.NDArray[np.int64],
        length: int,
        rows: slice,
        measure: Measure,
        keep: Any,
        fused: FusedMlps | None,
    ) -> Iterator[None]:
        """Taps in place for one forward pass; fwd_up is measured inside the fused MLPs where there are any."""
        handles = []

        def hook(tap: taps.Tap, neuron_type: str, layer: int) -> Any:
            def measure_output(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
                x = tap.cut(output if output.ndim > 2 else output[None], length).flatten(0, 1)
                impacts = ops.segment_impact(x, cu_seqlens, reduction=measure.reduction)
                keep(neuron_type, layer, rows, impacts)

            return measure_output

        try:
            for neuron_type in measure.neuron_types:
                if neuron_type == "fwd_up" and fused is not None:
                    continue
                for layer, tap in enumerate(self.taps[neuron_type]):
                    handles.append(tap.module.register_forward_hook(hook(tap, neuron_type, layer)))
            if fused is not None:
                fused.begin(
                    cu_seqlens,
                    measure.reduction,
                    (lambda layer, impacts: keep("fwd_up", layer, rows, impacts))
                    if "fwd_up" in measure.neuron_types
                    else None,
                    whole_last_layer="fwd_down" in measure.neuron_types,
                )
            yield
        finally:
            for handle in handles:
                handle.remove()
            if fused is not None:
                fused.end()

    # --- the load-time check ------------------------------------------------------------------------------------------

    def prepare(self, *, check: bool = True) -> None:
        """Choose the layout and install what is fused, checked against one-at-a-time runs of the stock model.

        Args:
            check: leave it on; without it nothing is compared, and attention stays as it is.

        Raises:
            NagfastError: neither layout agrees with one-at-a-time runs.
        """
        batch = self._check_batch()
        expected = self._expected(batch) if check else {}
        self._choose_layout(batch, expected)
        if check and self.layout == "packed" and self.device.type == "cpu":
            self._fuse_attention(batch, expected)

    def _choose_layout(self, batch: PackedBatch, expected: dict[str, Array]) -> None:
        everything = Measure(tuple(self.taps))
        stock = self.config._attn_implementation
        reasons: list[str] = []
        for layout in ("packed", "equal_length"):
            self.layout = layout
            self.model.set_attn_implementation(attention.NAME if layout == "packed" else stock)  # type: ignore[operator]
            self._fused = FusedMlps.install(self.layers) if self.device.type == "cpu" else None
            reason = self._difference(batch, expected, everything) if expected else None
            if reason is None:
                if reasons:
                    log.warning(
                        "%s: documents cannot be packed (%s); running equal lengths together", self.name, reasons[0]
                    )
                return
            reasons.append(reason)
            if self._fused is not None:
                self._fused.remove()
                self._fused = None
        raise NagfastError(f"backbone: {self.name} cannot be measured reliably: {'; '.join(reasons)}")

    def _fuse_attention(self, batch: PackedBatch, expected: dict[str, Array]) -> None:
        """Fuse norm and rotary embedding where the result stays the same: other rotary embeddings look alike."""
        self._attention = FusedAttentions.install(self.layers, self.config)
        if self._attention is None:
            return
        measure = Measure(tuple(t for t in self.taps if t not in INSIDE_ATTENTION))
        reason = self._difference(batch, expected, measure)
        if reason is not None:
            log.debug("%s: attention is not fused (%s)", self.name, reason)
            self._attention.remove()
            self._attention = None

    def _check_batch(self) -> PackedBatch:
        """A few random documents: single tokens, equal lengths, and one past a short sliding window."""
        window = getattr(self.config, "sliding_window", None) or 0
        limit = getattr(self.config, "max_position_embeddings", 2048)
        longest = min(window + 9 if 0 < window <= 512 else 67, limit)
        lengths = np.array([longest, *(n for n in (33, 17, 17, 5, 1, 1) if n < longest)])
        rng = np.random.default_rng(0)
        ids = rng.integers(0, int(self.config.vocab_size), size=int(lengths.sum()), dtype=np.int64)
        return PackedBatch(ids, np.concatenate([[0], np.cumsum(lengths)]), np.arange(len(lengths)))

    def _expected(self, batch: PackedBatch) -> dict[str, Array]:
        """Impacts of all neuron types, one document at a time; a type whose tap does not fit is dropped.

        Raises:
            NagfastError: fwd_up itself cannot be measured.
        """
        found: dict[str, Array] = {}
        for neuron_type in list(self.taps):
            try:
                found |= self._one_at_a_time(batch, Measure((neuron_type,)))
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                if neuron_type == "fwd_up":
                    raise NagfastError(f"backbone: {self.name} cannot be run: {str(error).splitlines()[0]}") from error
                log.info("%s: %s neurons cannot be measured", self.name, neuron_type)
                del self.taps[neuron_type]
        return found

    def _one_at_a_time(self, batch: PackedBatch, measure: Measure) -> dict[str, Array]:
        """The same documents, each in a forward pass of its own with the architecture's eager attention."""
        stock = self.config._attn_implementation
        self.model.set_attn_implementation("eager")  # type: ignore[operator]
        self.layout = "equal_length"
        parts: list[dict[str, Array]] = []
        try:
            for a, b in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
                single = PackedBatch(batch.input_ids[a:b], np.array([0, b - a]), np.array([0]))
                parts.append(self.impacts(single, measure))
        finally:
            self.model.set_attn_implementation(stock)  # type: ignore[operator]
        return {t: np.concatenate([p[t] for p in parts]) for t in measure.neuron_types}

    def _difference(self, batch: PackedBatch, expected: dict[str, Array], measure: Measure) -> str | None:
        """Why the present layout is wrong, or None."""
        attention.COUNTER.calls = 0
        try:
            # Twice: a second pass sees whatever the first one left behind in buffers.
            self.impacts(batch, measure)
            found = self.impacts(batch, measure)
        except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
            return str(error).splitlines()[0]
        if self.layout == "packed" and attention.COUNTER.calls != 2 * self.num_layers:
            calls = attention.COUNTER.calls // 2
            return f"the registered attention ran {calls} times in {self.num_layers} layers"
        tolerance = CHECK_TOLERANCE.get(self.dtype, 0.06)
        for neuron_type in measure.neuron_types:
            scale = np.abs(expected[neuron_type]).max(axis=(0, 2), keepdims=True)
            worst = float((np.abs(found[neuron_type] - expected[neuron_type]) / np.maximum(scale, 1e-30)).max())
            if not worst <= tolerance:
                where = f"{self.layout} {neuron_type} impacts"
                return f"{where} differ by {worst:.1e} of the layer's largest (limit {tolerance:.0e})"
        return None


def pick_device(device: str) -> torch.device:
    """The device for auto, cpu, cuda or cuda:I."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError:
        picked = torch.device("meta")
    if picked.type not in {"cpu", "cuda"}:
        raise ArgumentError(f"--device: got {device!r}; use auto, cpu, cuda or cuda:I")
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(f"--device: got {device!r}, but torch sees no CUDA device; use cpu or install a CUDA build")
    if picked.type == "cuda" and picked.index is not None and picked.index >= torch.cuda.device_count():
        raise ArgumentError(
            f"--device: got {device!r}; torch sees {torch.cuda.device_count()} CUDA devices, from cuda:0"
        )
    return picked


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The arithmetic for auto, float32 or bfloat16."""
    if dtype == "auto":
        fast = device.type == "cuda" or env.has_bfloat16_matrix()
        return torch.bfloat16 if fast else torch.float32
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in kinds:
        raise ArgumentError(f"--dtype: got {dtype!r}; use auto, float32 or bfloat16")
    if kinds[dtype] is torch.bfloat16 and device.type == "cpu" and not env.has_bfloat16_matrix():
        log.warning("--dtype bfloat16: this CPU has no bfloat16 matrix instructions; float32 is faster here")
    return kinds[dtype]


def _learned_positions(model: nn.Module, config: Any) -> int | None:
    """Length of the position table of a model that has one, else None."""
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    tokens = model.get_input_embeddings()  # type: ignore[operator]
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not tokens]
    if limit and any(limit <= m.num_embeddings <= limit + 8 for m in tables):
        return int(limit)
    return None
