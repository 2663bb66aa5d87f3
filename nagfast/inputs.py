"""Text in: which files an argument means, and their rows (records.py) in chunks.

Parquet and JSON lines (plain, .gz, .zst), as files, folders, globs or any fsspec URL.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from nagfast.errors import ArgumentError, MissingDependencyError, NagfastError
from nagfast.jsonl import read_jsonl
from nagfast.records import Columns, Rows, Source, UnreadableSourceError, read_parquet

__all__ = ["FINAL", "Columns", "Rows", "Source", "UnreadableSourceError", "find_sources", "read_rows"]

FINAL = Columns(text="content_split", id="meta.docid")
"""The columns of the reference's `final` records."""

STORE = "nag.json"
"""A folder that has it is a NAG store: it may lie below the text it was made of, and is no text."""
FORMATS = ".parquet, .jsonl, .jsonl.gz or .jsonl.zst"
_PARQUET = re.compile(r"\.(parquet|parq|pq)$", re.IGNORECASE)
_LINES = re.compile(r"\.(jsonl|ndjson|jsonlines|json(?=\.(gz|zst|zstd)$))(\.(gz|zst|zstd))?$", re.IGNORECASE)
_JSON = re.compile(r"\.json$", re.IGNORECASE)  # taken for JSON lines where it is named, not where a folder is


def _format(name: str, *, named: bool) -> Literal["parquet", "jsonl"] | None:
    if _PARQUET.search(name):
        return "parquet"
    return "jsonl" if _LINES.search(name) or (named and _JSON.search(name)) else None


def _source(path: str, key: str, size: int | None, *, named: bool) -> Source | None:
    """A source, or None where its name is not one of a known format.

    Args:
        path: path or URL.
        key: what tells it from others: its path below the input's folder, that folder's own name first.
        size: bytes.
        named: whether the user named it or its glob, rather than a folder.
    """
    kind = _format(key, named=named)
    if kind is None:
        return None
    stem = _JSON.sub("", _LINES.sub("", _PARQUET.sub("", PurePosixPath(key).name)))
    short = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:80] or "_"
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return Source(path, kind, size, f"{short}-{digest}")


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """Files of text that the arguments mean, in the order of the arguments and by path within each.

    Folders are searched to the bottom, without names that begin with a dot or an underscore, NAG stores and
    quarantines; globs match no name that begins with a dot. A file that is reached twice is taken once. The name of a
    source depends on the name of the input's folder and the path below it, so moving the folder keeps it.

    Args:
        inputs: paths, globs or fsspec URLs.

    Raises:
        ArgumentError: an input is empty, does not exist, is of no known format or has no files.
        MissingDependencyError: the package for a URL's protocol is not installed.
        NagfastError: a remote folder cannot be listed.
    """
    if not inputs:
        raise ArgumentError(f"inputs: got none; give at least one file, folder or glob of {FORMATS} files")
    found: dict[str, Source] = {}
    for text in inputs:
        sources = _remote(text) if "://" in text or "::" in text else _local(text)
        if not sources:
            raise ArgumentError(f"{text}: no file to read there; give a file, folder or glob of {FORMATS} files")
        for source in sources:
            found.setdefault(source.path, source)
    return _with_unique_names(list(found.values()))


def _with_unique_names(sources: list[Source]) -> list[Source]:
    """Two folders of one name may hold files of one name: the later ones get a number."""
    seen: dict[str, int] = {}
    unique = []
    for source in sources:
        earlier = seen.get(source.name, 0)
        seen[source.name] = earlier + 1
        name = f"{source.name}-{earlier + 1}" if earlier else source.name
        unique.append(Source(source.path, source.format, source.size, name))
    return unique


def _hidden(relative: str, *, named: bool) -> bool:
    """Left out: what other programs keep beside the data; of what a glob names, as in a shell, only dot files."""
    marks = (".",) if named else (".", "_")
    *folders, _ = parts = PurePosixPath(relative).parts
    aside = any(folder == "quarantine" or folder.endswith(".quarantine") for folder in folders)
    return aside or any(part.startswith(marks) for part in parts)


