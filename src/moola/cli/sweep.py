"""The command that searches hyper-parameters: sweep."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING

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
    import moola.steps.sweep
    from moola.config.sweep import parse_space, set_options
    from moola.config.training import FinetuneConfig
    from moola.training.launchers import open_launcher

    base = FinetuneConfig(
        labeled=labeled, split=split, pretrained_encoder=pretrained_encoder or None, device=device
    )
    base = set_options(base, fixed)
    where = open_launcher(launcher, jobs=jobs, address=address or None, gpus_per_task=gpus_per_task)
    with progress_bars(quiet=as_json) as progress:
        summary = moola.steps.sweep.sweep(
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
        result = {"run_id": summary.run_id, "trials": list(summary.rows), "train": command}
        print_json({**result, "against_start": summary.against_start, "warning": summary.warning})
        return
    print_sweep(summary, command)


def train_command(config: FinetuneConfig) -> str:
    """Return the `moola train` of a configuration, without what is default anyway."""
    words = ["moola", "train"]
    plain = type(config)()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == getattr(plain, field.name):
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join(words)


def print_sweep(summary: SweepSummary, command: str) -> None:
    """Print the best configurations, what to make of them, and how to train the first."""
    against = summary.against_start
    place = "outside the space"
    if against is not None and against["low"] is None and not against["estimate"]:
        place = "the start itself is the best"
    elif against is not None:
        low, high = figure(against["low"]), figure(against["high"])
        place = f"{figure(against['estimate'])} [{low}, {high}] in log-loss"
    print_report(
        "SWEEP",
        {
            "EVIDENCE": {
                "Run ID": summary.run_id,
                "Study": summary.study,
                "Windows": f"{summary.num_windows} walk-forward validation windows",
                "Seeds": f"{len(summary.seeds)}, averaged per window",
                "Best less start": place,
            }
        },
    )
    out = console()
    rows = table(*(column.replace("_", "-") for column in summary.rows[0]))
    for row in summary.rows[:_SHOWN]:
        cells = (f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values())
        rows.add_row(*cells)
    out.print(rows)
    if len(summary.rows) > _SHOWN:
        out.print(f"(all {len(summary.rows)} are in the run's {names.ARTIFACT_SWEEP_TABLE})")
    out.print(f"{summary.warning}.")
    out.print(command)
