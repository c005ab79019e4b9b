"""`moola drift`: what is served beside what was trained on."""

from __future__ import annotations

from pathlib import Path

import typer

from moola.cli.console import console, figure
from moola.cli.options import DataRoot, Name


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("drift")(drift)


def drift(
    folder: Path = typer.Argument(..., help="What `moola serve --log-predictions` wrote."),
    name: str = Name,
    version: str = typer.Option("", help="Version; empty: the one that answered last."),
    labels: Path | None = typer.Option(None, help="Labels by now: request_id, row, label."),
    data_root: str = DataRoot,
) -> None:
    """Compare served windows and scores with the training set; log a run about it.

    Example: `moola drift served --labels labels.csv`
    """
    from rich.table import Table

    from moola.steps.drift import drift as compare

    found = compare(folder, name=name, version=version or None, labels=labels, data_root=data_root)
    table = Table(box=None, pad_edge=False)
    for column in ("", "PSI", "noise", "KS", "p (Holm)", "effect", ""):
        table.add_column(column)
    for row in found.report.rows:
        figures = (row.psi, row.psi_noise, row.ks, row.p_holm, row.effect)
        mark = "[red]drift[/]" if row.drifted else ""
        table.add_row(row.name, *(f"{value:.3f}" for value in figures), mark)
    out = console()
    out.print(table)
    labelled = found.labelled or {}
    for metric in (m for m in ("log_loss", "brier", "ece", "accuracy") if m in labelled):
        out.print(f"{metric} of {found.num_labelled} labelled: {figure(labelled[metric])}")
    blocks = found.report.num_blocks
    out.print(
        f"version {found.version}: {found.report.num_served:,} served windows ({blocks[1]} blocks) "
        f"beside {found.report.num_train:,} ({blocks[0]} blocks); run {found.run_id}"
    )
    out.print(f"drifted: {', '.join(found.report.drifted) or 'nothing'}")
