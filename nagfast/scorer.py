"""Texts -> similarity to a target, to its profile and to its nearest documents, with nothing kept.

The scorer for other pipelines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nagfast.errors import ArgumentError, NagfastError
from nagfast.extraction import extract
from nagfast.overlap import map_ahead
from nagfast.prefix import Ints, encode_first
from nagfast.search.neighbors import BANDWIDTH
from nagfast.similarities import Similarities, SimilarityPart
from nagfast.targets import TargetProfile

if TYPE_CHECKING:
    from nagfast.backbone import Backbone
    from nagfast.schema import NagBatch
    from nagfast.search.nearest import NearestTargets

log = logging.getLogger(__name__)
CHUNK_TEXTS = 4096
CHUNK_CHARACTERS = 1 << 24


class Scorer:
    """A backbone and a target profile: texts in, similarities out."""

    def __init__(
        self,
        backbone: Backbone,
        profile: TargetProfile,
        *,
        nearest: NearestTargets | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        """Check that they belong together.

        Args:
            backbone: the frozen model; the one the profile's NAGs were made with.
            profile: the target. Its spec says which neurons, impact, reduction, K and max_length.
            nearest: an index of target documents, for score_with_nearest; its K is at most the profile's. With a
                backbone on a GPU it is searched there, exactly; on the CPU where the GPU has no room for it.
            batch_tokens: tokens per step; default as in extract.

        Raises:
            SpecMismatchError: the profile or the index was made with another backbone, tokenizer or setting.
        """
        self.backbone = backbone
        self.profile = profile
        self.batch_tokens = batch_tokens
        self._similarities = Similarities(backbone, {"the target": profile})
        if nearest is not None:
            nearest.require_comparable(profile.spec, "the profile")
            nearest = _beside(backbone, nearest)
        self.index = nearest

    def score(self, texts: Iterable[str]) -> npt.NDArray[np.float64]:
        """Similarity of every text to the target (float64 [n], 0 to 1, higher is nearer), in order.

        Reads the texts once, CHUNK_TEXTS at a time; memory does not grow with them but for 8 bytes each. A text without
        tokens scores 0.

        Raises:
            ArgumentError: a single string instead of several, or a text that is not a string.
        """
        done: dict[int, npt.NDArray[np.float64]] = {}
        for part in self._similarities.steps(self.batch_tokens).run(self._parts(texts)):
            done[part.number] = part.similarities[:, 0]
        return np.concatenate([done[n] for n in range(len(done))]) if done else np.zeros(0)

    def _parts(self, texts: Iterable[str]) -> Iterator[_Chunk]:
        length = self.profile.spec.max_length
        tokenised = map_ahead(lambda chunk: encode_first(self.backbone.tokenizer, chunk, length), _checked(texts))
        for number, tokens in enumerate(tokenised):
            yield _Chunk(number, tokens)

    def score_with_nearest(
        self, texts: Iterable[str], *, k: int = 1, aggregate: str = "max", bandwidth: float = BANDWIDTH
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Similarity to the profile, and to the nearest target documents (float64 [n] each), in one pass.

        Args:
            texts: as for score.
            k: nearest target documents looked at.
            aggregate: how their similarities become one: max, mean or density (see Neighbors.aggregate).
            bandwidth: of the density.

        Raises:
            ArgumentError: the scorer has no index; and as for score.
        """
        if self.index is None:
            raise ArgumentError("nearest: the scorer has no index; give one: Scorer(backbone, profile, nearest=index)")
        similarity, near = [np.zeros(0)], [np.zeros(0)]
        for nags in self._nags(texts):
            similarity.append(self.profile.similarity(nags))
            near.append(self.index.search(nags, k).aggregate(aggregate, bandwidth))
        return np.concatenate(similarity), np.concatenate(near)

    def _nags(self, texts: Iterable[str]) -> Iterator[NagBatch]:
        spec = self.profile.spec
        for chunk in _checked(texts):
            yield extract(
                chunk,
                self.backbone,
                top_k=spec.top_k,
                max_length=spec.max_length,
                neurons=spec.neuron_type,
                impact=spec.impact,
                reduction=spec.reduction,
                batch_tokens=self.batch_tokens,
            )


def _beside(backbone: Backbone, nearest: NearestTargets) -> NearestTargets:
    """The index on the backbone's device, or as it is where it cannot be there."""
    try:
        return nearest.to(backbone.device)
    except NagfastError as error:
        log.warning("nearest: searched on the CPU (%s)", error)
        return nearest


class _Chunk(SimilarityPart):
    """Some of the texts."""

    def __init__(self, number: int, tokens: list[Ints]) -> None:
        super().__init__(tokens, 1)
        self.number = number


def _checked(texts: Iterable[str]) -> Iterator[list[str]]:
    if isinstance(texts, str):
        raise ArgumentError("texts: got one string; give a list or an iterator of strings")
    yield from _chunks(texts)


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
