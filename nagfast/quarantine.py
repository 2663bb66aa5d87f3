"""Rows that cannot be used: kept with file, row and reason, so that a run goes on and nothing is lost.

A quarantine is a folder with one `<shard>.jsonl` for each shard that had bad rows (one JSON object a row: file, row,
reason, docid, value) and one `<source>.unreadable.json` for each file that could not be read to its end. All ASCII.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from nagfast.errors import NagfastError
from nagfast.files import atomic_write_text, clean_temporaries, remove
from nagfast.ranks import Rank

ALONE = Rank()
BASE64 = "base64:"
_FILE = re.compile(r"(?P<shard>.+)-(?P<chunk>\d{5,})\.jsonl|(?P<file>.+)\.unreadable\.json")
UNREADABLE = "unreadable file"
"""The reason under which summary() counts files that could not be read."""


def encode_value(value: str | bytes | None) -> str | None:
    """What stood in the row, as JSON can hold it: text as is, bytes (and text that begins so) as "base64:..."."""
    if isinstance(value, str) and value.startswith(BASE64):
        value = value.encode("utf-8", "surrogatepass")
    return BASE64 + base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value


def decode_value(value: str | None) -> str | bytes | None:
    """What encode_value was given, text that began with "base64:" as bytes."""
    return base64.b64decode(value[len(BASE64) :]) if value is not None and value.startswith(BASE64) else value


@dataclass(frozen=True)
class BadRow:
    """A row that was left out."""

    file: str
    """Path of the source."""
    row: int
    """Row number in the source, from 0 (for JSON lines the line number, blank lines counted)."""
    reason: str
    """Short and without values, so that reasons can be counted."""
    docid: str | None = None
    """Id of the document where it has one that is valid."""
    value: str | None = None
    """What was there, as encode_value makes it: the text, or the whole line of a JSON source."""


class Named(Protocol):
    """What write_file needs of a source."""

    @property
    def name(self) -> str:
        """Short stable name."""
        ...

    @property
    def path(self) -> str:
        """Path or URL."""
        ...


class Quarantine:
    """A folder of bad rows; it is created when the first one is written.

    Writing a shard again replaces what it had, so a rerun leaves the same files as one run.
    """

    def __init__(self, folder: Path | str) -> None:
        """Remove what killed runs left half-written in the folder.

        Args:
            folder: where the files go; need not exist.
        """
        self.folder = Path(folder)
        clean_temporaries(self.folder)

    def write(self, shard: str, bad: Sequence[BadRow]) -> None:
        """Replace the bad rows of a shard; none removes its file.

        Raises:
            NagfastError: the folder cannot be written to.
        """
        path = self.folder / f"{shard}.jsonl"
        if bad:
            atomic_write_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in bad))
        else:
            remove(path)

    def write_file(self, source: Named, reason: str, rank: Rank = ALONE) -> None:
        """Note a file that could not be read to its end, why, and by which of several processes."""
        record: dict[str, Any] = {"file": source.path, "reason": reason}
        if not rank.alone:
            record["rank"] = rank.rank
        atomic_write_text(self.folder / f"{source.name}.unreadable.json", json.dumps(record) + "\n")

    def clear_file(self, source: Named, rank: Rank = ALONE) -> None:
        """Forget that a file could not be read: it could be this time.

        One of several processes reads a part of it: it forgets what it noted itself, and the first one also what is
        of a run with fewer or more processes.
        """
        path = self.folder / f"{source.name}.unreadable.json"
        if not rank.alone:
            try:
                noted = json.loads(path.read_text("ascii", errors="replace")).get("rank", 0)
            except (OSError, ValueError, AttributeError, RecursionError):
                noted = 0
            if (noted if isinstance(noted, int) and 0 <= noted < rank.world_size else 0) != rank.rank:
                return
        remove(path)

    def clear(self, sources: Iterable[str]) -> None:
        """Forget what is noted of some sources (their names); other files of the folder stay.

        Raises:
            NagfastError: a file cannot be removed.
        """
        for path in self._files_of(sources):
            remove(path)

    def count(self, sources: Iterable[str], wanted: Callable[[str, int], bool] | None = None) -> int:
        """Bad rows noted of some sources (their names), of all their chunks or of those `wanted` is true for."""
        rows = 0
        for path in self._files_of(sources):
            match = _FILE.fullmatch(path.name)
            if match and match["shard"] and (wanted is None or wanted(match["shard"], int(match["chunk"]))):
                rows += path.read_bytes().count(b"\n")
        return rows

    def _files_of(self, sources: Iterable[str]) -> list[Path]:
        names = set(sources)
        found = []
        for path in sorted(self.folder.glob("*")):
            match = _FILE.fullmatch(path.name)
            if match and (match["shard"] or match["file"]) in names:
                found.append(path)
        return found

    def rows(self) -> Iterator[BadRow]:
        """All bad rows, by shard name and then in order.

        Raises:
            NagfastError: a file of the quarantine is damaged.
        """
        for path in self._files("*.jsonl"):
            for number, line in enumerate(path.read_text("ascii", errors="replace").splitlines(), 1):
                try:
                    yield BadRow(**json.loads(line))
                except (ValueError, TypeError, RecursionError) as error:
                    raise _damaged(path, f"line {number}") from error

    def unreadable(self) -> dict[str, str]:
        """Files that could not be read -> reason.

        Raises:
            NagfastError: a file of the quarantine is damaged.
        """
        found = {}
        for path in self._files("*.unreadable.json"):
            try:
                record: dict[str, Any] = json.loads(path.read_text("ascii", errors="replace"))
                found[str(record["file"])] = str(record["reason"])
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise _damaged(path, "its record") from error
        return found

    def summary(self) -> dict[str, int]:
        """Reason -> count, most frequent first and equal counts by name; unreadable files count under UNREADABLE."""
        counts = Counter(row.reason for row in self.rows())
        if files := len(self.unreadable()):
            counts[UNREADABLE] += files
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def num_rows(self) -> int:
        """Bad rows in the folder, those of earlier runs included."""
        return sum(1 for _ in self.rows())

    @property
    def num_files(self) -> int:
        """Unreadable files noted in the folder."""
        return len(self._files("*.unreadable.json"))

    def __bool__(self) -> bool:
        """Whether anything at all was set aside: then the exit code is 3."""
        return bool(self._files("*.jsonl") or self.num_files)

    def _files(self, pattern: str) -> list[Path]:
        return sorted(path for path in self.folder.glob(pattern) if not path.name.startswith("."))


def _damaged(path: Path, what: str) -> NagfastError:
    return NagfastError(f"{path}: {what} cannot be read; remove the file, and run with --overwrite to write it again")
