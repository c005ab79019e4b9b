"""The command that searches hyper-parameters: sweep."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import typer

from moola.cli.console import console, figure, print_json, print_report, progress_bars, table
from moola.cli.options import (
    Address,
    AsJson,
    DataRoot,
    Device,
    Folds,
    GpusPerTask,
    Jobs,
    Labeled,
    LauncherName,
    Split,
    whole_numbers,
)
from moola.config import names

if TYPE_CHECKING:
    from moola.config.training import FinetuneConfig
    from moola.steps.sweep import SweepSummary

_SHOWN = 10


def sweep(
    space: list[str] = typer.Option(
        ..., help="NAME=LOW:HIGH[:log] or NAME=A,B,C; an option of `moola train`. May be repeated."
    ),
    trials: int = typer.Option(
        20, help="Configurations to judge, those of earlier calls included."
    ),
    fixed: list[str] = typer.Option(
        [], "--set", help="NAME=VALUE of what is not searched over. May be repeated."
    ),
    labeled: str = Labeled,
    split: str = Split,
    pretrained_encoder: str = typer.Option("", help="Checkpoint of an encoder; empty: scratch."),
    folds: str = Folds,
    seeds: str = typer.Option("17", help="Training seeds, averaged per window."),
    jobs: int = Jobs,
    launcher: str = LauncherName,
    address: str = Address,
    gpus_per_task: float = GpusPerTask,
    device: str = Device,
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Search hyper-parameters by log-loss on walk-forward validation windows.

    The same command goes on where it stopped. It ends with the `moola train` that trains the best
    on `--split`.

    Example: `moola sweep --space learning_rate=1e-4:1e-2:log --space dropout=0:0.5 --set
    preset=compact --trials 20 --jobs 2`
    """
    from moola.config.sweep import fixed_options, parse_space
    from moola.config.training import FinetuneConfig
    from moola.steps.sweep import sweep as search
    from moola.training.launchers import open_launcher

    base = FinetuneConfig(
        labeled=labeled, split=split, pretrained_encoder=pretrained_encoder or None, device=device
    )
    if fixed:
        base = fixed_options(fixed, base)
    where = open_launcher(launcher, jobs=jobs, address=address or None, gpus_per_task=gpus_per_task)
    with progress_bars(quiet=as_json) as progress:
        summary = search(
            base,
            parse_space(space, base),
            trials=trials,
            seeds=whole_numbers("seeds", seeds),
            folds=folds or None,
            launcher=where,
            data_root=data_root,
            progress=progress,
        )
    command = train_command(summary.best)
    if as_json:
        found = {"run_id": summary.run_id, "trials": list(summary.rows), "train": command}
        print_json({**found, "against_start": summary.against_start, "warning": summary.warning})
        return
    print_sweep(summary, command)


def train_command(config: FinetuneConfig) -> str:
    """Return the `moola train` of a configuration, without what is default anyway."""
    words = ["moola train"]
    plain = type(config)()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == getattr(plain, field.name):
            continue
        option = f"--{field.name.replace('_', '-')}"
        words.append(option if value is True else f"{option} {_written(value)}")
    return " ".join(words)


def _written(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def print_sweep(summary: SweepSummary, command: str) -> None:
    """Print the best configurations, what to make of them, and how to train the first."""
    against = summary.against_start
    told = "outside the space"
    if against is not None:
        low, high = figure(against["low"]), figure(against["high"])
        told = f"{figure(against['estimate'])} [{low}, {high}] in log-loss"
    print_report(
        "SWEEP",
        {
            "EVIDENCE": {
                "Run ID": summary.run_id,
                "Study": summary.study,
                "Windows": f"{summary.num_windows} walk-forward validation windows",
                "Seeds": f"{len(summary.seeds)}, averaged per window",
                "Best less start": told,
            }
        },
    )
    out = console()
    rows = table(*(column.replace("_", "-") for column in summary.rows[0]))
    for row in summary.rows[:_SHOWN]:
        rows.add_row(*(_written(value) for value in row.values()))
    out.print(rows)
    if len(summary.rows) > _SHOWN:
        out.print(f"(all {len(summary.rows)} stand in the run's {names.ARTIFACT_SWEEP_TABLE})")
    out.print(f"{summary.warning}.")
    out.print(command)
