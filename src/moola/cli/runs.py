"""Commands about runs and where they are looked at: runs, show, sync, server, ui."""

from __future__ import annotations

import dataclasses
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from moola.cli.console import (
    console,
    figure,
    print_columns,
    print_gates,
    print_json,
    print_report,
    styled,
)
from moola.cli.options import AsJson, one_of
from moola.cli.reports import print_finetune
from moola.config import names

if TYPE_CHECKING:
    from moola.steps.runs import StoredRun

_STATUS_STYLE = {"FINISHED": "green", "FAILED": "red", "KILLED": "yellow"}


def runs(
    num: int = typer.Option(20, help="How many, newest first."),
    step: str = typer.Option(
        "",
        help=f"One step only: {', '.join(names.STEPS)}; empty: any step.",
        autocompletion=one_of(*names.STEPS),
    ),
    as_json: bool = AsJson,
) -> None:
    """List the newest runs of the store.

    Example: `moola runs --step finetune`
    """
    from moola.steps.runs import list_runs

    listed_runs = list_runs(num=num, step=step or None)
    if as_json:
        print_json([dataclasses.asdict(run) for run in listed_runs])
        return
    rows = [
        (
            run.run_id[:8],
            run.step,
            _time(run.started_ms),
            "" if run.seconds is None else f"{run.seconds:.1f}",
            styled(run.status, _STATUS_STYLE.get(run.status, "dim")),
            figure(run.metrics["log_loss"]) if "log_loss" in run.metrics else "",
            run.name,
        )
        for run in listed_runs
    ]
    columns = ("run", "step", "started (UTC)", "seconds", "status", "log-loss", "name")
    print_columns(columns, rows)


def show(
    run: str = typer.Argument("newest", help="A run's id or the beginning of it, its name, newest"),
    as_json: bool = AsJson,
) -> None:
    """Show what a run did, from the store alone: the status report again, or its gates.

    Example: `moola show 4f3a91c2`
    """
    from moola.steps.runs import finetune_view, gate_reports, read_run

    report = read_run(run)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    view = finetune_view(report)
    if view is not None:
        if report.status != "FINISHED":
            status = styled(report.status, _STATUS_STYLE.get(report.status, "dim"))
            console().print(status, report.tags.get(names.TAG_REASON, ""), sep=": ")
        print_finetune(view)
    else:
        _print_run(report)
    if reports := gate_reports(report):
        print_gates(reports)


def sync(as_json: bool = AsJson) -> None:
    """Send what runs left in the spool while their tracking server was away.

    The next run does this by itself. Exit code 1: something still waits, or was refused.

    Example: `moola sync`
    """
    import moola.tracking.sync
    from moola.errors import Refused

    reports, open_ends = [], []
    for report in moola.tracking.sync.sync():
        reports.append(dataclasses.asdict(report))
        if not as_json:
            line = f"  {report.folder.name}"
            if report.store:
                line += f": {report.num_sent} entries sent to {report.store}"
            if report.runs:
                line += f", runs {', '.join(run[:8] for run in report.runs)}"
            console().print(line)
        if report.trouble:
            open_ends.append(f"{report.num_waiting} entries wait: {report.trouble}")
        if report.refused:
            open_ends.append(f"the store refused {'; '.join(report.refused)}")
    if as_json:
        print_json(reports)
    if open_ends:
        raise Refused("; ".join(dict.fromkeys(open_ends)))
    if not as_json:
        console().print("everything is in the store" if reports else "nothing was waiting")


def server(
    more: list[str] = typer.Argument(None, help="After --: further options of mlflow server."),
    backend_store_uri: str = typer.Option(
        names.DEFAULT_TRACKING_URI, help="SQLite or PostgreSQL: runs, registry and ledger."
    ),
    artifacts_destination: str = typer.Option(names.ARTIFACT_ROOT, help="Folder or bucket."),
    host: str = typer.Option("127.0.0.1", help="Address to listen on."),
    port: int = typer.Option(5000, help="Port to listen on."),
    workers: int = typer.Option(1, help="Processes."),
    policy: Path | None = typer.Option(None, help="YAML of the promotion policy."),
    auth: bool = typer.Option(False, help="Users must log in (MLflow's basic-auth)."),
    allowed_hosts: str = typer.Option(
        "", help="Names clients call it by: a,b; empty: this machine and private addresses."
    ),
) -> None:
    """Start MLflow's server with the guard: nothing unproven gets a guarded alias.

    What comes after `--` is passed on to `mlflow server`.

    Example: `moola server --backend-store-uri postgresql://moola@127.0.0.1/moola -- --dev`
    """
    from moola.promotion.guard.server import server_command

    command = server_command(
        project=Path(),
        backend_store_uri=backend_store_uri,
        artifacts_destination=artifacts_destination,
        host=host,
        port=port,
        workers=workers,
        policy_file=policy,
        auth=auth,
        allowed_hosts=allowed_hosts,
        more=more or [],
    )
    console().print(f"Guarded MLflow server on http://{host}:{port}, with its history at /moola")
    for rule in command.enforces:
        console().print(f"  - {rule}")
    os.execve(command.argv[0], list(command.argv), {**os.environ, **command.env})


def ui(
    page: str = typer.Argument("gates", help="gates: where the gates of evaluations are compared."),
    as_json: bool = AsJson,
) -> None:
    """Print the addresses of the pages where gates are compared, and open the newest in a browser.

    The browser is opened from a terminal only. The page needs `make ui` or `moola server` running,
    or a tracking server.

    Example: `moola ui gates`
    """
    import webbrowser

    from moola.errors import ConfigError
    from moola.steps.pages import gate_pages

    if page != "gates":
        raise ConfigError(f"page is {page!r}", limit="gates")
    pages = gate_pages()
    if as_json:
        print_json([{"title": title, "url": url} for title, url in pages])
        return
    for title, url in pages:
        console().print(f"{title:<30} {url}")
    if sys.stdout.isatty():
        newest = next(url for title, url in pages if title.startswith("gates of"))
        webbrowser.open(newest)


def _print_run(run: StoredRun) -> None:
    rows = {
        "Run ID": run.run_id,
        "Name": run.name,
        "Step": run.step or "-",
        "Status": run.status,
        "Started (UTC)": _time(run.started_ms),
        "Seconds": "" if run.seconds is None else f"{run.seconds:.1f}",
        "Git": run.tags.get(names.TAG_GIT_COMMIT, "nogit")[:7],
    }
    if reason := run.tags.get(names.TAG_REASON):
        rows["Reason"] = reason
    note_lines = [line for line in run.tags.get(names.TAG_NOTE, "").splitlines() if line.strip()]
    if words := next((line for line in note_lines if not line.startswith("#")), ""):
        rows["In words"] = words
    sections = {
        "RUN": rows,
        "PARAMETERS": dict(sorted(run.params.items())),
        "RESULTS": {k: figure(v) for k, v in sorted(run.metrics.items())},
        "CHILD RUNS": {c.name: c.tags.get(names.TAG_VERDICT, c.status) for c in run.children},
    }
    print_report(f"RUN {run.name}", {k: v for k, v in sections.items() if v})


def _time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"
