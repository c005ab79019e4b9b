"""Commands that pretrain encoders: pretrain-bilstm, pretrain-ts2vec, pretrain-multitask."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from moola.cli.console import print_json, progress_bars
from moola.cli.options import AsJson, DataRoot, Resume, options_of
from moola.cli.reports import pretrain_facts, print_pretrain
from moola.config import names
from moola.config.pretraining import CorpusConfig, MultitaskConfig, PretrainConfig, TS2VecConfig


def _output(default: str) -> Any:
    return typer.Option(
        Path(default),
        "--output",
        help="Checkpoint folder to write; a name ending in .pt also writes that form.",
    )


@options_of(PretrainConfig)
def pretrain_bilstm(
    config: PretrainConfig,
    output: Path = _output(names.DEFAULT_ENCODER),
    resume: bool = Resume,
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Pretrain a masked BiLSTM encoder on unlabelled windows.

    Example: `moola pretrain-bilstm --device cuda --epochs 50 --mask-strategy patch`

    Several processes: `torchrun --nproc-per-node 2 -m moola pretrain-bilstm --device cpu`
    """
    _run(config, output=output, resume=resume, data_root=data_root, as_json=as_json)


@options_of(TS2VecConfig)
def pretrain_ts2vec(
    config: TS2VecConfig,
    output: Path = _output(names.DEFAULT_TS2VEC),
    resume: bool = Resume,
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Pretrain a TS2Vec encoder on unlabelled windows.

    Example: `moola pretrain-ts2vec --unlabeled unlabeled_windows/v1 --epochs 20`
    """
    _run(config, output=output, resume=resume, data_root=data_root, as_json=as_json)


@options_of(MultitaskConfig)
def pretrain_multitask(
    config: MultitaskConfig,
    output: Path = _output(names.DEFAULT_MULTITASK),
    resume: bool = Resume,
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Pretrain a BiLSTM encoder on direction, swing and candle of every bar.

    Example: `moola pretrain-multitask --epochs 20 --horizon-bars 6`
    """
    _run(config, output=output, resume=resume, data_root=data_root, as_json=as_json)


def _run(
    config: CorpusConfig, *, output: Path, resume: bool, data_root: str, as_json: bool
) -> None:
    from moola.models.device import keep_freed_memory
    from moola.steps.pretrain import pretrain

    keep_freed_memory()
    leads = os.environ.get("RANK", "0") == "0"
    with progress_bars(quiet=as_json) as progress:
        summary = pretrain(
            config, data_root=data_root, output=output, resume=resume, progress=progress
        )
    if not leads:
        return
    if as_json:
        print_json(pretrain_facts(summary))
    else:
        print_pretrain(summary)
