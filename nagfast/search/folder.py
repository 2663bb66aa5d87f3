"""An index on disk: a folder with index.json, written last, and the files it names with their sizes and checksums.

    index.json      {"format": "nagfast-index", "version": 1, "method", "spec", "targets", "parameters", "options",
                     "provenance", "files": {name: {"bytes", "sha256"}}}
    nags.npy        target NAGs, uint16 or uint32 [n, L, K], mapped into memory
    docids.parquet  their ids, row for row
    ...             what the method adds

A run that is cut short leaves a folder without index.json, which is no index; building again replaces it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nagfast.arrays import read_array
from nagfast.errors import ArgumentError, NagfastError
from nagfast.files import atomic_path, atomic_write_text, clean_temporaries, make_folder, write_error
from nagfast.schema import NagSpec

FORMAT, VERSION, MANIFEST = "nagfast-index", 1, "index.json"
NAGS, DOCIDS = "nags.npy", "docids.parquet"
MAX_MANIFEST = 1 << 24


@dataclass(frozen=True)
class IndexRecord:
    """What index.json says."""

    method: str
    """Name of the method."""
    spec: NagSpec
    """How the target NAGs were made."""
    targets: int
    """Rows."""
    parameters: dict[str, Any]
    """What the method chose, recall included."""
    options: dict[str, Any]
    """What it was asked for."""
    provenance: dict[str, Any]
    """Where the targets came from, versions, commit, seconds."""


def prepare(folder: Path, overwrite: bool) -> None:
    """Make the folder ready to be written: what is there is no longer an index.

    Raises:
        ArgumentError: it holds an index and `overwrite` is off, or something else.
        NagfastError: it cannot be written to.
    """
    manifest = folder / MANIFEST
    if manifest.exists() and not overwrite:
        raise ArgumentError(f"{folder}: holds an index; give another --out, or --overwrite to replace it")
    foreign = [p.name for p in folder.iterdir() if not _ours(p)] if folder.is_dir() else []
    if foreign:
        raise ArgumentError(f"{folder}: holds {foreign[0]!r}, which is no part of an index; give a folder of its own")
    make_folder(folder)
    clean_temporaries(folder)
    try:
        manifest.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(manifest, error) from error


def _ours(path: Path) -> bool:
    return path.name == MANIFEST or path.name.startswith(".") or path.suffix in {".npy", ".parquet", ".index"}


def id_column(docids: Iterable[str] | pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as a column of strings, in several pieces where they are more than one array holds (2 GB)."""
    if isinstance(docids, pa.ChunkedArray):
        return docids.cast(pa.string())
    made = pa.array(docids, pa.string())
    return made if isinstance(made, pa.ChunkedArray) else pa.chunked_array([made])


def write_targets(folder: Path, nags: npt.NDArray[Any], docids: Sequence[str] | pa.ChunkedArray) -> list[str]:
    """Write the NAGs and their ids; returns the file names."""
    with atomic_path(folder / NAGS) as path, path.open("wb") as handle:
        np.save(handle, nags, allow_pickle=False)
    with atomic_path(folder / DOCIDS) as path:
        pq.write_table(pa.table({"docid": id_column(docids)}), path)
    return [NAGS, DOCIDS]


def write_record(folder: Path, record: IndexRecord, files: Sequence[str]) -> None:
    """Write index.json: from here on the folder is an index."""
    value = {
        "format": FORMAT,
        "version": VERSION,
        "method": record.method,
        "spec": record.spec.to_dict(),
        "targets": record.targets,
        "parameters": record.parameters,
        "options": record.options,
        "provenance": record.provenance,
        "files": {name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in files},
    }
    atomic_write_text(folder / MANIFEST, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_record(folder: Path) -> IndexRecord:
    """Read index.json and check every file it names.

    Raises:
        ArgumentError: the folder is no index, or of another version.
        NagfastError: index.json is damaged, or a file is missing or not as it was written.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArgumentError(f"{folder}: not an index: it has no {MANIFEST}; build one with nagfast index build")
    try:
        if path.stat().st_size > MAX_MANIFEST:
            raise ValueError(f"{path.stat().st_size} bytes")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ArgumentError(f"{folder}: not an index: {MANIFEST} does not say format {FORMAT!r}")
    if value.get("version") != VERSION:
        raise ArgumentError(
            f"{folder}: version {value.get('version')!r} of the index format, this nagfast reads version {VERSION}; "
            "use the nagfast that wrote it, or build the index again"
        )
    for name, kind in (("method", str), ("targets", int), ("parameters", dict), ("options", dict), ("files", dict)):
        if not isinstance(value.get(name), kind) or isinstance(value.get(name), bool):
            raise _damaged(path, f"{name} is {value.get(name)!r}")
    _check_files(folder, path, value["files"])
    provenance = value.get("provenance")
    return IndexRecord(
        method=value["method"],
        spec=NagSpec.from_dict(value.get("spec"), str(path)),
        targets=value["targets"],
        parameters=value["parameters"],
        options=value["options"],
        provenance=provenance if isinstance(provenance, dict) else {},
    )


def read_targets(folder: Path, record: IndexRecord) -> tuple[npt.NDArray[Any], pa.ChunkedArray]:
    """The NAGs, mapped read-only, and their ids.

    Raises:
        NagfastError: they do not fit the record.
    """
    spec = record.spec
    try:
        nags = read_array(folder / NAGS, mapped=True)
        docids = pq.read_table(folder / DOCIDS, columns=["docid"])["docid"]
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise _damaged(folder, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if nags.dtype != spec.index_dtype or nags.shape != (record.targets, spec.num_layers, spec.top_k):
        raise _damaged(folder / NAGS, f"{nags.dtype} {list(nags.shape)}, {MANIFEST} says {record.targets} targets")
    if record.targets < 1 or len(docids) != record.targets or docids.type != pa.string() or docids.null_count:
        raise _damaged(folder / DOCIDS, f"{len(docids)} ids of type {docids.type} for {record.targets} targets")
    return nags, docids


def _check_files(folder: Path, path: Path, files: Mapping[str, Any]) -> None:
    for name, entry in files.items():
        plain = name == Path(name).name and not name.startswith(".")
        if not plain or not isinstance(entry, dict):
            raise _damaged(path, f"names a file {name!r}")
        file = folder / name
        if not file.is_file():
            raise _damaged(folder, f"{name} is missing")
        if file.stat().st_size != entry.get("bytes") or _sha256(file) != entry.get("sha256"):
            raise _damaged(file, "not as it was written")
    missing = {NAGS, DOCIDS} - set(files)
    if missing:
        raise _damaged(path, f"does not name {', '.join(sorted(missing))}")


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _damaged(path: Path, why: str) -> NagfastError:
    return NagfastError(f"{path}: the index is damaged ({why}); build it again with --overwrite")
