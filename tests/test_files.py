"""Atomic writes: a file appears whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nagfast import files
from nagfast.errors import ArgumentError, NagfastError

FULL = OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_writes_and_replaces(tmp_path: Path) -> None:
    final = tmp_path / "a" / "b" / "out.txt"
    files.atomic_write_text(final, "één\r\n")
    assert final.read_bytes() == "één\r\n".encode()
    files.atomic_write_bytes(final, b"two")
    assert final.read_bytes() == b"two"
    assert names(final.parent) == ["out.txt"]


def test_temporary_is_hidden_and_in_the_same_folder(tmp_path: Path) -> None:
    with files.atomic_path(tmp_path / "x.parquet") as path:
        assert path.parent == tmp_path
        assert path.name.startswith(".x.parquet.tmp-")
        path.write_bytes(b"1")
        assert not (tmp_path / "x.parquet").exists()


def test_long_names(tmp_path: Path) -> None:
    final = tmp_path / ("é" * 120)
    files.atomic_write_bytes(final, b"1")
    assert final.read_bytes() == b"1"


def test_error_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    final = tmp_path / "x"
    final.write_text("old")
    with pytest.raises(ValueError, match="mine"), files.atomic_path(final) as path:
        path.write_text("half")
        raise ValueError("mine")
    assert final.read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_keyboard_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.atomic_path(tmp_path / "x") as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_disk_full_names_file_and_mend(tmp_path: Path) -> None:
    final = tmp_path / "x.parquet"
    with pytest.raises(NagfastError) as caught, files.atomic_path(final) as path:
        path.write_bytes(b"half")
        raise FULL
    message = str(caught.value)
    assert str(final) in message
    assert "No space left" in message
    assert "free space" in message
    assert "\n" not in message
    assert caught.value.exit_code == 1
    assert names(tmp_path) == []


def test_disk_full_at_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise FULL

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(NagfastError, match="No space left"):
        files.atomic_write_bytes(tmp_path / "x", b"1")
    assert names(tmp_path) == []


def test_disk_full_for_real(tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(NagfastError, match="No space left"), files.atomic_path(tmp_path / "x") as path:
        path.symlink_to("/dev/full")
        path.write_bytes(b"0" * 100_000)
    assert names(tmp_path) == []


def test_file_size_limit(tmp_path: Path) -> None:
    """A write that gets part of its bytes out and then fails."""
    script = f"""
import resource, sys
from nagfast.errors import NagfastError
from nagfast.files import atomic_write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    atomic_write_bytes({str(tmp_path / "x")!r}, b"0" * 5000)
except NagfastError as error:
    print(error)
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert "could not be written" in done.stdout
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_full_tmpfs(tmp_path: Path) -> None:
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=False, capture_output=True
    ).returncode:
        pytest.skip("mount is not allowed here")
    try:
        files.atomic_write_bytes(tmp_path / "small", b"ok")
        with pytest.raises(NagfastError, match="No space left"):
            files.atomic_write_bytes(tmp_path / "large", b"0" * 1_000_000)
        assert names(tmp_path) == ["small"]
        files.atomic_write_bytes(tmp_path / "fits again", b"0" * 1000)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_error_of_another_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NagfastError, match="elsewhere"), files.atomic_path(tmp_path / "x"):
        (tmp_path / "elsewhere").read_bytes()


@pytest.mark.parametrize("final", ["/dev/null", "."])
def test_refuses_what_is_no_regular_file(final: str) -> None:
    with pytest.raises(ArgumentError, match="not a regular file"):
        files.atomic_write_bytes(final, b"")
    assert not Path("/dev/null").is_file()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NagfastError, match="could not be written"):
        files.atomic_write_bytes(tmp_path / "file" / "x", b"")


def test_block_that_wrote_nothing(tmp_path: Path) -> None:
    with pytest.raises(NagfastError, match="could not be written"), files.atomic_path(tmp_path / "x"):
        pass
    assert names(tmp_path) == []


def kill_between_write_and_rename(final: Path) -> None:
    script = f"""
import time
from nagfast.files import atomic_path
with atomic_path({str(final)!r}) as path:
    path.write_bytes(b"half")
    print("written", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    assert files.clean_temporaries(final.parent) == []  # its writer lives
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


def test_kill_leaves_no_final_file_and_the_next_run_cleans(tmp_path: Path) -> None:
    final = tmp_path / "shard.parquet"
    kill_between_write_and_rename(final)
    assert not final.exists()
    left = names(tmp_path)
    assert len(left) == 1
    assert [p.name for p in files.clean_temporaries(tmp_path)] == left
    assert names(tmp_path) == []


def test_cleaning_spares_what_is_alive_and_what_is_not_ours(tmp_path: Path) -> None:
    host = files._HOST
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "x.tmp-1").write_text("")
    parent = tmp_path / f".x.tmp-{host}-{os.getppid()}-0"
    elsewhere = tmp_path / ".y.tmp-another.host-1-0"
    own_earlier = tmp_path / f".z.tmp-{host}-{os.getpid()}-999999"
    for path in (parent, elsewhere, own_earlier):
        path.write_text("")
    with files.atomic_path(tmp_path / "live") as live:
        live.write_text("1")
        assert files.clean_temporaries(tmp_path) == [own_earlier]
    old = time.time() - files.STALE_SECONDS - 10
    os.utime(parent, (old, old))
    os.utime(elsewhere, (old, old))
    assert files.clean_temporaries(tmp_path) == [parent, elsewhere]
    assert names(tmp_path) == [".hidden", "live", "x.tmp-1"]
    assert files.clean_temporaries(tmp_path / "nothing here") == []
