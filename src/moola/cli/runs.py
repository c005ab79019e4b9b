"""Commands about runs: runs, show, sync."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from moola.cli.console import console, figure, print_gates, print_json, print_report
from moola.cli.options import AsJson
from moola.cli.reports import print_finetune

if TYPE_CHECKING:
    from moola.steps.runs import StoredRun

_STATUS_STYLE = {"FINISHED": "green", "FAILED": "red", "KILLED": "yellow"}


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("runs")(runs)
    app.command("show")(show)
    app.command("sync")(sync)


def runs(
    num: int = typer.Option(20, help="How many, newest first."),
    step: str = typer.Option("", help="pretrain, finetune, ablate, sweep, evaluate or promote."),
    as_json: bool = AsJson,
) -> None:
    """List the newest runs of the store.

    Example: `moola runs --step finetune`
    """
    from rich.table import Table

    from moola.steps.runs import list_runs

    found = list_runs(num=num, step=step or None)
    if as_json:
        print_json([dataclasses.asdict(run) for run in found])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("run", "step", "started (UTC)", "seconds", "status", "log-loss", "name"):
        table.add_column(column, overflow="fold", no_wrap=column != "name")
    for run in found:
        style = _STATUS_STYLE.get(run.status, "dim")
        table.add_row(
            run.run_id[:8],
            run.step,
            _time(run.started_ms),
            "" if run.seconds is None else f"{run.seconds:.1f}",
            f"[{style}]{run.status}[/]",
            figure(run.metrics["log_loss"]) if "log_loss" in run.metrics else "",
            run.name,
        )
    console().print(table)


def show(
    run: str = typer.Argument("newest", help="A run's id or the beginning of it, its name, newest"),
    as_json: bool = AsJson,
) -> None:
    """Show what a run did, from the store alone: the status report again, or its gates.

    Example: `moola show 4f3a91c2`
    """
    from moola.steps.runs import finetune_view, gate_reports, read_run

    found = read_run(run)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    view = finetune_view(found)
    if view is not None:
        print_finetune(view)
    else:
        _print_run(found)
    if reports := gate_reports(found):
        print_gates(reports)


def sync() -> None:
    """Send what runs left in the spool while their tracking server was away.

    The next run does this by itself. Exit code 1: something still waits, or was refused.

    Example: `moola sync`
    """
    from moola.errors import Refused
    from moola.tracking.sync import sync as send

    open_ends = []
    num_spools = 0
    for report in send():
        num_spools += 1
        line = f"  {report.folder.name}: {report.num_sent} entries sent to {report.store}"
        if report.runs:
            line += f", runs {', '.join(run[:8] for run in report.runs)}"
        console().print(line if report.store else f"  {report.folder.name}", markup=False)
        if report.trouble:
            open_ends.append(f"{report.num_waiting} entries wait: {report.trouble}")
        if report.refused:
            open_ends.append(f"the store refused {'; '.join(report.refused)}")
    if open_ends:
        raise Refused("; ".join(dict.fromkeys(open_ends)))
    console().print("nothing was waiting" if not num_spools else "everything is in the store")


def _print_run(run: StoredRun) -> None:
    rows = {
        "Run ID": run.run_id,
        "Name": run.name,
        "Step": run.step or "-",
        "Status": run.status,
        "Started (UTC)": _time(run.started_ms),
        "Seconds": "" if run.seconds is None else f"{run.seconds:.1f}",
        "Git": run.tags.get("mlflow.source.git.commit", "nogit")[:7],
    }
    if reason := run.tags.get("moola.reason"):
        rows["Reason"] = reason
    if note := run.tags.get("mlflow.note.content"):
        rows["Verdict"] = note.strip().splitlines()[0]
    sections = {
        "RUN": rows,
        "PARAMETERS": dict(sorted(run.params.items())),
        "RESULTS": {k: figure(v) for k, v in sorted(run.metrics.items())},
        "CHILD RUNS": {c.name: c.tags.get("moola.verdict", c.status) for c in run.children},
    }
    print_report(f"RUN {run.name}", {k: v for k, v in sections.items() if v})


def _time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"
