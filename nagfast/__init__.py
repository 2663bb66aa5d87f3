"""nagfast: target-oriented pretraining data selection by Neuron-Activated Graphs (arXiv 2604.15706).

    import nagfast
    backbone = nagfast.Backbone.load("Qwen/Qwen3-1.7B-Base")  # or nagfast.Backbone.bundled()
    nags = nagfast.extract(texts, backbone, top_k=20, max_length=120)
    profile = nagfast.TargetProfile.fit(nags)
    profile.similarity(nags)

Names are imported on first use, so that `import nagfast` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nagfast.backbone import Backbone
    from nagfast.errors import NagfastError
    from nagfast.extraction import extract
    from nagfast.schema import NagBatch, NagSpec
    from nagfast.scorer import Scorer
    from nagfast.search.nearest import NearestTargets
    from nagfast.store import NagStore
    from nagfast.targets import TargetProfile

__version__ = "0.1.0"
__all__ = [
    "Backbone",
    "NagBatch",
    "NagSpec",
    "NagStore",
    "NagfastError",
    "NearestTargets",
    "Scorer",
    "TargetProfile",
    "extract",
]

_HOME = {
    "Backbone": "backbone",
    "NagBatch": "schema",
    "NagSpec": "schema",
    "NagStore": "store",
    "NagfastError": "errors",
    "NearestTargets": "search.nearest",
    "Scorer": "scorer",
    "TargetProfile": "targets",
    "extract": "extraction",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nagfast' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nagfast.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
