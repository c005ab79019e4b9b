"""`moola models`: what there is, what it takes, how large it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moola.cli.console import console, print_json, table
from moola.cli.options import AsJson

if TYPE_CHECKING:
    from moola.models.catalogue import ModelEntry

_GROUPS = ("active", "classical", "legacy")


def models(as_json: bool = AsJson) -> None:
    """List the models with role, inputs and parameters, counted for 20 features and two classes.

    Example: `moola models`
    """
    rows = model_rows()
    if as_json:
        print_json(rows)
        return
    facts, purposes = table("model", "role", "inputs", "encoder"), table("model", "for")
    facts.add_column("parameters", justify="right")
    for row in rows:
        style = "dim" if row["group"] == "legacy" else None
        size = "as trained" if row["parameters"] is None else f"{row['parameters']:,}"
        encoder = "yes" if row["takes_encoder"] else "no"
        facts.add_row(row["name"], row["role"], row["inputs"], encoder, size, style=style)
        purposes.add_row(row["name"], row["purpose"], style=style)
    out = console()
    out.print(facts)
    out.print()
    out.print(purposes)
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
    estimator = entry.load()
    row = {
        "name": entry.name,
        "role": entry.role,
        "inputs": entry.inputs,
        "takes_encoder": entry.takes_encoder,
        "parameters": estimator().num_parameters,
        "purpose": entry.purpose,
        "path": entry.path,
    }
    if hasattr(estimator, "from_preset"):
        row["parameters_compact"] = estimator.from_preset("compact").num_parameters
    return row
