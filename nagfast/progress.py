"""How a long run says how far it is: a bar with tokens/s and ETA on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)
LOG_SECONDS = 10.0


class Progress:
    """Counts documents and tokens of a run; `share` is how much of the input is done, 0 to 1, where that is known."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.documents = 0
        self.tokens = 0
        self.share = 0.0
        self._begun = time.monotonic()
        self._first_share: float | None = None  # what an earlier run had done counts for the share, not for the ETA
        self._part = (0.0, 1.0, 1, 0)
        self._said = self._begun
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()]
            columns += [TextColumn("{task.fields[rate]}"), TimeRemainingColumn()]
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=1.0, rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Wall time since the start."""
        return time.monotonic() - self._begun

    @property
    def rate(self) -> float:
        """Tokens per second since the start."""
        return self.tokens / max(self.seconds, 1e-9)

    def begin_part(self, share: float, tokens: int) -> None:
        """A part of the input begins: its tokens take the share from where it is to `share`."""
        self._part = (self.share, share, max(1, tokens), self.tokens)
        if self._first_share is None:
            self._first_share = self.share

    def advance(self, documents: int, tokens: int) -> None:
        """Note work done and say so, at most every few seconds."""
        self.documents += documents
        self.tokens += tokens
        begin, end, size, before = self._part
        self.share = begin + (end - begin) * min(1.0, (self.tokens - before) / size)
        text = f"{self.documents:,} documents, {self.rate:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.share, rate=text)
        elif time.monotonic() - self._said >= LOG_SECONDS:
            self._said = time.monotonic()
            log.info("%s: %.0f%%, %s, %s left", self.title, 100 * self.share, text, self.eta())

    def eta(self) -> str:
        """Time left as h:mm:ss, or "?" where it cannot be told."""
        done = self.share - (self._first_share or 0.0)
        if done <= 0:
            return "?"
        left = int(self.seconds * (1 - self.share) / done)
        return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
