"""NAGs to test kernels with."""

import numpy as np


def draw(documents, layers, top_k, neurons, dtype=np.uint16, seed=0):
    """NAGs [documents, layers, top_k] of distinct neurons, low ones more often, so that counts spread."""
    rng = np.random.default_rng(seed)
    taste = rng.random((documents, layers, neurons)) * np.linspace(1, 2, neurons)
    return np.argsort(taste, axis=2)[:, :, :top_k].astype(dtype)


def sentinel(nags):
    return np.iinfo(nags.dtype).max
