"""A DuckDB session with bounded memory that spills beside its output, and how names and values become SQL."""

from __future__ import annotations

import glob
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nagfast import env
from nagfast.errors import ArgumentError, MissingDependencyError, NagfastError
from nagfast.files import make_folder

if TYPE_CHECKING:
    import duckdb

_MEMORY = re.compile(r"\d+(\.\d+)?\s*[KMGT]i?B", re.IGNORECASE)


def load() -> Any:
    """The module duckdb, imported when it is needed: a machine that has torch alone extracts, profiles and scores."""
    try:
        import duckdb
    except ImportError:
        raise MissingDependencyError(
            "selecting, and filtering by --where, need duckdb, which is not installed: pip install duckdb"
        ) from None
    return duckdb


# --- SQL --------------------------------------------------------------------------------------------------------------


def identifier(name: str) -> str:
    """A column name as SQL, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A string as SQL, quoted."""
    return "'" + value.replace("'", "''") + "'"


def double(value: float) -> str:
    """A finite float as SQL, exact to the bit."""
    return f"CAST({literal(repr(float(value)))} AS DOUBLE)"


# --- session ----------------------------------------------------------------------------------------------------------


class Session:
    """A DuckDB connection that spills to a folder of its own; use it as a context manager."""

    def __init__(self, beside: Path | None, memory_limit: str | None = None, threads: int | None = None) -> None:
        """Open the connection.

        Args:
            beside: the output; the spill folder lies next to it, on the same disk, and goes with the session. None is
                the folder for temporary files.
            memory_limit: such as "4GB"; default a quarter of the memory.
            threads: default all.

        Raises:
            ArgumentError: memory_limit or threads cannot be used.
        """
        if memory_limit is not None and not _MEMORY.fullmatch(memory_limit.strip()):
            raise ArgumentError(f"--memory-limit: got {memory_limit!r}; give a number and a unit, such as 4GB")
        if threads is not None and threads < 1:
            raise ArgumentError(f"--threads: got {threads}; use at least 1")
        self._duckdb = load()
        beside = Path(tempfile.gettempdir()) / "nagfast" if beside is None else beside
        make_folder(beside.parent)
        self.beside = beside
        self.folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}.spill-{os.getpid()}-", dir=beside.parent))
        self._numbers = itertools.count()
        self.connection = self._duckdb.connect(":memory:")
        limit = memory_limit.strip() if memory_limit else f"{env.memory_budget() // 1024} KiB"
        self.run(f"SET memory_limit={literal(limit)}")
        self.run(f"SET temp_directory={literal(str(self.folder / 'duckdb'))}")
        self.run("SET preserve_insertion_order=false")
        if threads is not None:
            self.run(f"SET threads={int(threads)}")

    def __enter__(self) -> Session:
        _remove_left_over(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, sql: str) -> duckdb.DuckDBPyConnection:
        """Run one statement.

        Raises:
            NagfastError: DuckDB refused; its first line is in the message.
        """
        try:
            return self.connection.execute(sql)
        except self._duckdb.OutOfMemoryException as error:
            raise NagfastError(
                f"memory: the limit was not enough ({first_line(error)}); raise --memory-limit, or free disk space "
                f"beside {self.beside} for what is spilled"
            ) from error
        except self._duckdb.Error as error:
            raise NagfastError(f"data: {first_line(error)}") from error

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a small result."""
        return cast(list[tuple[Any, ...]], self.run(sql).fetchall())

    def iterate(self, sql: str, rows: int = 4096) -> Iterator[tuple[Any, ...]]:
        """Rows of a result of any size, a few at a time; nothing else may run in the session meanwhile."""
        cursor = self.run(sql)
        while batch := cursor.fetchmany(rows):
            yield from batch

    def next_number(self) -> int:
        """0, 1, 2, ...: to name temporary files."""
        return next(self._numbers)

    def row(self, sql: str) -> tuple[Any, ...]:
        """The single row of an aggregate."""
        return self.rows(sql)[0]


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().splitlines()[0]


def _remove_left_over(mine: Path) -> None:
    """Remove spill folders of killed runs with the same output."""
    stem = mine.name.split(".spill-")[0]
    for folder in mine.parent.glob(f"{glob.escape(stem)}.spill-*"):
        pid = folder.name.split(".spill-")[1].split("-")[0]
        if folder != mine and pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)
