"""Commands about a version at work: serve, predict, drift."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from moola.cli.console import console, figure, print_json, progress_bars, styled, table
from moola.cli.options import AsJson, DataRoot, Device, Name, options_of
from moola.config import names
from moola.config.serving import ENV_TOKEN, ServeConfig

if TYPE_CHECKING:
    from moola.steps.drift import DriftSummary


@options_of(ServeConfig)
def serve(config: ServeConfig) -> None:
    """Serve the proven version in Production, and follow promotions while serving.

    Signature and files are verified before a version answers. /invocations, /ping and /version are
    those of `mlflow models serve`; besides, Arrow, npz and base64 bodies, and /metrics. With
    MOOLA_SERVE_TOKEN set, callers must send it as bearer token.

    Example: `moola serve --port 5001 --log-predictions served`
    """
    import moola.steps.serve

    guarded = "with a bearer token" if os.environ.get(ENV_TOKEN) else "without a token"
    address = f"{config.name} on http://{config.host}:{config.port}, {guarded}"
    moola.steps.serve.serve(config, on_verified=lambda: console().print(address))


def predict(
    file: Path = typer.Argument(
        ..., help="Bars (CSV, parquet) or windows (CSV, parquet, .npy), in price units."
    ),
    output: Path = typer.Option(Path("predictions.parquet"), help="Parquet file to write."),
    model: str = typer.Option(
        f"models:/{names.REGISTERED_MODEL}@{names.ALIAS_PRODUCTION}", help="Model URI."
    ),
    step: int = typer.Option(1, help="Bars between the starts of two windows."),
    cross_gaps: bool | None = typer.Option(
        None,
        "--cross-gaps/--no-cross-gaps",
        help="Whether windows may span gaps in the time line; default: as the version's set.",
    ),
    data_root: str = DataRoot,
    device: str = Device,
    as_json: bool = AsJson,
) -> None:
    """Score a file with a registered version, one row a window; memory does not grow with the file.

    Example: `moola predict data/bars/eurusd_1h.parquet --step 6 --output scores.parquet`
    """
    import moola.steps.predict

    with progress_bars(quiet=as_json) as progress:
        summary = moola.steps.predict.predict(
            file,
            output=output,
            model_uri=model,
            step=step,
            cross_gaps=cross_gaps,
            data_root=data_root,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json(dataclasses.asdict(summary))
        return
    console().print(
        f"{summary.num_windows:,} windows scored by {model} (version {summary.version}) "
        f"-> {summary.path}"
    )
    why = f" ({summary.why})" if summary.why else ""
    if summary.left_out:
        console().print(f"{summary.left_out:,} windows span a gap and were left out{why}")
    elif summary.cross_gaps:
        console().print(f"windows may span gaps{why}")


def drift(
    folder: Path = typer.Argument(..., help="What `moola serve --log-predictions` wrote."),
    name: str = Name,
    version: str = typer.Option("", help="Version; empty: the one that answered last."),
    labels: Path | None = typer.Option(None, help="Labels by now: request_id, row, label."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Compare served windows and scores with the training set; log a run about it.

    Example: `moola drift served --labels labels.csv`
    """
    import moola.steps.drift

    summary = moola.steps.drift.drift(
        folder, name=name, version=version or None, labels=labels, data_root=data_root
    )
    if as_json:
        print_json(drift_facts(summary))
        return
    rows = table("", "PSI", "noise", "KS", "p (Holm)", "effect", "")
    for row in summary.report.rows:
        figures = (row.psi, row.psi_noise, row.ks, row.p_holm, row.effect)
        mark = styled("drift", "red") if row.drifted else ""
        rows.add_row(row.name, *(f"{value:.3f}" for value in figures), mark)
    out = console()
    out.print(rows)
    labelled = summary.labelled or {}
    for metric in (m for m in ("log_loss", "brier", "ece", "accuracy") if m in labelled):
        out.print(f"{metric} of {summary.num_labelled} labelled: {figure(labelled[metric])}")
    report = summary.report
    train_blocks, served_blocks = report.num_blocks
    out.print(
        f"version {summary.version}: {report.num_served:,} served windows ({served_blocks} blocks) "
        f"beside {report.num_train:,} ({train_blocks} blocks); run {summary.run_id}"
    )
    out.print(f"drifted: {', '.join(report.drifted) or 'nothing'}")


def drift_facts(summary: DriftSummary) -> dict[str, Any]:
    """Return what drift was seen, JSON-ready."""
    return {
        "run_id": summary.run_id,
        "name": summary.name,
        "version": summary.version,
        "drifted": summary.report.drifted,
        "num_labelled": summary.num_labelled,
        "labelled": summary.labelled,
        "report": summary.report.to_dict(),
    }