def _local(text: str) -> list[Source]:
    if not text.strip():
        raise ArgumentError(f"inputs: got {text!r}; give a file, folder or glob of {FORMATS} files")
    path = Path(text).expanduser()
    if path.is_dir():
        return _local_folder(path, path)
    if path.exists():
        source = _local_file(path, path.parent, named=True)
        if source is None:
            raise ArgumentError(f"{text}: format not known from its name; rename it to end in {FORMATS}")
        return [source]
    if not glob.has_magic(text):
        raise ArgumentError(f"{text}: does not exist; give a file, folder or glob of {FORMATS} files")
    fixed = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
    root = Path(*path.parts[:fixed])
    sources: list[Source] = []
    for each in sorted(root.glob(str(Path(*path.parts[fixed:])))):
        if _hidden(each.relative_to(root).as_posix(), named=not each.is_dir()):
            continue
        if each.is_dir():
            sources += _local_folder(each, root)
        elif source := _local_file(each, root, named=True):
            sources.append(source)
    return sources


def _local_folder(folder: Path, root: Path) -> list[Source]:
    files = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.as_posix())
    stores = {path.parent for path in files if path.name == STORE}
    visible = (p for p in files if not _hidden(p.relative_to(folder).as_posix(), named=False))
    texts = (p for p in visible if not stores.intersection(p.parents))
    return [source for p in texts if (source := _local_file(p, root, named=False))]


def _local_file(path: Path, root: Path, *, named: bool) -> Source | None:
    key = f"{root.resolve().name}/{path.relative_to(root).as_posix()}"
    return _source(os.path.normpath(path), key, path.stat().st_size, named=named)


def _remote(url: str) -> list[Source]:
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingDependencyError(f"{url}: {error}: pip install the package it names") from error
    except Exception as error:
        raise ArgumentError(f"{url}: cannot be opened ({_first_line(error)}); check the URL") from error
    if isinstance(system, LocalFileSystem):
        return _local(path)
    try:
        named = True
        if glob.has_magic(path):
            root = re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0]
            found = system.glob(path, detail=True)
        elif system.isfile(path):
            root, found = path.rpartition("/")[0], {path: system.info(path)}
        else:
            root, named = path.rstrip("/"), False
            found = system.find(path, detail=True)
    except Exception as error:
        raise NagfastError(f"{url}: cannot be listed ({_first_line(error)}); check the URL and the network") from error
    sources = []
    for name in sorted(found):
        relative = name[len(root) :].lstrip("/")
        if found[name].get("type") == "directory" or _hidden(relative, named=named):
            continue
        key = f"{PurePosixPath(root).name}/{relative}"
        source = _source(system.unstrip_protocol(name), key, found[name].get("size"), named=named)
        sources += [source] if source else []
    return sources


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _nothing(_chunk: int) -> bool:
    return False


def read_rows(
    source: Source,
    columns: Columns,
    *,
    rows_per_chunk: int = 50_000,
    skip: Callable[[int], bool] | None = None,
) -> Iterator[Rows]:
    """Stream a source in chunks that start at fixed row numbers; the memory used is that of one chunk.

    A row without a usable id or text (null, empty id, wrong type, broken UTF-8, invalid JSON) is in Rows.bad and the
    others go on. An empty text is usable.

    Args:
        source: from find_sources.
        columns: names of text, id and kept columns.
        rows_per_chunk: rows of the source in a chunk.
        skip: given the index of a chunk (its first row / rows_per_chunk), whether to leave it out undecoded.

    Yields:
        Chunks in order, those skipped left out; none for a source without rows.

    Raises:
        ArgumentError: a column does not exist (in JSON lines: nowhere in the first chunk) or has a wrong type.
        UnreadableSourceError: the file ends early, is damaged or cannot be opened; chunks yielded before are good.
    """
    if rows_per_chunk < 1:
        raise ArgumentError(f"rows_per_chunk: got {rows_per_chunk}; use at least 1")
    if columns.text == columns.id:
        raise ArgumentError(f"--text-column and --id-column: both are {columns.text!r}; name two columns")
    read = read_parquet if source.format == "parquet" else read_jsonl
    yield from read(source, columns, rows_per_chunk, functools.cache(skip or _nothing))
