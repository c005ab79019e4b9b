"""Options that several commands share."""

from __future__ import annotations

import typer

from moola.config import names

DataRoot = typer.Option("data", "--data-root", help="Root of the data registry: folder or URL.")
Device = typer.Option("auto", help="auto, cpu or cuda; cuda without a GPU is an error at once.")
Name = typer.Option(names.REGISTERED_MODEL, "--name", help="Registered model.")
LedgerUrl = typer.Option("", "--ledger", help="Database of the ledger; empty: the registry's own.")
AsJson = typer.Option(False, "--json", help="Print the result as JSON and nothing else.")
