"""Options that several commands share."""

from __future__ import annotations

import typer

from moola.config import names

DataRoot = typer.Option("data", "--data-root", help="Root of the data registry: folder or URL.")
Device = typer.Option("auto", help="auto, cpu or cuda; cuda without a GPU is an error at once.")
Name = typer.Option(names.REGISTERED_MODEL, "--name", help="Registered model.")
LedgerUrl = typer.Option("", "--ledger", help="Database of the ledger; empty: the registry's own.")
AsJson = typer.Option(False, "--json", help="Print the result as JSON and nothing else.")
Jobs = typer.Option(
    0,
    "--jobs",
    help="Trainings at the same time; 0: one here, as many as there is room for with Ray.",
)
LauncherName = typer.Option(
    "local", "--launcher", help="Where trainings run: local processes, or ray."
)
Address = typer.Option(
    "", "--address", help="Of a Ray cluster (host:6379); empty: Ray on this machine."
)
GpusPerTask = typer.Option(0.0, "--gpus-per-task", help="Share of a GPU a Ray task asks for.")


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Read an option such as ``17,18,19``."""
    from moola.errors import ConfigError

    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"{name} is {text!r}", limit="whole numbers, such as 17,18,19") from None
