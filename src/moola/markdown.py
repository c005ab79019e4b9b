"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table; a cell is put on one line, its bars escaped, a float in four digits."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("|" + "".join(f" {_cell(value)} |" for value in line) for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
