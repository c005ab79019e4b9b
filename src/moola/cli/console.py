"""How results are printed: reports, tables, JSON, and bars while something runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from moola.errors import printable_lines

if TYPE_CHECKING:
    from moola.judging.progress import Progress

_WIDTH = 80
_VERDICT_STYLE = {"passed": "green", "failed": "red", "inconclusive": "yellow", "held": "magenta"}


def console() -> Any:
    """Return a console that writes text as it is: no markup, no colour but on a terminal.

    Characters that do not print are escaped: names of models and runs are other people's words, and
    a terminal acts upon some.
    """
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(printable_lines(text), **options)

    return Plain(
        highlight=False,
        soft_wrap=True,
        markup=False,
        emoji=False,
        color_system=None if os.environ.get("NO_COLOR") else "auto",  # bold is a colour too
    )


def print_columns(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print one line a row, nothing cut: aligned on a terminal, tab-separated in a pipe.

    A cell is a text, or a text in a style.
    """
    out = console()
    lines = [[styled(c, "bold") for c in columns], *rows]
    if not out.is_terminal:
        for line in lines:
            print("\t".join(printable_lines(str(cell)) for cell in line))
        return
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(columns))]
    for line in lines:
        row = styled("", "")
        for cell, width in zip(line, widths, strict=True):
            row.append_text(cell if hasattr(cell, "append_text") else styled(str(cell), ""))
            row.append(" " * (width - len(str(cell)) + 2))
        row.rstrip()
        out.print(row)


def styled(text: str, style: str) -> Any:
    """Return a text in a style, for a line or a cell of a table."""
    from rich.text import Text

    return Text(printable_lines(text), style=style)


def table(*columns: str) -> Any:
    """Return an empty table without rules."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    return grid


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
        TextColumn("{task.description:<26}", markup=False),
        BarColumn(bar_width=24 if out.width >= _WIDTH else 8),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=out,
        disable=quiet or not out.is_terminal,
    )
    tasks: dict[str, Any] = {}

    def report(task: str, done: int, total: int, note: str = "") -> None:
        if not tasks:
            bars.start()  # not before: a terminal would show an empty line being drawn again
        if task not in tasks:
            tasks[task] = bars.add_task(task, total=total, note=note)
        bars.update(tasks[task], completed=done, total=total, note=note)
        if not quiet and not out.is_terminal and done == total:
            out.print(f"  {task}: {total} of {total}  {note}".rstrip())

    try:
        yield report
    finally:
        bars.stop()


def print_report(title: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a report: a title between rules, then sections of aligned names and values."""
    out = console()
    rule = "═" * (min(_WIDTH, out.width) if out.is_terminal else _WIDTH)
    out.print(rule)
    out.print(f"  {title}", style="bold")
    out.print(rule)
    for heading, rows in sections.items():
        out.print(f"\n{heading}", style="bold")
        for name, value in rows.items():
            out.print(f"  {name + ':':<18} {value}")
    out.print(rule)


def print_gates(reports: Sequence[Any]) -> None:
    """Print the verdict of each gate and its reasons."""
    rows = table("gate", "verdict", "reason")
    for report in reports:
        verdict = styled(report.verdict, _VERDICT_STYLE.get(report.verdict, "dim"))
        first, *others = report.reasons
        rows.add_row(f"{report.gate} {report.name}", verdict, first)
        for reason in others:
            rows.add_row("", "", reason)
    console().print(rows)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of the same keys as a table."""
    names = list(rows[0]) if rows else ["nothing is here yet"]
    grid = table(*(str(name).replace("_", " ") for name in names))
    for row in rows:
        grid.add_row(*(words(v) for v in row.values()))
    console().print(grid)


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
