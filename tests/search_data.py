"""NAGs with structure for the search tests: clusters, ties, documents without a NAG."""

from dataclasses import replace

import numpy as np

from nagfast.schema import NagBatch, NagSpec

SPEC = NagSpec("0123456789abcdef", num_layers=3, num_neurons=60, top_k=6, tokenizer="t", backbone="tiny")
WIDE = replace(SPEC, num_neurons=70_000)


def clustered(n, seed=0, spec=SPEC, clusters=7, empty=()):
    """NagBatch of n documents around a few prototypes; small counts, so that ties abound."""
    places = np.random.default_rng(99).random((clusters, spec.num_layers, min(spec.num_neurons, 300)))
    rng = np.random.default_rng(seed)
    scores = places[rng.integers(0, clusters, n)] + rng.random((n, *places.shape[1:])) * 0.7
    indices = np.argsort(-scores, axis=-1)[..., : spec.top_k].astype(spec.index_dtype)
    tokens = np.full(n, 9, np.int32)
    indices[list(empty)], tokens[list(empty)] = spec.sentinel, 0
    return NagBatch(indices, tokens, spec)
