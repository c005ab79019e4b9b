"""The callback by which a step reports its progress."""

from __future__ import annotations

from typing import Protocol

NO_STATE = ("resuming", 1, 1, "no state lies here: from the first epoch")


class Progress(Protocol):
    """Called during the work; the command line draws bars from it."""

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` parts of `task` are finished."""


def silent(task: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""
