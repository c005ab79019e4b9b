"""What the terminal shows: progress bars and the status report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moola.steps.progress import Progress

_WIDTH = 80
_VERDICT_STYLE = {"passed": "green", "failed": "red", "inconclusive": "yellow"}


def console() -> Any:
    """Return a console that writes plain text where there is no terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Progress]:
    """Draw one bar a task while the block runs; without a terminal, print each task's end.

    `quiet` draws and prints nothing.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    out = console()
    bars = Progress(
        TextColumn("{task.description:<26}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=out,
        disable=quiet or not out.is_terminal,
    )
    tasks: dict[str, Any] = {}

    def report(task: str, done: int, total: int, note: str = "") -> None:
        if task not in tasks:
            tasks[task] = bars.add_task(task, total=total, note=note)
        bars.update(tasks[task], completed=done, total=total, note=note)
        if not quiet and not out.is_terminal and done == total:
            out.print(f"  {task}: {total} of {total}  {note}".rstrip())

    with bars:
        yield report


def print_report(title: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a report: a title between rules, then sections of aligned names and values."""
    out = console()
    out.print("═" * _WIDTH)
    out.print(f"  {title}", style="bold")
    out.print("═" * _WIDTH)
    for heading, rows in sections.items():
        out.print(f"\n{heading}", style="bold")
        for name, value in rows.items():
            out.print(f"  {name + ':':<19}{value}")
    out.print("═" * _WIDTH)


def print_gates(reports: Sequence[Any]) -> None:
    """Print one line a gate with its first reason."""
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False)
    for column in ("gate", "verdict", "reason"):
        table.add_column(column, overflow="fold")
    for report in reports:
        style = _VERDICT_STYLE.get(report.verdict, "dim")
        for row, reason in enumerate(report.reasons):
            first = row == 0
            table.add_row(
                f"{report.gate} {report.name}" if first else "",
                f"[{style}]{report.verdict}[/]" if first else "",
                reason.replace("[", r"\["),
            )
    out.print(table)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of the same keys as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in rows[0] if rows else ("nothing stands here yet",):
        table.add_column(str(column).replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(words(v) for v in row.values()))
    console().print(table)


def print_json(value: Any) -> None:
    """Print a result for scripts; a NaN in it is an error."""
    print(json.dumps(value, indent=2, sort_keys=True, default=str, allow_nan=False))


def words(value: object) -> str:
    """Return a value as text, a mapping as ``name value`` pairs."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    return str(value)


def figure(value: float | None) -> str:
    """Return a figure with four digits, or ``undefined``."""
    return "undefined" if value is None else f"{value:.4f}"
