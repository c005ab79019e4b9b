"""Commands about data: build, verify."""

from __future__ import annotations

from pathlib import Path

import typer

from moola.cli.console import console

app = typer.Typer(no_args_is_help=True, help="Bars, window sets and splits.")

DataRoot = typer.Option(Path("data"), "--data-root", help="Root of the data registry.")


@app.command()
def build(
    recipes: Path | None = typer.Option(None, help="YAML recipes; default: those of Moola."),
    data_root: Path = DataRoot,
) -> None:
    """Build every set and split that does not stand yet.

    Example: `moola data build`
    """
    from moola.data.registry import DataRegistry

    for name, digest in DataRegistry(data_root).build(recipes).items():
        console().print(f"{name:<36}{digest}")
