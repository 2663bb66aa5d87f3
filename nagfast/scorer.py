"""Texts -> similarity to a target, with nothing kept: the scorer for other pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nagfast.errors import ArgumentError
from nagfast.targets import TargetProfile

if TYPE_CHECKING:
    from nagfast.backbone import Backbone

CHUNK_TEXTS = 4096
CHUNK_CHARACTERS = 1 << 24


class Scorer:
    """A backbone and a target profile: texts in, similarities out."""

    def __init__(self, backbone: Backbone, profile: TargetProfile, *, batch_tokens: int | None = None) -> None:
        """Check that the two belong together.

        Args:
            backbone: the frozen model; the one the profile's NAGs were made with.
            profile: the target. Its spec says which neurons, impact, reduction, K and max_length.
            batch_tokens: tokens per step; default as in extract.

        Raises:
            SpecMismatchError: the profile was made with another backbone or tokenizer.
        """
        self.backbone = backbone
        self.profile = profile
        self.batch_tokens = batch_tokens
        spec = profile.spec
        own = backbone.spec(
            top_k=spec.top_k,
            neuron_type=spec.neuron_type,
            impact=spec.impact,
            reduction=spec.reduction,
            max_length=spec.max_length,
        )
        spec.require_same_identity(own, "the profile", "the backbone")

    def score(self, texts: Iterable[str]) -> npt.NDArray[np.float64]:
        """Similarity of every text to the target (float64 [n], 0 to 1, higher is nearer), in order.

        Reads the texts once, CHUNK_TEXTS at a time; memory does not grow with them but for 8 bytes each. A text without
        tokens scores 0.

        Raises:
            ArgumentError: a single string instead of several, or a text that is not a string.
        """
        if isinstance(texts, str):
            raise ArgumentError("texts: got one string; give a list or an iterator of strings")
        parts = [self._score(chunk) for chunk in _chunks(texts)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _score(self, texts: list[str]) -> npt.NDArray[np.float64]:
        from nagfast.extraction import extract

        spec = self.profile.spec
        nags = extract(
            texts,
            self.backbone,
            top_k=spec.top_k,
            max_length=spec.max_length,
            neurons=spec.neuron_type,
            impact=spec.impact,
            reduction=spec.reduction,
            batch_tokens=self.batch_tokens,
        )
        return self.profile.similarity(nags)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ArgumentError(f"texts: item {i} is a {type(text).__name__}; give strings")
        chunk.append(text)
        characters += len(text)
        if len(chunk) == CHUNK_TEXTS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
