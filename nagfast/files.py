"""Whole files or none: every output is written under a temporary name, flushed to disk and renamed.

A temporary is named `.{final name}.tmp-{host}-{pid}-{counter}` and lies in the folder of the final file (a rename is
atomic only within a file system). A run that is killed leaves its temporaries behind; clean_temporaries removes those
whose writer is gone. Nothing reads a name that starts with a dot.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from nagfast.errors import ArgumentError, NagfastError

STALE_SECONDS = 24 * 3600
"""A temporary of another machine counts as left over once it was not written to for this long."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY = re.compile(r"^\..+\.tmp-(?P<host>[A-Za-z0-9_.]*)-(?P<pid>\d+)-\d+$")
_HOST = re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname())[:32]
_counter = itertools.count()
_live: set[Path] = set()  # temporaries this process is writing: its id alone may belong to an earlier, killed run
_lock = threading.Lock()


def write_error(path: Path, error: OSError) -> NagfastError:
    """The one-line error for a file that could not be written.

    Args:
        path: the final file, as the user named it.
        error: what the operating system said.
    """
    reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0] if str(error) else "unknown error"
    culprit = str(error.filename) if error.filename else ""
    if culprit and not _TEMPORARY.match(Path(culprit).name) and culprit != str(path):
        reason += f": {culprit}"
    if error.errno in _NO_SPACE:
        mend = "free space there or write elsewhere, and run again"
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        mend = "choose a folder that may be written to"
    else:
        mend = "nothing half-written was left; check the path and run again"
    return NagfastError(f"{path}: could not be written ({reason}); {mend}")


def make_folder(folder: Path) -> Path:
    """Create a folder and its parents; one that exists is fine.

    Raises:
        NagfastError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder survive a power cut; file systems that cannot do it are left as they are."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_path(final: Path | str, *, replace: bool = True) -> Iterator[Path]:
    """A temporary path to write to; it becomes `final` when the block ends well, and vanishes when it does not.

    The block may open, write and close the path as often as it likes, and must have closed it at its end. The
    temporary does not end in the suffix of the final file, so a writer that looks at suffixes needs an open handle
    instead. Parent folders are created.

    Args:
        final: the file to make.
        replace: whether one that exists by the end of the block is replaced or stays as it is.

    Yields:
        A path in the same folder that does not exist yet.

    Raises:
        ArgumentError: `final` is a folder, a device or something else that a rename must not replace.
        NagfastError: the operating system refused (disk full, no permission, ...).
    """
    final = Path(final)
    if final.exists() and not final.is_file():
        raise ArgumentError(f"{final}: is not a regular file and cannot be replaced; give the name of a file")
    make_folder(final.parent)
    stem = final.name[:48]  # at most 192 bytes, so that the longer name stays within a file system's 255
    temporary = final.parent / f".{stem}.tmp-{_HOST}-{os.getpid()}-{next(_counter)}"
    key = temporary.absolute()
    with _lock:
        _live.add(key)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        if replace or not _link(temporary, final):
            temporary.replace(final)
        sync_folder(final.parent)
    except OSError as error:
        raise write_error(final, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        with _lock:
            _live.discard(key)


def _link(temporary: Path, final: Path) -> bool:
    """Give a file its final name unless somebody else has; False where the file system cannot do that."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        return True
    except OSError:
        return final.exists()
    return True


def atomic_write_bytes(final: Path | str, data: bytes) -> None:
    """Write a whole file or none (see atomic_path for the errors)."""
    with atomic_path(final) as path:
        path.write_bytes(data)


def atomic_write_text(final: Path | str, text: str, *, replace: bool = True) -> None:
    """Write a whole UTF-8 file or none, line ends as given (see atomic_path for `replace` and the errors)."""
    with atomic_path(final, replace=replace) as path:
        path.write_bytes(text.encode("utf-8"))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's process
        return True
    return True


def _is_left_over(path: Path, host: str, pid: int) -> bool:
    with _lock:
        if path.absolute() in _live:
            return False
    if host == _HOST and (pid == os.getpid() or not _alive(pid)):
        return True
    # Another machine that shares the folder, or a process id used again: age is all there is to go by.
    return time.time() - path.stat().st_mtime > STALE_SECONDS


def clean_temporaries(folder: Path | str) -> list[Path]:
    """Remove what killed runs left behind in a folder (not below it).

    Removed are temporaries of this machine whose process is gone, and any not written to for STALE_SECONDS; those of
    runs that are under way stay.

    Returns:
        The files removed, sorted; empty where the folder does not exist.
    """
    folder = Path(folder)
    removed = []
    for path in sorted(folder.glob(".*.tmp-*")) if folder.is_dir() else []:
        match = _TEMPORARY.match(path.name)
        if not match:
            continue
        with contextlib.suppress(OSError):  # another run may be cleaning too
            if _is_left_over(path, match["host"], int(match["pid"])):
                path.unlink()
                removed.append(path)
    return removed


def remove(path: Path) -> None:
    """Remove a file where it is there.

    Raises:
        NagfastError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
