"""Where FAISS sees a GPU: which of its GPU indexes to take, and the way to and from files.

Not tested on a GPU so far: the tests check with a stand-in for FAISS that each branch is taken. With faiss-gpu there is
brute force; GpuIndexCagra, a graph, needs faiss-gpu-cuvs.
"""

from __future__ import annotations

from typing import Any

MOST_NEIGHBOURS = 2048  # what FAISS selects on a GPU for one query
BRUTE_FORCE_BYTES = 4 << 30  # vectors up to this size are searched through and through, larger sets by a graph


def make_index(faiss: Any, kind: str, dimensions: int, documents: int) -> tuple[Any, str]:
    """An empty index on the first GPU, and its name.

    Args:
        faiss: the module.
        kind: pq (vectors, inner product) or simhash (bits, Hamming distance).
        dimensions: of a vector, or bits.
        documents: that will be added.
    """
    resources = faiss.StandardGpuResources()
    if kind == "simhash":
        return faiss.GpuIndexBinaryFlat(resources, dimensions), "gpu-flat"
    if documents * dimensions * 4 > BRUTE_FORCE_BYTES and hasattr(faiss, "GpuIndexCagra"):
        return faiss.GpuIndexCagra(resources, dimensions, faiss.METRIC_INNER_PRODUCT), "gpu-cagra"
    return faiss.GpuIndexFlat(resources, dimensions, faiss.METRIC_INNER_PRODUCT), "gpu-flat"


def search_options(faiss: Any, structure: str, count: int) -> dict[str, Any]:
    """Further arguments of a search for `count` neighbours.

    A graph search keeps a list of candidates, 64 by default, that must not be shorter than the result.
    """
    if structure != "gpu-cagra":
        return {}
    parameters = faiss.SearchParametersCagra()
    parameters.itopk_size = -(-count // 32) * 32  # cuVS rounds it up to warps
    return {"params": parameters}


def to_cpu(faiss: Any, kind: str, index: Any) -> Any:
    """A copy of the index that FAISS can write."""
    return faiss.index_binary_gpu_to_cpu(index) if kind == "simhash" else faiss.index_gpu_to_cpu(index)


def to_gpu(faiss: Any, kind: str, index: Any) -> Any:
    """The index as read, on the first GPU."""
    move = faiss.index_binary_cpu_to_gpu if kind == "simhash" else faiss.index_cpu_to_gpu
    return move(faiss.StandardGpuResources(), 0, index)
