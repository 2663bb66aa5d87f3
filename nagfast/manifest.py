"""nag.json, the manifest of a NAG store: which folder is one, and what its shards hold.

{"format": "nagfast-store", "version": 1, "specs": {neuron type: NagSpec}, "keep": [column, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nagfast.errors import ArgumentError
from nagfast.files import atomic_write_text
from nagfast.schema import NagSpec

FORMAT = "nagfast-store"
VERSION = 1
MANIFEST = "nag.json"


def local_folder(path: Path | str) -> Path:
    """The folder of a store.

    Raises:
        ArgumentError: it is a URL.
    """
    if "://" in str(path):
        raise ArgumentError(f"{path}: a NAG store is a local folder (its columns are mapped into memory); copy it here")
    return Path(path)


def shard_files(folder: Path) -> list[Path]:
    """The shards of a store by name."""
    return sorted(p for p in folder.glob("*.parquet") if not p.name.startswith("."))


def primary(specs: Mapping[str, NagSpec]) -> str:
    """The neuron type a store stands for where none is asked for: fwd_up, else its first."""
    return "fwd_up" if "fwd_up" in specs else next(iter(specs))


def write_manifest(folder: Path, specs: Mapping[str, NagSpec], keep: Sequence[str], *, replace: bool) -> None:
    """Make the folder a store of these specs; with replace=False not where it is a store already.

    Raises:
        NagfastError: it cannot be written to.
    """
    value = {
        "format": FORMAT,
        "version": VERSION,
        "specs": {name: spec.to_dict() for name, spec in specs.items()},
        "keep": list(keep),
    }
    atomic_write_text(folder / MANIFEST, json.dumps(value, indent=1) + "\n", replace=replace)


def is_store(folder: Path) -> bool:
    """Whether the folder has the manifest of a NAG store, of whatever version and content."""
    try:
        value = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("format") == FORMAT


def read_manifest(folder: Path) -> tuple[dict[str, NagSpec], tuple[str, ...]]:
    """Specs by neuron type, and the kept columns.

    Raises:
        ArgumentError: the folder is no NAG store, or its manifest is damaged or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArgumentError(
            f"{folder}: not a NAG store: it has no {MANIFEST}; give the folder that extract wrote (--out)"
        )
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ArgumentError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); extract with --overwrite"
        ) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ArgumentError(f"{folder}: not a NAG store: {MANIFEST} does not say format {FORMAT!r}")
    if value.get("version") != VERSION:
        raise ArgumentError(
            f"{folder}: version {value.get('version')!r} of the store format, this nagfast reads version {VERSION}; "
            "use the nagfast that wrote it, or extract again"
        )
    specs, keep = value.get("specs"), value.get("keep")
    if not isinstance(specs, dict) or not specs:
        raise ArgumentError(f"{path}: has no specs; extract with --overwrite")
    if not isinstance(keep, list) or not all(isinstance(name, str) for name in keep):
        raise ArgumentError(f"{path}: keep is {keep!r}, not a list of column names; extract with --overwrite")
    found = {name: NagSpec.from_dict(spec, str(path)) for name, spec in specs.items()}
    for name, spec in found.items():
        if name != spec.neuron_type:
            raise ArgumentError(f"{path}: the spec of {name} is one of {spec.neuron_type}; extract with --overwrite")
    return found, tuple(keep)
