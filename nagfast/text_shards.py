"""The text of a job in shards, read and tokenised: fixed ranges of rows of one input file each.

Shards and their names depend only on the input and --shard-rows, so a run that was killed is taken up at the first
shard that is not there, by any number of processes; those of one job deal the shards out among themselves (ranks.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nagfast.config import TOKEN_COUNT, TextOptions
from nagfast.errors import ArgumentError
from nagfast.inputs import Columns, Rows, Source, UnreadableSourceError, find_sources, read_rows
from nagfast.packing import encode
from nagfast.prefix import Ints, Tokenizer, encode_first
from nagfast.quarantine import Quarantine
from nagfast.ranks import Rank
from nagfast.records import content_digest

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
Record = dict[str, Any]


@dataclass
class TextSummary:
    """What one process did in this run."""

    documents: int = 0
    """Documents written."""
    tokens: int = 0
    """Tokens the backbone saw."""
    empty: int = 0
    """Documents without a NAG (no tokens, or one under act_grad) written."""
    quarantined: int = 0
    """Rows set aside, those of earlier runs included."""
    unreadable: list[str] = field(default_factory=list)
    """Files that could not be read to the end."""
    shards: int = 0
    """Shards written."""
    resumed: int = 0
    """Shards that were there already."""
    seconds: float = 0.0
    """Wall time, the loading of the backbone left out."""
    rank: Rank = field(default_factory=Rank)
    """Which process it is; everything above is about its own part."""

    @property
    def exit_code(self) -> int:
        """0, or 3 where rows or files were set aside.

        One of several processes says 0 then too: its launcher would stop the others, which may still be at work.
        """
        return 3 if (self.quarantined or self.unreadable) and self.rank.alone else 0


@dataclass
class TextShard:
    """Some rows of a source, tokenised."""

    name: str
    """Name of the shard."""
    rows: Rows
    """What was read."""
    record: Record
    """Which piece of which input it is."""
    share: float
    """How much of the whole input is read after it, 0 to 1."""
    tokens: list[Ints]
    """First tokens of each document."""
    counts: Ints | None
    """Tokens of each whole document, where they are asked for."""

    @property
    def kept(self) -> pa.Table | None:
        """The kept columns, token counts last; None where there are none."""
        if self.counts is None:
            return self.rows.kept
        column = pa.array(self.counts, pa.int64())
        kept = self.rows.kept
        return pa.table({TOKEN_COUNT: column}) if kept is None else kept.append_column(TOKEN_COUNT, column)


class TextReader:
    """The input of a job, and this process's share of it."""

    def __init__(self, options: TextOptions, inputs: Sequence[str], quarantine: Path | str, rank: Rank) -> None:
        """Find the files.

        Args:
            options: columns, --count-tokens, --shard-rows, --quarantine.
            inputs: paths, globs or URLs.
            quarantine: folder for rows that cannot be used, where the options name none.
            rank: which process this is.

        Raises:
            ArgumentError: nothing to read.
        """
        self.sources = find_sources(inputs)
        self.records = {source.name: _record(options, source) for source in self.sources}
        self.rank = rank
        self._options = options
        self._columns = Columns(options.text_column, options.id_column, options.keep_columns)
        self._quarantine_folder = Path(options.quarantine or quarantine)
        self._numbers = {source.name: number for number, source in enumerate(self.sources)}

    def open_quarantine(self) -> Quarantine:
        """The quarantine, once the output is known to be in order."""
        self.quarantine = Quarantine(self._quarantine_folder)
        return self.quarantine

    def count_quarantined(self) -> int:
        """Bad rows noted of this process's shards."""
        return self.quarantine.count(self.records, lambda name, chunk: self.rank.takes(self._numbers[name], chunk))

    def shards(
        self,
        tokenizer: Tokenizer,
        max_length: int,
        done: Callable[[str, Record], bool],
        summary: TextSummary,
    ) -> Iterator[TextShard]:
        """This process's shards that are not done yet, tokenised.

        Args:
            tokenizer: the backbone's.
            max_length: tokens kept.
            done: given a shard's name and record, whether it is there already.
            summary: gets the files that could not be read and the number of shards that were there.

        Raises:
            ArgumentError: the first file has not the columns asked for.
        """
        total, before = max(1, sum(s.size or 1 for s in self.sources)), 0
        for number, source in enumerate(self.sources):
            size = source.size or 1
            try:
                for rows, part in self._rows(number, source, done, summary):
                    chunk = rows.start // self._options.shard_rows
                    record = self.records[source.name] | {"chunk": chunk}
                    tokens, counts = self._encode(tokenizer, rows.texts, max_length)
                    share = min(1.0, (before + part * size) / total)
                    yield TextShard(_name(source, chunk), rows, record, share, tokens, counts)
                self.quarantine.clear_file(source, self.rank)
            except (UnreadableSourceError, ArgumentError) as error:
                # A column that the first file lacks is a wrong argument; one that a later file lacks is its own fault.
                if isinstance(error, ArgumentError) and number == 0:
                    raise
                log.error("%s", error)
                self.quarantine.write_file(source, str(error), self.rank)
                summary.unreadable.append(source.path)
            before += size

    def _rows(
        self, number: int, source: Source, done: Callable[[str, Record], bool], summary: TextSummary
    ) -> Iterator[tuple[Rows, float]]:
        """Rows of a source, and how much of the source is read after them, 0 to 1."""

        def skip(chunk: int) -> bool:
            if not self.rank.takes(number, chunk):
                return True
            there = done(_name(source, chunk), self.records[source.name] | {"chunk": chunk})
            summary.resumed += there
            return there

        characters, num_rows = 0, _num_rows(source)
        for rows in read_rows(source, self._columns, rows_per_chunk=self._options.shard_rows, skip=skip):
            characters += sum(map(len, rows.texts)) * self.rank.world_size
            read = (rows.start + rows.count) / num_rows if num_rows else characters / (source.size or 1)
            yield rows, min(1.0, read)

    def _encode(self, tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> tuple[list[Ints], Ints | None]:
        if self._options.count_tokens:
            return encode(tokenizer, texts, max_length)
        return encode_first(tokenizer, texts, max_length), None


def _name(source: Source, chunk: int) -> str:
    return f"{source.name}-{chunk:05d}"


def _record(options: TextOptions, source: Source) -> Record:
    """What the shards of a source are made from: with the chunk's number, the identity of a shard."""
    try:
        content = content_digest(source)
    except UnreadableSourceError:
        content = "unreadable"  # reading it says so, and sets it aside
    return {
        "name": source.name,
        "content": content,
        "text_column": options.text_column,
        "id_column": options.id_column,
        "rows_per_chunk": options.shard_rows,
    }


def _num_rows(source: Source) -> int | None:
    """Rows of a local Parquet file, for the progress; None where that cannot be told cheaply."""
    if source.format != "parquet" or not Path(source.path).is_file():
        return None
    try:
        return int(pq.read_metadata(source.path).num_rows)
    except (OSError, pa.ArrowException):
        return None
