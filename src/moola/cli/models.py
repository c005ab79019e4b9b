"""`moola models`: what there is, what it takes, how large it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from moola.cli.console import console

if TYPE_CHECKING:
    from moola.models.registry import ModelEntry

_GROUPS = ("active", "classical", "legacy")


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("models")(models)


def models(
    as_json: bool = typer.Option(False, "--json", help="Print JSON and nothing else."),
) -> None:
    """List the models with role, inputs and parameters, counted for 20 features and two classes.

    Example: `moola models`
    """
    rows = model_rows()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("model", "role", "inputs", "encoder", "parameters", "for"):
        right = column == "parameters"
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "for")
    for group in _GROUPS:
        for row in (r for r in rows if r["group"] == group):
            table.add_row(
                row["name"],
                row["role"],
                row["inputs"],
                "yes" if row["takes_encoder"] else "no",
                "as trained" if row["parameters"] is None else f"{row['parameters']:,}",
                escape(row["purpose"]),
                style="dim" if group == "legacy" else None,
            )
    out = console()
    out.print(table)
    compact = next(r for r in rows if r["name"] == "enhanced_simple_lstm")["parameters_compact"]
    out.print(
        f"\nenhanced_simple_lstm in the compact preset: {compact:,} parameters. Legacy models are "
        "made by their full path (--json names it)."
    )


def model_rows() -> list[dict[str, Any]]:
    """Return one JSON-ready row a model: active, classical, then legacy."""
    from moola.models import ModelRegistry

    groups = (ModelRegistry.ACTIVE, ModelRegistry.CLASSICAL, ModelRegistry.LEGACY)
    return [
        {"group": group, **_row(entry)}
        for group, entries in zip(_GROUPS, groups, strict=True)
        for entry in entries.values()
    ]


def _row(entry: ModelEntry) -> dict[str, Any]:
    made = entry.load()
    row = {
        "name": entry.name,
        "role": entry.role,
        "inputs": entry.inputs,
        "takes_encoder": entry.takes_encoder,
        "parameters": made().num_parameters,
        "purpose": entry.purpose,
        "path": entry.path,
    }
    if hasattr(made, "from_preset"):
        row["parameters_compact"] = made.from_preset("compact").num_parameters
    return row
