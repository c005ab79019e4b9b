"""Commands about versions: promote, rollback, challenger, history, verify, keys, predict."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from moola.cli.console import console, print_json, progress_bars
from moola.cli.options import AsJson, DataRoot, Device, LedgerUrl, Name
from moola.cli.reports import print_decision
from moola.config import names

if TYPE_CHECKING:
    from moola.promotion.audit import Audit


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("promote")(promote)
    app.command("rollback")(rollback)
    app.command("challenger")(challenger)
    app.command("history")(history)
    app.command("verify")(verify)
    app.command("keys")(keys)
    app.command("predict")(predict)


def promote(
    version: str = typer.Option("newest", help="Version to promote."),
    name: str = Name,
    dry_run: bool = typer.Option(False, help="Check all but the locked test set."),
    ledger: str = LedgerUrl,
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Move Production to a version, if its gates and the locked test set allow it.

    Alias `production` and stage `Production` move together, the replaced version is archived, and
    the decision is written down. A refusal ends with exit code 1 and its reason.

    Example: `moola promote --version 2`
    """
    from moola.steps.promote import promote as ask

    summary = ask(
        version=None if version == "newest" else version,
        name=name,
        dry_run=dry_run,
        ledger_url=ledger or None,
        data_root=data_root,
    )
    if as_json:
        print_json({**dataclasses.asdict(summary.decision), "record": summary.record})
        return
    print_decision(summary.decision, summary.record)


def rollback(
    reason: str = typer.Option(..., help="Why; goes into the ledger."),
    to: str = typer.Option("", help="Version; empty: the one that held Production before."),
    name: str = Name,
    dry_run: bool = typer.Option(False, help="Verify, and change nothing."),
    ledger: str = LedgerUrl,
) -> None:
    """Put back a version that held Production before, after verifying it again.

    Example: `moola rollback --reason "drift since Monday"`
    """
    from moola.steps.registry import rollback as go_back

    decision = go_back(
        name=name, to=to or None, reason=reason, ledger_url=ledger or None, dry_run=dry_run
    )
    print_decision(decision, None)


def challenger(
    version: str = typer.Option(..., help="Version that shall challenge the champion."),
    name: str = Name,
    ledger: str = LedgerUrl,
) -> None:
    """Give alias `challenger` and stage `Staging` to a version.

    Example: `moola challenger --version 3`
    """
    from moola.steps.registry import challenge

    print_decision(challenge(name=name, version=version, ledger_url=ledger or None), None)


def history(
    name: str = Name,
    at: datetime | None = typer.Option(None, help="UTC time: who held Production then?"),
    ledger: str = LedgerUrl,
    as_json: bool = AsJson,
) -> None:
    """Show who held Production when, and every decision; the ledger's chain is checked first.

    Example: `moola history --at 2026-01-31`
    """
    from rich.table import Table

    from moola.steps.registry import read_history

    found = read_history(name, at=at, ledger_url=ledger or None)
    if as_json:
        entries = [dataclasses.asdict(entry) for entry in found.entries]
        print_json({"champion": found.champion, "at": at, "entries": entries})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("seq", "time (UTC)", "event", "from", "to", "who", "reason"):
        table.add_column(column, overflow="fold")
    for entry in found.entries:
        table.add_row(
            str(entry.seq),
            entry.at[:19],
            entry.event,
            entry.version_from or "-",
            entry.version_to or "-",
            entry.who,
            entry.reason.replace("[", r"\["),
        )
    out = console()
    out.print(table)
    moment = f"at {at:%Y-%m-%d %H:%M}" if at else "now"
    out.print(f"In Production {moment}: {found.champion or 'nothing'}")


def verify(name: str = Name, ledger: str = LedgerUrl, as_json: bool = AsJson) -> None:
    """Check the ledger's chain, every promotion's signature and files, and who holds Production.

    Example: `moola verify`
    """
    from moola.errors import AuditError
    from moola.steps.registry import verify as check

    found = check(name, ledger_url=ledger or None)
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        _print_audit(found)
    if found.findings:
        raise AuditError(f"{len(found.findings)} findings about {name}")


def _print_audit(found: Audit) -> None:
    out = console()
    head = (found.head or "-")[:16]
    out.print(f"{found.num_entries} ledger entries about {found.name}, head {head}")
    out.print(f"In Production: {found.champion or 'nothing'}")
    for finding in found.findings:
        out.print(f"  - {finding}", markup=False)
    if not found.findings:
        out.print("chain, signatures, files and stages agree")


def keys(revoke: str = typer.Option("", help="Key id to revoke."), ledger: str = LedgerUrl) -> None:
    """Show the keys whose signature counts; make the gate runner's if there is none.

    Example: `moola keys --revoke 1f0c...`
    """
    from moola.steps.registry import make_key, revoke_key

    if revoke:
        revoke_key(revoke, ledger_url=ledger or None)
    else:
        for identity in make_key(ledger_url=ledger or None):
            console().print(identity)


def predict(
    file: Path = typer.Argument(
        ..., help="Bars (CSV, parquet) or windows (CSV, parquet, .npy), in price units."
    ),
    output: Path = typer.Option(Path("predictions.parquet"), help="Parquet file to write."),
    model: str = typer.Option(
        f"models:/{names.REGISTERED_MODEL}@{names.ALIAS_PRODUCTION}", help="Model URI."
    ),
    step: int = typer.Option(1, help="Bars between the starts of two windows."),
    cross_gaps: bool = typer.Option(False, help="Windows may span gaps in the time line."),
    device: str = Device,
) -> None:
    """Score a file with a registered version, one row a window; memory does not grow with the file.

    Example: `moola predict data/bars/eurusd_1h.parquet --step 6 --output scores.parquet`
    """
    from moola.steps.predict import predict as score

    with progress_bars() as progress:
        done = score(
            file,
            output=output,
            model_uri=model,
            step=step,
            cross_gaps=cross_gaps,
            device=device,
            progress=progress,
        )
    console().print(
        f"{done.num_windows:,} windows scored by {model} (version {done.version}) -> {done.path}"
    )
