"""Commands that train and judge: pretrain-bilstm, train, evaluate, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from moola.cli.console import console, figure, print_gates, print_report, progress_bars
from moola.config import names
from moola.config import training as defaults

if TYPE_CHECKING:
    from moola.steps.evaluate import EvaluationSummary
    from moola.steps.finetune import FinetuneSummary
    from moola.steps.pretrain import PretrainSummary

DataRoot = typer.Option(Path("data"), "--data-root", help="Root of the data registry.")
Device = typer.Option("auto", help="auto, cpu or cuda; cuda without a GPU is an error at once.")


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("pretrain-bilstm")(pretrain_bilstm)
    app.command("train")(train)
    app.command("evaluate")(evaluate)
    app.command("demo")(demo)


def pretrain_bilstm(
    unlabeled: str = typer.Option(names.DEFAULT_UNLABELED, "--input", "--unlabeled"),
    output: Path = typer.Option(Path(names.DEFAULT_ENCODER), help="Checkpoint folder to write."),
    device: str = Device,
    epochs: int = typer.Option(defaults.MASKED_LSTM_N_EPOCHS),
    patience: int = typer.Option(defaults.MASKED_LSTM_PATIENCE, help="Early stopping, epochs."),
    mask_ratio: float = typer.Option(defaults.MASKED_LSTM_MASK_RATIO),
    mask_strategy: str = typer.Option(
        defaults.MASKED_LSTM_MASK_STRATEGY, help="random, block or patch."
    ),
    patch_size: int = typer.Option(defaults.MASKED_LSTM_PATCH_SIZE, help="Bars."),
    hidden_dim: int = typer.Option(defaults.MASKED_LSTM_HIDDEN_DIM, help="Units per direction."),
    num_layers: int = typer.Option(defaults.MASKED_LSTM_NUM_LAYERS),
    batch_size: int = typer.Option(defaults.MASKED_LSTM_BATCH_SIZE),
    learning_rate: float = typer.Option(defaults.MASKED_LSTM_LEARNING_RATE),
    windows_per_epoch: int = typer.Option(0, help="Windows drawn at random an epoch; 0: all."),
    seed: int = typer.Option(17),
    data_root: Path = DataRoot,
) -> None:
    """Pretrain a masked BiLSTM encoder on unlabelled windows.

    Example: `moola pretrain-bilstm --device cuda --epochs 50 --mask-strategy patch`
    """
    from moola.config.training import PretrainConfig
    from moola.steps.pretrain import pretrain

    config = PretrainConfig(
        unlabeled=unlabeled,
        hidden_dim=hidden_dim,
        num_layers=num_layers,
        mask_ratio=mask_ratio,
        mask_strategy=mask_strategy,
        patch_size=patch_size,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        windows_per_epoch=windows_per_epoch or None,
        seed=seed,
        device=device,
    )
    with progress_bars() as progress:
        summary = pretrain(config, data_root=data_root, output=output, progress=progress)
    print_pretrain(summary)


def train(
    model: str = typer.Option("enhanced_simple_lstm", help="A model that can be served."),
    preset: str = typer.Option("matched", help="matched (128 x 2) or compact (32 x 1)."),
    dataset: str = typer.Option(names.DEFAULT_LABELED, help="Labelled window set."),
    split: str = typer.Option(names.DEFAULT_SPLIT, help="A forward-chaining split."),
    pretrained_encoder: str = typer.Option("none", help="Checkpoint of an encoder; none: scratch."),
    freeze_encoder: bool = typer.Option(
        True, "--freeze-encoder/--no-freeze-encoder", help="Follow --freeze, or train all at once."
    ),
    freeze: str = typer.Option("two_phase", help="none, frozen, two_phase or gradual."),
    unfreeze_after: int = typer.Option(
        defaults.MASKED_LSTM_FREEZE_EPOCHS, help="Epochs; 0: the encoder starts unfrozen."
    ),
    epochs: int = typer.Option(60),
    batch_size: int = typer.Option(32),
    learning_rate: float = typer.Option(5e-4),
    dropout: float = typer.Option(0.1),
    patience: int = typer.Option(20, help="Early stopping, epochs; 0: train to the end."),
    class_weight: str = typer.Option("", help="balanced, or nothing."),
    seed: int = typer.Option(17),
    device: str = Device,
    register_as: str = typer.Option(names.REGISTERED_MODEL, help="Registered model, or none."),
    log_pretrained_stats: bool = typer.Option(False, help="Print every tensor of the load."),
    data_root: Path = DataRoot,
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
        dropout=dropout,
        patience=patience,
        class_weight=class_weight or None,
        seed=seed,
        device=device,
    )
    with progress_bars() as progress:
        summary = finetune(
            config, data_root=data_root, register_as=_unless(register_as, "none"), progress=progress
        )
    print_finetune(summary)
    if log_pretrained_stats and summary.result.load_report:
        for group in ("matched", "missing", "unexpected", "ignored"):
            console().print(f"{group}: {', '.join(summary.result.load_report[group]) or 'none'}")


def evaluate(
    version: str = typer.Option("newest", help="Version to judge."),
    name: str = typer.Option(names.REGISTERED_MODEL, help="Registered model."),
    folds: str = typer.Option("", help="Walk-forward folds; empty: those of the version's set."),
    seeds: str = typer.Option("17,18,19", help="Training seeds, averaged per window."),
    thresholds: Path | None = typer.Option(None, help="YAML file over Moola's own thresholds."),
    jobs: int = typer.Option(1, help="Trainings at the same time."),
    device: str = Device,
    data_root: Path = DataRoot,
) -> None:
    """Run the gates for a registered version and sign the verdicts.

    The version's configuration is trained again on every walk-forward fold and seed; what is
    finished is kept, so an interrupted evaluation goes on where it stopped.

    Example: `moola evaluate --version 2 --seeds 17,18 --jobs 2`
    """
    from moola.config.evaluation import EvaluateConfig, Thresholds
    from moola.errors import ConfigError
    from moola.steps.evaluate import evaluate as run_gates

    try:
        chosen = tuple(int(s) for s in seeds.split(",") if s.strip())
    except ValueError:
        raise ConfigError(f"seeds is {seeds!r}", limit="whole numbers, such as 17,18,19") from None
    with progress_bars() as progress:
        summary = run_gates(
            version=_unless(version, "newest"),
            name=name,
            folds=folds or None,
            config=EvaluateConfig(seeds=chosen, jobs=jobs),
            thresholds=Thresholds.load(thresholds) if thresholds else None,
            device=device,
            data_root=data_root,
            progress=progress,
        )
    print_evaluation(summary)


def demo(
    device: str = Device,
    data_root: Path = DataRoot,
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


def print_pretrain(summary: PretrainSummary) -> None:
    """Print what a pretraining run made."""
    best = summary.result.history[summary.result.kept_epoch]
    print_report(
        "MASKED BILSTM PRETRAINING",
        {
            "RESULT": {
                "Run ID": summary.run_id,
                "Device": summary.device,
                "Windows": f"{len(summary.result.train_rows):,} train, "
                f"{len(summary.result.val_rows):,} held out (the latest)",
                "Epochs": f"{len(summary.result.history)}, kept {summary.result.kept_epoch + 1}",
                "Masked error": f"{best['val_recon']:.4f} on held-out windows",
                "Seconds": f"{summary.seconds:.1f}",
                "Encoder": summary.encoder,
                "SHA-256": summary.encoder_sha256,
            }
        },
    )


def print_finetune(summary: FinetuneSummary) -> None:
    """Print the status report of a training run."""
    config, audit, load = summary.config, summary.audit, summary.result.load_report
    counts = audit["counts"]
    proof = summary.result.proof or {}
    version = f"{summary.registered_as} version {summary.version}" if summary.version else "no"
    pretrained = {"Encoder": "none (from scratch)"}
    if load:
        total = load["num_matched"] + load["num_missing"] + load["num_mismatched"]
        pretrained = {
            "Encoder": config.pretrained_encoder or "",
            "Tensors matched": f"{load['num_matched']}/{total} "
            f"({load['match_ratio_encoder']:.0%} of the encoder, "
            f"{load['match_ratio_model']:.0%} of the model)",
            "Shape mismatches": str(load["num_mismatched"]),
            "Not the encoder's": f"{load['num_ignored']} tensors left out (decoder, mask token)",
            "SHA-256": load["checkpoint_sha256"][:16],
        }
    freeze = {"Schedule": config.schedule}
    for phase in proof.get("phases", []):
        first, last = phase["epochs"]
        freeze[f"Epochs {first + 1}-{last + 1}"] = (
            f"{phase['encoder_tensors_frozen']} encoder tensors frozen, "
            f"{phase['encoder_tensors_moved']} moved"
        )
    freeze["Proven"] = "yes, tensor by tensor" if proof.get("proven") else "NO"
    metrics = {k: figure(v) for k, v in summary.metrics.items() if not k.startswith("f1_class")}
    print_report(
        "MOOLA TRAINING RUN",
        {
            "RUN": {
                "Run ID": summary.run_id,
                "Name": summary.run_name,
                "Git": summary.git,
                "Seed": config.seed,
                "Device": summary.device,
            },
            "MODEL": {
                "Name": f"{config.model} ({config.preset})",
                "Parameters": f"{summary.num_parameters:,}",
            },
            "DATA & SPLIT": {
                "Labeled": f"{audit['labeled_version']} ({audit['labeled_sha256'][:12]})",
                "Split": f"{audit['split']} (forward-chaining, {counts['purged']} purged)",
                **{
                    part.capitalize(): f"{counts[part]} real windows, 0 synthetic"
                    for part in ("train", "val", "test")
                },
                "Audit": f"{len(audit['checks'])} checks passed",
            },
            "PRETRAINED LOAD": pretrained,
            "FREEZE": freeze,
            "HYPERPARAMETERS": {
                "Epochs": f"{len(summary.result.history)} of {config.epochs}, kept "
                f"{proof.get('kept_epoch', 0) + 1}",
                "Batch size": config.batch_size,
                "Learning rate": config.learning_rate,
                "Early stopping": f"patience {config.patience}" if config.patience else "off",
            },
            f"RESULTS (val, temperature {summary.calibration.temperature:.3f})": metrics,
            "REGISTERED": {"Version": version, "Seconds": f"{summary.seconds:.1f}"},
        },
    )


def print_evaluation(summary: EvaluationSummary) -> None:
    """Print the verdicts of a candidate."""
    candidate = summary.candidate
    print_report(
        f"GATES OF {candidate.name} VERSION {candidate.version}",
        {
            "EVIDENCE": {
                "Run ID": summary.run_id,
                "Windows": f"{summary.num_windows} walk-forward validation windows",
                "Log-loss": figure(summary.metrics["log_loss"]),
                "ROC-AUC": figure(summary.metrics["roc_auc"]),
                "Balanced accuracy": figure(summary.metrics["balanced_accuracy"]),
            }
        },
    )
    print_gates(summary.reports)
