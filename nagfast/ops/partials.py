"""Impacts that are not finished: the GPU's kernels sum by chunks of tokens, and top-k can do the rest on the fly."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch


@dataclass(frozen=True)
class Partials:
    """Impacts whose last step is left to whoever reads them: the sums of each document's chunks of tokens."""

    sums: torch.Tensor
    """float32 [chunks, N]."""
    of_document: torch.Tensor
    """int64 [n + 1], the first chunk of each document."""
    lengths: torch.Tensor
    """int64 [n], tokens of each document."""
    reduction: str
    """mean_abs or l2."""

    @property
    def shape(self) -> tuple[int, int]:
        """Documents and N."""
        return len(self.lengths), self.sums.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self.sums.device


Impacts = torch.Tensor | Partials


def finished(impacts: Impacts) -> torch.Tensor:
    """The impacts as a tensor, float32 [n, N]."""
    if isinstance(impacts, torch.Tensor):
        return impacts
    kernel = import_module("nagfast.kernels.chunks")
    found: torch.Tensor = kernel.finish(impacts.sums, impacts.of_document, impacts.lengths, impacts.reduction)
    return found


def of_chunks(found: tuple[torch.Tensor, Any], reduction: str, finish: bool) -> Impacts:
    """What a kernel has summed by chunks, finished or not."""
    sums, chunks = found
    partials = Partials(sums, chunks.of_document, chunks.lengths, reduction)
    return finished(partials) if finish else partials
