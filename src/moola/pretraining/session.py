"""One pretraining from windows to a result, whatever its objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import moola
from moola.config.pretraining import CorpusConfig
from moola.data.audit.trail import CorpusClaim
from moola.errors import DeviceError
from moola.hashing import atomic_file, sha256_array, sha256_json
from moola.models.fitting.loop import LoopOptions, OnEpoch, run_epochs
from moola.models.fitting.resume import StateFile
from moola.models.weights.checkpoint import save_checkpoint
from moola.pretraining.corpus import split_by_time
from moola.pretraining.distributed import ALONE, Share
from moola.pretraining.loop import PretextTask, Pretraining

_MEMORY_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Session:
    """How a pretraining runs: where, who listens, where its state is kept.

    `state_path` is the file that holds the state after every epoch; with `resume` the run goes on
    from it. `share` is this process's part of every batch.
    """

    device: str
    on_epoch: OnEpoch | None = None
    state_path: Path | None = None
    resume: bool = False
    share: Share = ALONE


@dataclass(frozen=True, kw_only=True)
class PretrainResult(Generic[Model]):
    """A pretrained model with its history.

    `val_rows` are the windows held back, the latest in time; no window of training shares a bar
    with them. `kept_epoch` counts from 0; `resumed_at` is the epoch an interrupted run went on
    with.
    """

    model: Model
    history: tuple[dict[str, float], ...]
    kept_epoch: int
    train_rows: NDArray[np.int64]
    val_rows: NDArray[np.int64]
    resumed_at: int | None = None


def run_session(
    make: Callable[[NDArray[np.int64], NDArray[np.int64]], PretextTask],
    X_NTC: NDArray,
    config: CorpusConfig,
    session: Session,
) -> PretrainResult[Any]:
    """Train an objective on windows in price units, in time order; the latest are held out.

    Parameters
    ----------
    make
        Builds the objective from the windows to train on and those held out; random numbers come
        from the configuration's seed.
    X_NTC
        Shape (n, T, 4).
    config
        Of the pretraining.
    session
        Where it runs, who listens, where its state is kept.

    Returns
    -------
    PretrainResult
        The model with the weights of its best epoch.

    Raises
    ------
    ConfigError
        If too few windows are left beside the held-out ones, or the state is another run's.
    ProofError
        If the loss becomes NaN.
    CheckpointError, DeviceError
        If the state cannot be written; if memory runs out.
    """
    train, val = split_by_time(len(X_NTC), X_NTC.shape[1], config.val_split)
    state_file = None
    if session.state_path is not None:
        identity = run_identity(config, X_NTC, session.device)
        state_file = StateFile(path=session.state_path, identity=identity, resume=session.resume)
    devices = [torch.cuda.current_device()] if session.device == "cuda" else []
    with _lack_of_memory_in_words(config), torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)
        objective = make(train, val)
        state = run_epochs(
            Pretraining(objective, config, device=session.device, share=session.share),
            LoopOptions(
                num_epochs=config.epochs,
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                patience=config.patience,
            ),
            on_epoch=session.on_epoch,
            state_file=state_file,
            writes=session.share.leads,
        )
    return PretrainResult(
        model=objective.model,
        history=tuple(state.history),
        kept_epoch=state.kept_epoch,
        train_rows=train,
        val_rows=val,
        resumed_at=state.resumed_at,
    )


@contextmanager
def _lack_of_memory_in_words(config: CorpusConfig) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_memory = any(sign in str(error) for sign in _MEMORY_SIGNS)
        if not is_memory and not isinstance(error, MemoryError):
            raise
        raise DeviceError(
            f"memory ran out at batch_size {config.batch_size}",
            remedy="Lower batch_size or the encoder's size; the state of the last whole epoch is "
            "intact",
        ) from None


def run_identity(config: CorpusConfig, X_NTC: NDArray, device: str) -> str:
    """Return the digest of all that determines a pretraining; `device` is the resolved one."""
    return sha256_json(
        {
            "config": {**config.to_dict(), "device": device},
            "corpus": sha256_array(X_NTC),
            "moola": moola.__version__,
            "torch": torch.__version__,
        }
    )


def save_pretrained(
    folder: Path, kind: str, result: PretrainResult[Any], config: Any, corpus: CorpusClaim
) -> str:
    """Write the model's checkpoint with the statement of what it was trained on.

    Parameters
    ----------
    folder
        Is replaced whole.
    kind
        ``Kind.name``.
    result
        Of the pretraining.
    config
        Its configuration; ``encoder_shape`` rebuilds the model.
    corpus
        Which bars it saw.

    Returns
    -------
    SHA-256 of the weights file.
    """
    about = {**about_pretrained(kind, result, config), "corpus": corpus.to_dict()}
    return save_checkpoint(folder, result.model.state_dict(), about)


def about_pretrained(kind: str, result: PretrainResult[Any], config: Any) -> dict[str, Any]:
    """Return what a checkpoint says of a pretraining, but for its corpus."""
    return {
        "kind": kind,
        "shape": config.encoder_shape(),
        "pretraining": config.to_dict(),
        "kept_epoch": result.kept_epoch,
    }


def export_pt(path: Path, model: Any, about: Mapping[str, Any]) -> None:
    """Write a model as one plain dict with ``torch.save``, its encoder by itself too.

    Parameters
    ----------
    path
        The file; ``torch.load(path, weights_only=True)`` reads it.
    model
        The pretrained model.
    about
        What its checkpoint folder's configuration says. Where that names the corpus, `moola train`
        takes the file as it takes the folder.
    """
    tensors = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    encoder = {k: v.detach().cpu() for k, v in model.encoder.state_dict().items()}
    content = {
        "model_state_dict": tensors,
        "encoder_state_dict": encoder,
        "hyperparams": about["shape"],
        **about,
    }
    with atomic_file(path) as temporary:
        torch.save(content, temporary)
