"""What the terminal shows: progress bars and the status report."""

from __future__ import annotations

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
def progress_bars() -> Iterator[Progress]:
    """Draw one bar a task while the block runs; without a terminal, print each task's end."""
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
        disable=not out.is_terminal,
    )
    tasks: dict[str, Any] = {}

    def report(task: str, done: int, total: int, note: str = "") -> None:
        if task not in tasks:
            tasks[task] = bars.add_task(task, total=total, note=note)
        bars.update(tasks[task], completed=done, total=total, note=note)
        if not out.is_terminal and done == total:
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


def figure(value: float | None) -> str:
    """Return a figure with four digits, or ``undefined``."""
    return "undefined" if value is None else f"{value:.4f}"
