"""Commands that train and judge: train, evaluate, demo."""

from __future__ import annotations

from pathlib import Path

import typer

from moola.cli.console import console, print_json, progress_bars
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
from moola.cli.reports import evaluation_facts, print_evaluation, print_finetune
from moola.config import names
from moola.config import training as defaults


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("train")(train)
    app.command("evaluate")(evaluate)
    app.command("demo")(demo)


def train(
    model: str = typer.Option("enhanced_simple_lstm", help="A model that can be served."),
    preset: str = typer.Option("matched", help="matched (128 x 2) or compact (32 x 1)."),
    dataset: str = typer.Option(names.DEFAULT_LABELED, help="Labelled window set."),
    split: str = typer.Option(names.DEFAULT_SPLIT, help="A forward-chaining split."),
    pretrained_encoder: str = typer.Option("none", help="Checkpoint of an encoder; none: scratch."),
    freeze_encoder: bool = typer.Option(
        True, "--freeze-encoder/--no-freeze-encoder", help="Follow --freeze, or train all at once."
    ),
    freeze: str = typer.Option("two_phase", help="none, frozen, two_phase, gradual or phases."),
    unfreeze_after: int = typer.Option(
        defaults.MASKED_LSTM_FREEZE_EPOCHS, help="Epochs; 0: the encoder starts unfrozen."
    ),
    epochs: int = typer.Option(60),
    batch_size: int = typer.Option(32),
    learning_rate: float = typer.Option(5e-4),
    weight_decay: float = typer.Option(1e-4),
    dropout: float = typer.Option(0.1),
    patience: int = typer.Option(20, help="Early stopping, epochs; 0: train to the end."),
    phases: str = typer.Option("", help="Epochs of each phase for --freeze phases: 30,10,5."),
    unfreeze_lr_factor: float = typer.Option(
        defaults.MASKED_LSTM_UNFREEZE_LR_REDUCTION, help="Rate after unfreezing: 0.5, 0.3 or 0.1."
    ),
    class_weight: str = typer.Option("", help="balanced, or a weight a class: 1,2.5."),
    focal_gamma: float = typer.Option(0.0, help="Of the focal loss; 0: cross-entropy."),
    use_temporal_aug: bool = typer.Option(False, help="Warp and jitter training windows."),
    mixup_alpha: float = typer.Option(0.0, help="Mix training windows; 0: off."),
    cutmix_alpha: float = typer.Option(0.0, help="Cut and mix training windows; 0: off."),
    resume: bool = typer.Option(False, "--resume", help="Go on where a killed run stopped."),
    seed: int = typer.Option(17),
    device: str = Device,
    register_as: str = typer.Option(names.REGISTERED_MODEL, help="Registered model, or none."),
    log_pretrained_stats: bool = typer.Option(False, help="Print every tensor of the load."),
    data_root: str = DataRoot,
) -> None:
    """Train a classifier, from scratch or from an encoder, and register it as a version.

    Example: `moola train --preset matched --pretrained-encoder artifacts/pretrained/bilstm_encoder`
    """
    from moola.config.training import FinetuneConfig
    from moola.steps.finetune import finetune

    config = FinetuneConfig(
        model=model,
        preset=preset,
        labeled=dataset,
        split=split,
        pretrained_encoder=_unless(pretrained_encoder, "none"),
        freeze=freeze if freeze_encoder else "none",
        unfreeze_after=unfreeze_after,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        dropout=dropout,
        patience=patience,
        phases=whole_numbers("phases", phases),
        unfreeze_lr_factor=unfreeze_lr_factor,
        class_weight=class_weight or None,
        focal_gamma=focal_gamma,
        use_temporal_aug=use_temporal_aug,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        seed=seed,
        device=device,
    )
    with progress_bars() as progress:
        summary = finetune(
            config,
            data_root=data_root,
            register_as=_unless(register_as, "none"),
            resume=resume,
            progress=progress,
        )
    print_finetune(summary)
    if log_pretrained_stats and summary.result.load_report:
        from moola.models.load_report import format_load_report

        console().print(format_load_report(summary.result.load_report))
        for group in ("matched", "missing", "unexpected", "ignored"):
            console().print(f"{group}: {', '.join(summary.result.load_report[group]) or 'none'}")


def evaluate(
    version: str = typer.Option(
        "newest", help="Version to judge; several (1,2,3) compete, and Holm's correction holds."
    ),
    name: str = typer.Option(names.REGISTERED_MODEL, help="Registered model."),
    folds: str = typer.Option("", help="Walk-forward folds; empty: those of the version's set."),
    seeds: str = typer.Option("17,18,19", help="Training seeds, averaged per window."),
    gate: list[int] = typer.Option(
        [], help="Run this gate only (may be repeated); nothing is signed if one is missing."
    ),
    thresholds: Path | None = typer.Option(None, help="YAML file over Moola's own thresholds."),
    jobs: int = Jobs,
    launcher: str = LauncherName,
    address: str = Address,
    gpus_per_task: float = GpusPerTask,
    device: str = Device,
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Run the gates for a registered version and sign the verdicts.

    The version's configuration is trained again on every walk-forward fold and seed; what is
    finished is kept, so an interrupted evaluation goes on where it stopped.

    Example: `moola evaluate --version 2 --seeds 17,18 --jobs 2`, `--launcher ray --address auto`
    """
    from moola.config.evaluation import EvaluateConfig, Thresholds
    from moola.steps.evaluate import evaluate as run_gates
    from moola.training.launchers import open_launcher

    where = open_launcher(launcher, jobs=jobs, address=address or None, gpus_per_task=gpus_per_task)
    versions = list(dict.fromkeys(v.strip() for v in (version or "newest").split(",")))
    found = []
    for one in versions:
        with progress_bars(quiet=as_json) as progress:
            summary = run_gates(
                version=_unless(one, "newest"),
                peers=[v for v in versions if v != one],
                name=name,
                folds=folds or None,
                config=EvaluateConfig(seeds=whole_numbers("seeds", seeds), gates=tuple(gate)),
                launcher=where,
                thresholds=Thresholds.load(thresholds) if thresholds else None,
                device=device,
                data_root=data_root,
                progress=progress,
            )
        found.append(evaluation_facts(summary))
        if not as_json:
            print_evaluation(summary)
    if as_json:
        print_json(found)


def demo(
    device: str = Device,
    data_root: str = DataRoot,
    jobs: int = typer.Option(2, help="Trainings at the same time."),
) -> None:
    """Do the whole job once on the bars that ship with Moola.

    Build the sets, pretrain, train from scratch and from the encoder, run the gates, promote what
    they allow, serve it and ask it for predictions.

    Example: `moola demo --device cpu`
    """
    from moola.cli.demo import run_demo

    run_demo(device=device, data_root=data_root, jobs=jobs)


def _unless(value: str, word: str) -> str | None:
    """Return None for an empty value or the word that stands for it, else the value."""
    return None if value in ("", word) else value
