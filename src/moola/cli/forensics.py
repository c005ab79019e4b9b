"""Commands that ask what a training really did: ablate, forensics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from moola.cli.console import console, figure, print_json, print_report, progress_bars
from moola.cli.options import (
    Address,
    AsJson,
    DataRoot,
    Device,
    GpusPerTask,
    Jobs,
    LauncherName,
    whole_numbers,
)
from moola.config import names
from moola.config import training as defaults

if TYPE_CHECKING:
    from moola.steps.ablate import AblationSummary
    from moola.steps.forensics import ForensicsSummary


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("ablate")(ablate)
    app.command("forensics")(forensics)


def ablate(
    pretrained_encoder: str = typer.Option(names.DEFAULT_ENCODER, help="Checkpoint of an encoder."),
    preset: str = typer.Option("matched", help="matched (128 x 2) or compact (32 x 1)."),
    dataset: str = typer.Option(names.DEFAULT_LABELED, help="Labelled window set."),
    folds: str = typer.Option("", help="Walk-forward folds; empty: those of the set."),
    seeds: str = typer.Option("17,18,19,20,21", help="Training seeds, averaged per window."),
    experiments: str = typer.Option("ABCDE", help="Arms to run; A, the baseline, among them."),
    epochs: int = typer.Option(60),
    unfreeze_after: int = typer.Option(
        defaults.MASKED_LSTM_FREEZE_EPOCHS, help="Frozen epochs of arm D."
    ),
    gradual_after: int = typer.Option(5, help="Epochs a layer of arm E."),
    unfreeze_lr_factor: float = typer.Option(
        defaults.MASKED_LSTM_UNFREEZE_LR_REDUCTION, help="Rate after unfreezing: 0.5, 0.3 or 0.1."
    ),
    batch_size: int = typer.Option(32),
    learning_rate: float = typer.Option(5e-4),
    patience: int = typer.Option(20, help="Early stopping, epochs; 0: train to the end."),
    jobs: int = Jobs,
    launcher: str = LauncherName,
    address: str = Address,
    gpus_per_task: float = GpusPerTask,
    device: str = Device,
    data_root: str = DataRoot,
) -> None:
    """Measure what an encoder and each freeze schedule are worth, over folds and seeds.

    A from scratch, B frozen all along, C unfrozen from the start, D two-phase, E gradual; each
    against A on the same windows, with intervals. Finished trainings are kept and reused.

    Example: `moola ablate --preset compact --epochs 20 --patience 0 --seeds 17,18,19,20,21`
    """
    from moola.config.training import FinetuneConfig
    from moola.steps.ablate import ablate as run_ablation
    from moola.training.launchers import open_launcher

    config = FinetuneConfig(
        preset=preset,
        labeled=dataset,
        pretrained_encoder=pretrained_encoder,
        unfreeze_after=unfreeze_after,
        unfreeze_lr_factor=unfreeze_lr_factor,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        device=device,
    )
    where = open_launcher(launcher, jobs=jobs, address=address or None, gpus_per_task=gpus_per_task)
    with progress_bars() as progress:
        summary = run_ablation(
            config,
            seeds=whole_numbers("seeds", seeds),
            gradual_after=gradual_after,
            only=experiments,
            folds=folds or None,
            launcher=where,
            data_root=data_root,
            progress=progress,
        )
    print_ablation(summary)


def forensics(
    first: str = typer.Argument(..., help="Checkpoint, run id or models:/<name>/<version>."),
    second: str = typer.Argument(..., help="The later one, of the same kinds."),
    tensors: bool = typer.Option(False, "--tensors", help="Print every tensor."),
    as_json: bool = AsJson,
) -> None:
    """Compare two checkpoints or runs: what is equal, what moved, what one of them lacks.

    Example: `moola forensics artifacts/pretrained/bilstm_encoder models:/EnhancedSimpleLSTM/2`
    """
    from moola.steps.forensics import forensics as compare

    summary = compare(first, second)
    if as_json:
        print_json(summary.to_dict())
        return
    print_forensics(summary, tensors=tensors)


def print_ablation(summary: AblationSummary) -> None:
    """Print the arms, their figures and what can be said of them."""
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False)
    for column in ("experiment", "log-loss", "Brier", "accuracy", "ROC-AUC", "against A"):
        table.add_column(column, overflow="fold")
    for row in summary.rows:
        values = (figure(row[k]) for k in ("log_loss", "brier", "accuracy", "roc_auc"))
        table.add_row(row["experiment"], *values, str(row["against_a"]).replace("[", r"\["))
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
    out.print(table)
    for flag in summary.finding.flags():
        out.print(f"RED FLAG: {flag}", style="red")


def print_forensics(summary: ForensicsSummary, *, tensors: bool) -> None:
    """Print what two checkpoints have in common, the findings last."""
    found = summary.comparison
    encoder = found.encoder_pairs()
    rows: dict[str, Any] = {
        "A": found.a,
        "B": found.b,
        "Common tensors": f"{len(found.pairs)}, {len(encoder)} of them the encoder's",
        "Equal": f"{sum(p.equal for p in found.pairs)}, {sum(p.equal for p in encoder)} of them "
        "the encoder's",
        "Only in A": ", ".join(found.only_a) or "none",
        "Only in B": ", ".join(found.only_b) or "none",
        "LSTM layers": f"{found.layers_a} and {found.layers_b}",
    }
    findings = dict(enumerate(summary.findings(), start=1))
    print_report(
        "CHECKPOINT FORENSICS",
        {"TENSORS": rows, "FINDINGS": {str(k): v for k, v in findings.items()}},
    )
    if tensors:
        _print_tensors(summary)


def _print_tensors(summary: ForensicsSummary) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("tensor", "change", "std A", "std B", "initialiser", "A", "B"):
        table.add_column(column)
    for pair in summary.comparison.pairs:
        a, b = pair.signal_a, pair.signal_b
        change = "shape" if pair.shape_a != pair.shape_b else "equal" if pair.equal else "new"
        if pair.relative_change:
            change = f"{pair.relative_change:.2%}"
        table.add_row(
            pair.name,
            change,
            *(f"{s.std:.4f}" if s else "" for s in (a, b)),
            f"{a.expected_std:.4f}" if a else "",
            *(s.verdict if s else "" for s in (a, b)),
        )
    console().print(table)
