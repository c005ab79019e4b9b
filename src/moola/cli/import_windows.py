"""`moola data import`: windows become a set as they are, without the bars they were cut from."""

from __future__ import annotations

from pathlib import Path

import typer

from moola.cli.console import console, print_json
from moola.cli.options import AsJson, DataRoot


def import_windows(
    windows: Path = typer.Argument(help=".npy of shape (n, T, 4), or parquet: one row a window."),
    name: str = typer.Option(..., "--as", help="Name of the set."),
    rows: Path | None = typer.Option(
        None, help="CSV or parquet: last_bar, label, if known first_bar and label_end."
    ),
    class_names: str = typer.Option("", help="Names of the classes 0, 1, ...; none: no labels."),
    horizon_bars: int = typer.Option(0, help="Bars a label looks ahead, without label_end."),
    bar_seconds: float | None = typer.Option(None, help="Length of a bar, without first_bar."),
    timezone: str | None = typer.Option(None, help="Zone of times that name none."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Store windows as they are; what cannot be proven without bars is said in every audit.

    Example: `moola data import X.npy --rows rows.csv --class-names down,up --as mine`
    """
    from moola.data.imported import UNPROVEN, ImportOptions
    from moola.data.store.data_store import DataStore

    options = ImportOptions(
        class_names=tuple(c.strip() for c in class_names.split(",") if c.strip()),
        horizon_bars=horizon_bars,
        bar_seconds=bar_seconds,
        timezone=timezone,
    )
    imported = DataStore(data_root).import_set(name, windows, rows, options)
    if as_json:
        print_json({"name": imported.name, "sha256": imported.sha256, "windows": len(imported)})
        return
    console().print(f"{imported.name:<36}{imported.sha256}")
    console().print(f"{'':<36}{len(imported):,} windows of {imported.meta['T']} bars; {UNPROVEN}")
