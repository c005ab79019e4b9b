"""Commands that ask what a training really did: ablate, forensics."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from moola.cli.console import console, figure, print_json, print_report, progress_bars, table
from moola.cli.options import (
    Address,
    AsJson,
    DataRoot,
    Folds,
    GpusPerTask,
    Jobs,
    LauncherName,
    options_of,
    whole_numbers,
)
from moola.config import names
from moola.config.training import ENCODER, FinetuneConfig

if TYPE_CHECKING:
    from moola.steps.ablate import AblationSummary
    from moola.steps.forensics import ForensicsSummary


@options_of(
    FinetuneConfig,
    only=(
        "preset", "labeled", "epochs", "unfreeze_after", "unfreeze_lr_factor", "batch_size",
        "learning_rate", "weight_decay", "dropout", "patience", "device",
    ),
)  # fmt: skip
def ablate(
    config: FinetuneConfig,
    pretrained_encoder: str = typer.Option(names.DEFAULT_ENCODER, help="Checkpoint of an encoder."),
    folds: str = Folds,
    seeds: str = typer.Option("17,18,19,20,21", help="Training seeds, averaged per window."),
    experiments: str = typer.Option("ABCDE", help="Arms to run; A, the baseline, among them."),
    gradual_after: int = typer.Option(5, help="Epochs a layer of arm E.", rich_help_panel=ENCODER),
    jobs: int = Jobs,
    launcher: str = LauncherName,
    address: str = Address,
    gpus_per_task: float = GpusPerTask,
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Measure what an encoder and each freeze schedule are worth, over folds and seeds.

    A from scratch, B frozen all along, C unfrozen from the start, D two-phase, E gradual; each
    against A on the same windows, with intervals. Finished trainings are kept and reused.

    Example: `moola ablate --preset compact --epochs 20 --patience 0 --seeds 17,18,19,20,21`
    """
    import moola.steps.ablate
    from moola.training.launchers import open_launcher

    config = replace(config, pretrained_encoder=pretrained_encoder)
    where = open_launcher(launcher, jobs=jobs, address=address or None, gpus_per_task=gpus_per_task)
    with progress_bars(quiet=as_json) as progress:
        summary = moola.steps.ablate.ablate(
            config,
            seeds=whole_numbers("seeds", seeds),
            gradual_after=gradual_after,
            only=experiments,
            folds=folds or None,
            launcher=where,
            data_root=data_root,
            progress=progress,
        )
    if as_json:
        print_json(
            {
                "run_id": summary.run_id,
                "num_windows": summary.num_windows,
                "seeds": summary.seeds,
                "experiments": summary.rows,
                "flags": summary.finding.flags(),
                "notes": summary.finding.notes(),
            }
        )
        return
    print_ablation(summary)


def forensics(
    first: str = typer.Argument(
        ..., help="Checkpoint, run id (or its beginning) or models:/<name>/<version>."
    ),
    second: str = typer.Argument(..., help="The later one, of the same kinds."),
    tensors: bool = typer.Option(False, "--tensors", help="Print every tensor."),
    as_json: bool = AsJson,
) -> None:
    """Compare two checkpoints or runs: what is equal, what moved, what one of them lacks.

    Example: `moola forensics artifacts/pretrained/bilstm_encoder models:/EnhancedSimpleLSTM/2`
    """
    import moola.steps.forensics

    summary = moola.steps.forensics.forensics(first, second)
    if as_json:
        print_json(summary.to_dict())
        return
    print_forensics(summary, tensors=tensors)


def print_ablation(summary: AblationSummary) -> None:
    """Print the arms, their figures and what can be said of them."""
    out = console()
    rows = table("experiment", "log-loss", "Brier", "accuracy", "ROC-AUC", "against A")
    for row in summary.rows:
        values = (figure(row[k]) for k in ("log_loss", "brier", "accuracy", "roc_auc"))
        rows.add_row(row["experiment"], *values, str(row["against_a"]))
    print_report(
        "ABLATION",
        {
            "EVIDENCE": {
                "Run ID": summary.run_id,
                "Windows": f"{summary.num_windows} walk-forward validation windows",
                "Seeds": f"{len(summary.seeds)}, averaged per window",
            }
        },
    )
    out.print(rows)
    for flag in summary.finding.flags():
        out.print(f"RED FLAG: {flag}", style="red")
    for note in summary.finding.notes():
        out.print(f"Note: {note}")


def print_forensics(summary: ForensicsSummary, *, tensors: bool) -> None:
    """Print what two checkpoints have in common, the findings last."""
    comparison = summary.comparison
    encoder = comparison.encoder_pairs()
    rows: dict[str, Any] = {
        "A": comparison.a,
        "B": comparison.b,
        "Common tensors": f"{len(comparison.pairs)}, {len(encoder)} of them the encoder's",
        "Equal": f"{sum(p.equal for p in comparison.pairs)}, "
        f"{sum(p.equal for p in encoder)} of them the encoder's",
        "Only in A": ", ".join(comparison.only_a) or "none",
        "Only in B": ", ".join(comparison.only_b) or "none",
        "LSTM layers": f"{comparison.layers_a} and {comparison.layers_b}",
    }
    findings = dict(enumerate(summary.findings(), start=1))
    print_report(
        "CHECKPOINT FORENSICS",
        {"TENSORS": rows, "FINDINGS": {str(k): v for k, v in findings.items()}},
    )
    if tensors:
        _print_tensors(summary)


def _print_tensors(summary: ForensicsSummary) -> None:
    rows = table("tensor", "change", "std A", "std B", "initialiser", "A", "B")
    for pair in summary.comparison.pairs:
        a, b = pair.signal_a, pair.signal_b
        change = "shape" if pair.shape_a != pair.shape_b else "equal" if pair.equal else "new"
        if pair.relative_change:
            change = f"{pair.relative_change:.2%}"
        rows.add_row(
            pair.name + " (buffer)" * (pair.kind == "buffer"),
            change,
            *(f"{s.std:.4f}" if s else "" for s in (a, b)),
            f"{a.expected_std:.4f}" if a else "",
            *(s.verdict if s else "" for s in (a, b)),
        )
    console().print(rows)
