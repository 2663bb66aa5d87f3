"""A map of NAGs in two dimensions: do documents of one kind light up the same neurons (arXiv 2604.15706, section 4.1)?

A NAG is a set of (layer, neuron) pairs, so it goes in as a 0/1 row of L*N columns, is cut to DIMENSIONS by truncated
SVD (sparse, so memory grows with documents * L * K) and laid out by t-SNE. Treating the index numbers themselves as
coordinates, as plots of raw index vectors do, would measure how close neuron 17 is to neuron 18, which means nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast.errors import ArgumentError, missing
from nagfast.files import atomic_path
from nagfast.schema import NagBatch
from nagfast.store import NagStore

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]

DIMENSIONS = 50
MIN_DOCUMENTS = 10


def incidence(nags: NagBatch) -> Any:
    """NAGs as a sparse 0/1 matrix (scipy CSR float32 [n, L*N]); a document without a NAG is an empty row."""
    try:
        from scipy import sparse  # type: ignore[import-untyped]
    except ImportError:
        raise missing("scipy", "analysis", "the map of NAGs") from None
    n, layers, k = nags.indices.shape
    width = nags.spec.num_neurons
    columns = (nags.indices.astype(np.int64) + (np.arange(layers) * width)[None, :, None]).reshape(n, -1)
    there = ~nags.empty
    starts = np.concatenate([[0], np.cumsum(np.where(there, layers * k, 0))])
    flat = columns[there].ravel()
    return sparse.csr_matrix((np.ones(len(flat), np.float32), flat, starts), shape=(n, layers * width))


def embed(
    nags: NagBatch,
    *,
    metric: str = "cosine",
    perplexity: float = 30.0,
    dimensions: int = DIMENSIONS,
    max_iter: int = 1000,
    seed: int = 0,
) -> npt.NDArray[np.float32]:
    """Places of NAGs on the map (float32 [n, 2]).

    Args:
        nags: at least MIN_DOCUMENTS documents.
        metric: of t-SNE over the reduced rows; cosine or euclidean (or another that scikit-learn knows).
        perplexity: effective number of neighbours; lowered where there are few documents.
        dimensions: after the SVD.
        max_iter: steps of t-SNE.
        seed: of SVD and t-SNE.

    Raises:
        ArgumentError: too few documents, or a perplexity that is not above 0.
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.manifold import TSNE
    except ImportError:
        raise missing("scikit-learn", "analysis", "the map of NAGs") from None
    n = len(nags)
    if n < MIN_DOCUMENTS:
        raise ArgumentError(f"nags: got {n} documents; a map needs at least {MIN_DOCUMENTS}")
    if not perplexity > 0:
        raise ArgumentError(f"perplexity: got {perplexity}; use more than 0")
    rows = incidence(nags)
    kept = min(dimensions, n - 1, rows.shape[1] - 1)
    reduced = TruncatedSVD(kept, random_state=seed).fit_transform(rows)
    neighbours = min(perplexity, (n - 1) / 3)
    tsne = TSNE(2, perplexity=neighbours, metric=metric, init="pca", max_iter=max_iter, random_state=seed)
    return np.asarray(tsne.fit_transform(reduced), np.float32)


def sample(
    labels: Sequence[str], per_label: int, seed: int, only: Sequence[str] | None = None
) -> npt.NDArray[np.int64]:
    """Rows of at most per_label documents of each label, in order (int64 [m]).

    Args:
        labels: per document.
        per_label: at most, at least 1.
        seed: of the choice.
        only: labels to take; default all.

    Raises:
        ArgumentError: nothing left, or per_label below 1.
    """
    if per_label < 1:
        raise ArgumentError(f"per_label: got {per_label}; use at least 1")
    generator = np.random.default_rng(seed)
    array = np.asarray(labels, dtype=object)
    chosen = []
    for label in sorted(set(labels)) if only is None else only:
        rows = np.flatnonzero(array == label)
        chosen.append(generator.choice(rows, per_label, replace=False) if len(rows) > per_label else rows)
    found = np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
    if not len(found):
        raise ArgumentError(f"labels: no document of {', '.join(only or []) or 'any label'}")
    return found.astype(np.int64)


def plot(places: Array, labels: Sequence[str], out: Path | str, *, title: str = "", label_name: str = "") -> None:
    """Draw the map, one colour a label, as PNG; whole or not at all.

    Args:
        places: float [n, 2].
        labels: per document.
        out: file to write.
        title: above the map.
        label_name: above the legend.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        NagfastError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing("matplotlib", "analysis", "drawing") from None
    import matplotlib as mpl

    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    array = np.asarray(labels, dtype=object)
    names = sorted(set(labels))
    colours = mpl.colormaps["tab10" if len(names) <= 10 else "tab20"]
    for i, name in enumerate(names):
        rows = array == name
        # The count comes first: matplotlib leaves labels that start with _ out. A lone $ would start a formula.
        label = f"{int(rows.sum())} {name}".replace("$", r"\$")
        axes.scatter(places[rows, 0], places[rows, 1], s=18, alpha=0.75, color=colours(i % colours.N), label=label)
    axes.legend(title=label_name, markerscale=1.4, fontsize=10)
    axes.set(title=title.replace("$", r"\$"), xlabel="t-SNE 1", ylabel="t-SNE 2")
    with atomic_path(Path(out)) as temporary:
        figure.savefig(temporary, format="png", dpi=200, metadata={"Software": None})


def plot_store(
    store: NagStore,
    out: Path | str,
    *,
    label_column: str = "dataset",
    per_label: int = 300,
    perplexity: float = 30.0,
    metric: str = "cosine",
    seed: int = 0,
    neuron_type: str | None = None,
) -> int:
    """Draw the map of a store's NAGs; only the sampled documents' NAGs are in memory.

    Args:
        store: NAGs, with the labels kept.
        out: PNG file to write.
        label_column: kept column to colour by; null counts as a label of its own.
        per_label: documents per label at most.
        perplexity: effective number of neighbours.
        metric: of t-SNE.
        seed: of the sample and of the map.
        neuron_type: default the store's own choice.

    Returns:
        Documents drawn; documents without a NAG are left out.

    Raises:
        ArgumentError: no such column, or too few documents.
        MissingDependencyError: scikit-learn or matplotlib is not installed.
    """
    everywhere = ["null" if v is None else str(v) for v in store.table([label_column])[label_column].to_pylist()]
    rows = sample(everywhere, per_label, seed)
    parts, first = [], 0
    for batch in store.batches(neuron_type=neuron_type):
        low, high = np.searchsorted(rows, (first, first + len(batch)))
        here = rows[low:high] - first
        parts.append(NagBatch(batch.nags.indices[here], batch.nags.tokens[here], batch.nags.spec))
        first += len(batch)
    nags = NagBatch.concatenate(parts)
    there = ~nags.empty
    nags = NagBatch(nags.indices[there], nags.tokens[there], nags.spec)
    labels = [everywhere[row] for row in rows[there].tolist()]
    places = embed(nags, metric=metric, perplexity=perplexity, seed=seed)
    plot(places, labels, out, title=f"NAGs of {nags.spec.neuron_type}", label_name=label_column)
    return len(nags)
