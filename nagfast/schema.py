"""What a NAG is and where it came from: NagSpec (identity and provenance) and NagBatch (the indices)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from nagfast.errors import ArgumentError, SpecMismatchError

NEURON_TYPES = ("fwd_up", "fwd_down", "att_q", "att_k", "att_v", "att_o")
IMPACTS = ("projection", "act_grad")
REDUCTIONS = ("mean_abs", "l2")
MAX_UINT16_NEURONS = 65_535  # 0xFFFF is the sentinel

# Two NAGs compare only where all of these agree; everything else is provenance.
IDENTITY = (
    "fingerprint",
    "num_layers",
    "num_neurons",
    "neuron_type",
    "impact",
    "reduction",
    "max_length",
    "tokenizer",
)


@dataclass(frozen=True)
class NagSpec:
    """How a set of NAGs was made. Identity first, provenance after it."""

    fingerprint: str
    """SHA-256 (first 16 hex digits) over the backbone's weights."""
    num_layers: int
    """L, decoder layers."""
    num_neurons: int
    """N, neurons per layer of this neuron type."""
    top_k: int
    """K, neurons kept per layer."""
    neuron_type: str = "fwd_up"
    """One of NEURON_TYPES."""
    impact: str = "projection"
    """One of IMPACTS."""
    reduction: str = "mean_abs"
    """One of REDUCTIONS."""
    max_length: int = 120
    """Tokens kept of each document."""
    tokenizer: str = ""
    """SHA-256 (first 16 hex digits) over the tokenizer's definition."""
    backbone: str = ""
    """Name or path the backbone was loaded from (provenance)."""
    dtype: str = ""
    """Arithmetic of the backbone (provenance)."""
    device: str = ""
    """Device type the backbone ran on (provenance)."""
    versions: dict[str, str] = field(default_factory=dict)
    """Library versions (provenance)."""

    def __post_init__(self) -> None:
        for name, allowed in (("neuron_type", NEURON_TYPES), ("impact", IMPACTS), ("reduction", REDUCTIONS)):
            if getattr(self, name) not in allowed:
                raise ArgumentError(f"{name}: got {getattr(self, name)!r}; use one of {', '.join(allowed)}")
        for name in ("num_layers", "num_neurons", "top_k", "max_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ArgumentError(f"{name}: got {value!r}; use a whole number of at least 1")
        if self.top_k > self.num_neurons:
            raise ArgumentError(
                f"top_k: {self.top_k} is more than the {self.num_neurons} {self.neuron_type} neurons of a layer; "
                f"use at most {self.num_neurons}"
            )

    @property
    def index_dtype(self) -> np.dtype[Any]:
        """uint16, or uint32 where a layer has more than 65,535 neurons."""
        return np.dtype("<u2") if self.num_neurons <= MAX_UINT16_NEURONS else np.dtype("<u4")

    @property
    def sentinel(self) -> int:
        """The index that fills the NAG of a document that has none."""
        return int(np.iinfo(self.index_dtype).max)

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored NAG."""
        return self.num_layers * self.top_k * self.index_dtype.itemsize

    def with_top_k(self, top_k: int | None) -> NagSpec:
        """The same spec with K lowered (indices are stored highest impact first, so a prefix is a NAG)."""
        if top_k is None or top_k == self.top_k:
            return self
        if not 1 <= top_k < self.top_k:
            raise SpecMismatchError(
                f"top_k: {top_k} asked for, {self.top_k} stored; K can be lowered on reading, not raised: "
                f"use --top-k {self.top_k} or less, or extract again"
            )
        return replace(self, top_k=top_k)

    def require_same_identity(self, other: NagSpec, what: str, other_what: str) -> None:
        """Raise SpecMismatchError, both specs named, where NAGs of the two may not be compared."""
        differing = [n for n in IDENTITY if getattr(self, n) != getattr(other, n)]
        if differing:
            pairs = "; ".join(f"{n}: {getattr(self, n)!r} against {getattr(other, n)!r}" for n in differing)
            raise SpecMismatchError(
                f"{what} ({self.describe()}) and {other_what} ({other.describe()}) differ in {pairs}; "
                "extract both with the same backbone and settings"
            )

    def provenance_notes(self, other: NagSpec) -> list[str]:
        """Differences that are allowed but worth noting in the output."""
        notes = []
        for name in ("dtype", "device", "versions"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                notes.append(f"{name}: {mine} and {theirs}")
        return notes

    def describe(self) -> str:
        """One short line."""
        return (
            f"{self.backbone or self.fingerprint} {self.neuron_type} {self.impact}/{self.reduction} "
            f"L={self.num_layers} N={self.num_neurons} K={self.top_k} max_length={self.max_length}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """One JSON object on one line, keys sorted."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, value: object, where: str) -> Self:
        """Read what to_dict wrote; `where` names the file in the error."""
        if not isinstance(value, dict):
            raise ArgumentError(
                f"{where}: the NAG spec is a {type(value).__name__}, not an object; the file is damaged"
            )
        known = {f.name for f in fields(cls)}
        unknown = set(value) - known
        needed = {"fingerprint", "num_layers", "num_neurons", "top_k"} - set(value)
        if unknown or needed:
            raise ArgumentError(f"{where}: NAG spec with unknown {sorted(unknown)} and missing {sorted(needed)} fields")
        for name in ("fingerprint", "neuron_type", "impact", "reduction", "tokenizer", "backbone", "dtype", "device"):
            if name in value and not isinstance(value[name], str):
                raise ArgumentError(f"{where}: {name} of the NAG spec is {value[name]!r}, not a string")
        try:
            return cls(**value)
        except ArgumentError as error:
            raise ArgumentError(f"{where}: {error}") from None


@dataclass(frozen=True)
class NagBatch:
    """NAGs of some documents.

    Attributes:
        indices (uint16 or uint32 [n, L, K]): highest impact first, ties to the lower index; the sentinel everywhere
            in a document that has no NAG.
        tokens (int32 [n]): tokens the backbone saw of each document.
        spec: how they were made.
    """

    indices: npt.NDArray[Any]
    tokens: npt.NDArray[np.int32]
    spec: NagSpec

    def __post_init__(self) -> None:
        want = (self.spec.num_layers, self.spec.top_k)
        if self.indices.ndim != 3 or self.indices.shape[1:] != want or self.indices.dtype != self.spec.index_dtype:
            raise ArgumentError(
                f"indices: got {self.indices.dtype} {list(self.indices.shape)}, "
                f"the spec wants {self.spec.index_dtype} [n, {want[0]}, {want[1]}]"
            )
        if self.tokens.shape != (len(self.indices),):
            raise ArgumentError(f"tokens: got shape {list(self.tokens.shape)}, want [{len(self.indices)}]")

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def empty(self) -> npt.NDArray[np.bool_]:
        """Which documents have no NAG (bool [n])."""
        empty: npt.NDArray[np.bool_] = np.equal(self.indices[:, 0, 0], self.spec.sentinel)
        return empty

    def with_top_k(self, top_k: int | None) -> NagBatch:
        """The same NAGs with K lowered; a view, nothing is copied."""
        spec = self.spec.with_top_k(top_k)
        return self if spec is self.spec else replace(self, indices=self.indices[:, :, : spec.top_k], spec=spec)

    @classmethod
    def concatenate(cls, parts: list[NagBatch]) -> NagBatch:
        """All documents of the parts, in order; the parts share a spec."""
        if not parts:
            raise ArgumentError("parts: got none; give at least one NagBatch")
        for part in parts[1:]:
            parts[0].spec.require_same_identity(part.spec, "parts[0]", "a later part")
        indices = np.concatenate([p.indices for p in parts])
        return cls(indices, np.concatenate([p.tokens for p in parts]), parts[0].spec)
