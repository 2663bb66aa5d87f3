"""Signatures as objects of datasketch (2.0 or later), for programs that use it already."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast.errors import ArgumentError, missing
from nagfast.minhash import SCHEME

Array = npt.NDArray[Any]


def _datasketch() -> ModuleType:
    try:
        import datasketch
    except ImportError:
        raise missing("datasketch", "minhash", "the exchange of MinHash signatures") from None
    return datasketch  # type: ignore[no-any-return]


def to_lean_minhashes(signatures: Array, docids: Sequence[Any], seed: int) -> list[tuple[Any, Any]]:
    """Pairs of docid and datasketch.LeanMinHash.

    Args:
        signatures: uint32 [n, p], from nagfast.minhash.signatures.
        docids: n names.
        seed: the seed they were made with; datasketch compares only signatures of one seed.

    Raises:
        MissingDependencyError: datasketch is not installed.
    """
    if signatures.ndim != 2 or signatures.dtype != np.uint32:
        raise ArgumentError(f"signatures: got {signatures.dtype} {list(signatures.shape)}; give uint32 [documents, p]")
    if len(docids) != len(signatures):
        raise ArgumentError(f"docids: got {len(docids)} for {len(signatures)} signatures; give one each")
    lean = _datasketch().LeanMinHash
    return [
        (docid, lean(seed=seed, hashvalues=values, scheme=SCHEME))
        for docid, values in zip(docids, signatures, strict=True)
    ]


def to_lsh(
    signatures: Array, docids: Sequence[Any], parameters: dict[str, Any], storage: dict[str, Any] | None = None
) -> Any:
    """A datasketch.MinHashLSH that holds the signatures.

    Args:
        signatures: uint32 [n, num_perm].
        docids: n distinct names.
        parameters: threshold, num_perm, seed, bands and rows, as of MinHashIndex.
        storage: datasketch's storage_config; default memory.

    Raises:
        MissingDependencyError: datasketch is not installed.
    """
    if parameters["bands"] < 2:
        raise ArgumentError(f"threshold: {parameters['threshold']} makes a single band, datasketch needs two; lower it")
    lsh = _datasketch().MinHashLSH(
        threshold=parameters["threshold"],
        num_perm=parameters["num_perm"],
        params=(parameters["bands"], parameters["rows"]),
        storage_config=storage,
    )
    with lsh.insertion_session() as session:
        for docid, signature in to_lean_minhashes(signatures, docids, parameters["seed"]):
            session.insert(docid, signature)
    return lsh
