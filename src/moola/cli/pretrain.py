"""Commands that pretrain encoders: pretrain-bilstm, pretrain-ts2vec, pretrain-multitask."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import typer

from moola.cli.console import print_json, progress_bars
from moola.cli.options import (
    MODEL,
    OPTIMISER,
    AsJson,
    BatchSize,
    DataRoot,
    Device,
    Dropout,
    Epochs,
    LearningRate,
    Patience,
    Resume,
    Seed,
    config_of,
    one_of,
    stored,
)
from moola.cli.reports import pretrain_facts, print_pretrain
from moola.config import names
from moola.config.pretraining import (
    MASK_STRATEGIES,
    PRECISIONS,
    RATE_SCHEDULES,
    RECONSTRUCTIONS,
    SAMPLINGS,
    CorpusConfig,
    MultitaskConfig,
    PretrainConfig,
    TS2VecConfig,
)

_BILSTM, _TS2VEC, _MULTITASK = PretrainConfig(), TS2VecConfig(), MultitaskConfig()
_MASKS = "Masking and reconstruction"
_CORPUS = "What an epoch holds"
_TASKS = "Tasks"

_Patience = partial(Patience, help="Early stopping: epochs without gain on held-out windows.")
_Unlabeled = typer.Option(
    names.DEFAULT_UNLABELED,
    "--unlabeled",
    "--input",
    help="Unlabelled window set.",
    autocompletion=stored("unlabeled_windows"),
)
_Schedule = typer.Option(
    _BILSTM.schedule,
    "--schedule",
    help="Of the rate: cosine (by epoch) or onecycle (by step).",
    autocompletion=one_of(*RATE_SCHEDULES),
    rich_help_panel=OPTIMISER,
)
_WindowsPerEpoch = typer.Option(
    0,
    "--windows-per-epoch",
    help="Windows drawn an epoch; 0: see --sampling.",
    rich_help_panel=_CORPUS,
)
_Amp = typer.Option(
    _BILSTM.amp,
    "--amp",
    help="bf16, fp32, or auto: bf16 where the hardware has it.",
    autocompletion=one_of(*PRECISIONS),
    rich_help_panel=OPTIMISER,
)


def _output(default: str) -> Any:
    return typer.Option(
        Path(default),
        "--output",
        help="Checkpoint folder to write; a name ending in .pt also writes that form.",
    )


def _sampling(default: str) -> Any:
    return typer.Option(
        default,
        "--sampling",
        help="all: every window once; offsets: at random offsets, every bar once on average.",
        autocompletion=one_of(*SAMPLINGS),
        rich_help_panel=_CORPUS,
    )


def _units(default: int) -> Any:
    return typer.Option(
        default,
        "--hidden-dim",
        help="LSTM units per direction; 128 fits the preset matched.",
        rich_help_panel=MODEL,
    )


def _layers(default: int) -> Any:
    return typer.Option(
        default,
        "--num-layers",
        help="LSTM layers; 2 fit the preset matched.",
        rich_help_panel=MODEL,
    )


def pretrain_bilstm(
    unlabeled: str = _Unlabeled,
    output: Path = _output(names.DEFAULT_ENCODER),
    device: str = Device,
    epochs: int = Epochs(_BILSTM.epochs),
    resume: bool = Resume,
    seed: int = Seed,
    data_root: str = DataRoot,
    as_json: bool = AsJson,
    hidden_dim: int = _units(_BILSTM.hidden_dim),
    num_layers: int = _layers(_BILSTM.num_layers),
    dropout: float = Dropout(_BILSTM.dropout),
    mask_ratio: float = typer.Option(
        _BILSTM.mask_ratio, help="Share of bars hidden from the encoder.", rich_help_panel=_MASKS
    ),
    mask_strategy: str = typer.Option(
        _BILSTM.mask_strategy,
        help="random (single bars), block (one stretch) or patch (several of --patch-size bars).",
        autocompletion=one_of(*MASK_STRATEGIES),
        rich_help_panel=_MASKS,
    ),
    patch_size: int = typer.Option(
        _BILSTM.patch_size, help="Bars of a patch.", rich_help_panel=_MASKS
    ),
    reconstruct: str = typer.Option(
        _BILSTM.reconstruct,
        help="bar, or bridge: its distance from a line between the visible bars.",
        autocompletion=one_of(*RECONSTRUCTIONS),
        rich_help_panel=_MASKS,
    ),
    latent_weight: float = typer.Option(
        _BILSTM.latent_weight, help="Of the term against collapse.", rich_help_panel=_MASKS
    ),
    batch_size: int = BatchSize(_BILSTM.batch_size),
    learning_rate: float = LearningRate(_BILSTM.learning_rate),
    patience: int = _Patience(_BILSTM.patience),
    schedule: str = _Schedule,
    amp: str = _Amp,
    sampling: str = _sampling(_BILSTM.sampling),
    windows_per_epoch: int = _WindowsPerEpoch,
    augment: bool = typer.Option(
        False, "--augment/--no-augment", help="Add augmented windows.", rich_help_panel=_CORPUS
    ),
    num_augmentations: int = typer.Option(
        _BILSTM.num_augmentations,
        help="Augmented copies of each window.",
        rich_help_panel=_CORPUS,
    ),
    materialise_augmented: bool = typer.Option(
        False,
        help="Make the copies once, instead of anew for every batch.",
        rich_help_panel=_CORPUS,
    ),
) -> None:
    """Pretrain a masked BiLSTM encoder on unlabelled windows.

    Example: `moola pretrain-bilstm --device cuda --epochs 50 --mask-strategy patch`

    Several processes: `torchrun --nproc-per-node 2 -m moola pretrain-bilstm --device cpu`
    """
    _run(PretrainConfig, locals())


def pretrain_ts2vec(
    unlabeled: str = _Unlabeled,
    output: Path = _output(names.DEFAULT_TS2VEC),
    device: str = Device,
    epochs: int = Epochs(_TS2VEC.epochs),
    resume: bool = Resume,
    seed: int = Seed,
    data_root: str = DataRoot,
    as_json: bool = AsJson,
    hidden_dim: int = typer.Option(
        _TS2VEC.hidden_dim, help="Channels inside.", rich_help_panel=MODEL
    ),
    output_dim: int = typer.Option(
        _TS2VEC.output_dim, help="Length of a representation.", rich_help_panel=MODEL
    ),
    depth: int = typer.Option(_TS2VEC.depth, help="Residual blocks.", rich_help_panel=MODEL),
    batch_size: int = BatchSize(_TS2VEC.batch_size),
    learning_rate: float = LearningRate(_TS2VEC.learning_rate),
    patience: int = _Patience(_TS2VEC.patience),
    schedule: str = _Schedule,
    amp: str = _Amp,
    sampling: str = _sampling(_TS2VEC.sampling),
    windows_per_epoch: int = _WindowsPerEpoch,
) -> None:
    """Pretrain a TS2Vec encoder on unlabelled windows.

    Example: `moola pretrain-ts2vec --unlabeled unlabeled_windows/v1 --epochs 20`
    """
    _run(TS2VecConfig, locals())


def pretrain_multitask(
    unlabeled: str = _Unlabeled,
    output: Path = _output(names.DEFAULT_MULTITASK),
    device: str = Device,
    epochs: int = Epochs(_MULTITASK.epochs),
    resume: bool = Resume,
    seed: int = Seed,
    data_root: str = DataRoot,
    as_json: bool = AsJson,
    hidden_dim: int = _units(_MULTITASK.hidden_dim),
    num_layers: int = _layers(_MULTITASK.num_layers),
    horizon_bars: int = typer.Option(
        _MULTITASK.horizon_bars, help="How far targets look ahead.", rich_help_panel=_TASKS
    ),
    direction_weight: float = typer.Option(
        _MULTITASK.direction_weight,
        help="Of the task: where does the price go?",
        rich_help_panel=_TASKS,
    ),
    swing_weight: float = typer.Option(
        _MULTITASK.swing_weight, help="Of the task: is this bar a turn?", rich_help_panel=_TASKS
    ),
    candle_weight: float = typer.Option(
        _MULTITASK.candle_weight,
        help="Of the task: which form has this bar?",
        rich_help_panel=_TASKS,
    ),
    batch_size: int = BatchSize(_MULTITASK.batch_size),
    learning_rate: float = LearningRate(_MULTITASK.learning_rate),
    patience: int = _Patience(_MULTITASK.patience),
    schedule: str = _Schedule,
    amp: str = _Amp,
    sampling: str = _sampling(_MULTITASK.sampling),
    windows_per_epoch: int = _WindowsPerEpoch,
) -> None:
    """Pretrain a BiLSTM encoder on direction, swing and candle of every bar.

    Example: `moola pretrain-multitask --epochs 20 --horizon-bars 6`
    """
    _run(MultitaskConfig, locals())


def _run(kind: type[CorpusConfig], options: Mapping[str, Any]) -> None:
    """Pretrain with a command's options."""
    from moola.models.device import keep_freed_memory
    from moola.steps.pretrain import pretrain

    config = config_of(kind, options, windows_per_epoch=options["windows_per_epoch"] or None)
    keep_freed_memory()
    leads = os.environ.get("RANK", "0") == "0"
    with progress_bars(quiet=options["as_json"]) as progress:
        summary = pretrain(
            config,
            data_root=options["data_root"],
            output=options["output"],
            resume=options["resume"],
            progress=progress,
        )
    if not leads:
        return
    if options["as_json"]:
        print_json(pretrain_facts(summary))
    else:
        print_pretrain(summary)
