"""Commands that pretrain encoders: pretrain-bilstm, pretrain-ts2vec, pretrain-multitask."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from moola.cli.console import progress_bars
from moola.cli.options import DataRoot, Device
from moola.cli.reports import print_pretrain
from moola.config import names
from moola.config import pretraining as defaults

_TS2VEC, _MULTITASK = defaults.TS2VecConfig(), defaults.MultitaskConfig()

Unlabeled = typer.Option(
    names.DEFAULT_UNLABELED, "--input", "--unlabeled", help="Unlabelled window set."
)
Schedule = typer.Option("cosine", help="Of the rate: cosine (by epoch) or onecycle (by step).")
WindowsPerEpoch = typer.Option(0, help="Windows drawn an epoch; 0: see --sampling.")
Sampling = "all: every window once; offsets: windows at random offsets, every bar once on average."
Amp = typer.Option("auto", help="bf16, fp32, or auto: bf16 where the hardware has it.")
Resume = typer.Option(False, "--resume", help="Go on where a killed run stopped.")
Seed = typer.Option(17)
_OUTPUT = "Checkpoint folder to write; a name ending in .pt also writes that form."


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("pretrain-bilstm")(pretrain_bilstm)
    app.command("pretrain-ts2vec")(pretrain_ts2vec)
    app.command("pretrain-multitask")(pretrain_multitask)


def pretrain_bilstm(
    unlabeled: str = Unlabeled,
    output: Path = typer.Option(Path(names.DEFAULT_ENCODER), help=_OUTPUT),
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
    dropout: float = typer.Option(defaults.MASKED_LSTM_DROPOUT),
    batch_size: int = typer.Option(defaults.MASKED_LSTM_BATCH_SIZE),
    learning_rate: float = typer.Option(defaults.MASKED_LSTM_LEARNING_RATE),
    schedule: str = Schedule,
    reconstruct: str = typer.Option("bar", help="bar, or bridge: its distance from a line."),
    latent_weight: float = typer.Option(
        defaults.MASKED_LSTM_LATENT_WEIGHT, help="Of the term against collapse."
    ),
    augment: bool = typer.Option(False, "--augment/--no-augment", help="Add augmented windows."),
    num_augmentations: int = typer.Option(
        defaults.MASKED_LSTM_AUG_NUM_VERSIONS, help="Augmented copies of each window."
    ),
    materialise_augmented: bool = typer.Option(
        False, help="Make the copies once, instead of anew for every batch."
    ),
    sampling: str = typer.Option("all", help=Sampling),
    windows_per_epoch: int = WindowsPerEpoch,
    amp: str = Amp,
    resume: bool = Resume,
    seed: int = Seed,
    data_root: str = DataRoot,
) -> None:
    """Pretrain a masked BiLSTM encoder on unlabelled windows.

    Example: `moola pretrain-bilstm --device cuda --epochs 50 --mask-strategy patch`

    Several processes: `torchrun --nproc-per-node 2 -m moola pretrain-bilstm --device cpu`
    """
    _run(defaults.PretrainConfig, locals())


def pretrain_ts2vec(
    unlabeled: str = Unlabeled,
    output: Path = typer.Option(Path(names.DEFAULT_TS2VEC), help=_OUTPUT),
    device: str = Device,
    epochs: int = typer.Option(_TS2VEC.epochs),
    patience: int = typer.Option(_TS2VEC.patience, help="Early stopping, epochs."),
    hidden_dim: int = typer.Option(_TS2VEC.hidden_dim, help="Channels inside."),
    output_dim: int = typer.Option(_TS2VEC.output_dim, help="Length of a representation."),
    depth: int = typer.Option(_TS2VEC.depth, help="Residual blocks."),
    batch_size: int = typer.Option(_TS2VEC.batch_size),
    learning_rate: float = typer.Option(_TS2VEC.learning_rate),
    schedule: str = Schedule,
    sampling: str = typer.Option(_TS2VEC.sampling, help=Sampling),
    windows_per_epoch: int = WindowsPerEpoch,
    amp: str = Amp,
    resume: bool = Resume,
    seed: int = Seed,
    data_root: str = DataRoot,
) -> None:
    """Pretrain a TS2Vec encoder on unlabelled windows.

    Example: `moola pretrain-ts2vec --unlabeled unlabeled_windows/v1 --epochs 20`
    """
    _run(defaults.TS2VecConfig, locals())


def pretrain_multitask(
    unlabeled: str = Unlabeled,
    output: Path = typer.Option(Path(names.DEFAULT_MULTITASK), help=_OUTPUT),
    device: str = Device,
    epochs: int = typer.Option(_MULTITASK.epochs),
    patience: int = typer.Option(_MULTITASK.patience, help="Early stopping, epochs."),
    hidden_dim: int = typer.Option(_MULTITASK.hidden_dim, help="Units per direction."),
    num_layers: int = typer.Option(_MULTITASK.num_layers),
    horizon_bars: int = typer.Option(_MULTITASK.horizon_bars, help="How far targets look ahead."),
    direction_weight: float = typer.Option(_MULTITASK.direction_weight),
    swing_weight: float = typer.Option(_MULTITASK.swing_weight),
    candle_weight: float = typer.Option(_MULTITASK.candle_weight),
    batch_size: int = typer.Option(_MULTITASK.batch_size),
    learning_rate: float = typer.Option(_MULTITASK.learning_rate),
    schedule: str = Schedule,
    sampling: str = typer.Option(_MULTITASK.sampling, help=Sampling),
    windows_per_epoch: int = WindowsPerEpoch,
    amp: str = Amp,
    resume: bool = Resume,
    seed: int = Seed,
    data_root: str = DataRoot,
) -> None:
    """Pretrain a BiLSTM encoder on direction, swing and candle of every bar.

    Example: `moola pretrain-multitask --epochs 20 --horizon-bars 6`
    """
    _run(defaults.MultitaskConfig, locals())


def _run(kind: type[defaults.CorpusConfig], options: Mapping[str, Any]) -> None:
    """Pretrain with a command's options: those that are named as a field of the configuration."""
    from moola.steps.pretrain import pretrain
    from moola.training.device import keep_freed_memory

    fields = {field.name for field in dataclasses.fields(kind)}
    values = {name: value for name, value in options.items() if name in fields}
    config = kind(**{**values, "windows_per_epoch": options["windows_per_epoch"] or None})
    keep_freed_memory()
    leads = os.environ.get("RANK", "0") == "0"
    with progress_bars() as progress:
        summary = pretrain(
            config,
            data_root=options["data_root"],
            output=options["output"],
            resume=options["resume"],
            progress=progress,
        )
    if leads:
        print_pretrain(summary)
