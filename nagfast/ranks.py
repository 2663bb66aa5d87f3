"""Several processes that share a job: which one this is, as torchrun and accelerate say it in the environment.

Work is dealt out by its number, so nothing is said between the processes, and what a piece of work is called does not
depend on how many there are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nagfast import env
from nagfast.errors import ArgumentError


@dataclass(frozen=True)
class Rank:
    """One of the processes of a job."""

    rank: int = 0
    """Its number, 0 to world_size - 1."""
    world_size: int = 1
    """How many there are, over all machines."""
    local_rank: int = 0
    """Its number on this machine."""
    local_world_size: int = 1
    """How many there are on this machine."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE; one process where WORLD_SIZE is not set.

        Args:
            environment: default os.environ.

        Raises:
            ArgumentError: a value is not a number or outside its range.
        """
        found = os.environ if environment is None else environment
        world_size = _number(found, "WORLD_SIZE", 1, 1, None)
        rank = _number(found, "RANK", 0 if world_size == 1 else None, 0, world_size)
        local_rank = _number(found, "LOCAL_RANK", 0 if world_size == 1 else rank, 0, world_size)
        local_world_size = _number(found, "LOCAL_WORLD_SIZE", world_size, local_rank + 1, world_size + 1)
        return cls(rank, world_size, local_rank, local_world_size)

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""
        return self.world_size == 1

    def takes(self, source: int, chunk: int) -> bool:
        """Whether a chunk of the source of that number is this process's; one large source is dealt out too."""
        return (source + chunk) % self.world_size == self.rank

    def device(self, asked: str) -> str:
        """The device of this process: with several on a machine, auto is the GPU of its own."""
        if asked != "auto" or self.alone:
            return asked
        import torch

        # A launcher may also show each process its own GPU only.
        return f"cuda:{self.local_rank}" if torch.cuda.is_available() and torch.cuda.device_count() > 1 else "auto"

    def share_processors(self, threads: int | None = None) -> None:
        """Give the tokenizers library as many threads as asked for, else this process's share of the processors.

        RAYON_NUM_THREADS, where the user set it, stays. It holds for the whole process, from the library's first batch.
        """
        share = max(1, env.cpu_count() // self.local_world_size)
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads or share))

    def own_file(self, path: Path) -> Path:
        """The file of this process where each writes one: scores.parquet -> scores-00000-of-00002.parquet."""
        return self.all_files(path)[self.rank]

    def all_files(self, path: Path) -> list[Path]:
        """The files of all processes, by rank."""
        if self.alone:
            return [path]
        numbers = range(self.world_size)
        return [path.with_name(f"{path.stem}-{n:05d}-of-{self.world_size:05d}{path.suffix}") for n in numbers]

    def describe(self) -> str:
        """`part 1 of 2`."""
        return f"part {self.rank + 1} of {self.world_size}"


def _number(found: Mapping[str, str], name: str, default: int | None, low: int, end: int | None) -> int:
    text = found.get(name, "")
    if not text and default is not None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low or (end is not None and value >= end):
        upper = "or more" if end is None else f"to {end - 1}"
        raise ArgumentError(
            f"{name}: got {text!r} in the environment; use {low} {upper} (a launcher such as torchrun sets it), "
            "or unset WORLD_SIZE to run one process"
        )
    return value
