"""Walk-forward predictions: each fold trained on its past, several seeds, averaged per window.

Every fold x seed is kept in a file named by the digest of all that determines it, so that an
interrupted evaluation goes on where it stopped and candidates share their baseline.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

import moola
from moola.config.training import FinetuneConfig
from moola.data.registry import WindowSet
from moola.data.splits import Split, WalkForward
from moola.errors import DataError
from moola.hashing import atomic_file, sha256_json
from moola.models.checkpoint import read_checkpoint
from moola.training.finetune import early_stopping_rows, finetune


@dataclass(frozen=True, kw_only=True)
class WalkForwardPredictions:
    """Predictions on every fold's validation windows, in time order.

    Attributes
    ----------
    rows, y
        Window ids and class indices, shape (n,).
    proba
        Probabilities averaged over seeds, shape (n, K).
    proba_by_seed
        Shape (num_seeds, n, K).
    prior
        Class frequencies of each fold's training windows, shape (n, K).
    load_report, proof
        The first fold's load report and the conjunction of all folds' freeze proofs; None where
        the model has none.
    """

    rows: NDArray[np.int64]
    y: NDArray[np.int64]
    proba: NDArray[np.float64]
    proba_by_seed: NDArray[np.float64]
    prior: NDArray[np.float64]
    load_report: dict[str, Any] | None
    proof: dict[str, Any] | None


def walk_forward_predictions(
    config: FinetuneConfig,
    labeled: WindowSet,
    folds: WalkForward,
    *,
    seeds: Sequence[int],
    device: str,
    cache: Path,
    jobs: int = 1,
    on_done: Callable[[int, int], None] | None = None,
) -> WalkForwardPredictions:
    """Train a configuration on every fold x seed and predict the fold's validation windows.

    Parameters
    ----------
    config
        Its seed, split and device are replaced by those given here.
    cache
        Folder of finished fold x seed results.
    jobs
        Worker processes; each takes one torch thread when there are several.
    on_done
        Called with (finished, total) for progress.
    """
    if labeled.y is None:
        raise DataError(f"{labeled.name} has no labels")
    tasks = list(_tasks(config, labeled, folds, seeds, cache))
    open_tasks = [t for t in tasks if not t.path.exists()]
    done = len(tasks) - len(open_tasks)
    if on_done:
        on_done(done, len(tasks))
    threads = 1 if jobs > 1 else None
    results = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(_run_task)(task, labeled, device=device, threads=threads) for task in open_tasks
    )
    for count, _ in enumerate(results, start=done + 1):
        if on_done:
            on_done(count, len(tasks))
    return _collect(tasks, labeled, folds, seeds)


@dataclass(frozen=True, kw_only=True)
class _Task:
    config: FinetuneConfig
    fold: Split
    path: Path


def _tasks(
    config: FinetuneConfig,
    labeled: WindowSet,
    folds: WalkForward,
    seeds: Sequence[int],
    cache: Path,
) -> Iterator[_Task]:
    encoder = config.pretrained_encoder
    encoder_sha256 = read_checkpoint(Path(encoder)).sha256 if encoder else None
    for fold in folds.folds:
        for seed in seeds:
            of_task = dataclasses.replace(config, seed=seed, split=fold.name)
            values = {k: v for k, v in of_task.to_dict().items() if k != "device"}
            identity = {
                "config": {**values, "pretrained_encoder": encoder_sha256},
                "labeled_sha256": labeled.sha256,
                "fold_sha256": fold.digest(),
                "moola": moola.__version__,
            }
            yield _Task(config=of_task, fold=fold, path=cache / f"{sha256_json(identity)[:32]}.npz")


def _run_task(task: _Task, labeled: WindowSet, *, device: str, threads: int | None) -> None:
    import torch

    X, y, times = labeled.X_ohlc, labeled.y, labeled.times
    assert y is not None

    if threads is not None:
        torch.set_num_threads(threads)
    fit, held = task.fold.train, None
    if task.config.patience:
        fit, stop = early_stopping_rows(fit, times.label_end, times.first)
        held = (X[stop], y[stop])
    result = finetune(task.config, X[fit], y[fit], validation=held, device=device)
    extra = {"load_report": result.load_report, "proof": result.proof}
    with atomic_file(task.path) as temporary, temporary.open("wb") as handle:
        np.savez(
            handle,
            rows=task.fold.val,
            proba=result.model.predict_proba(X[task.fold.val]),
            extra=np.frombuffer(json.dumps(extra).encode(), dtype=np.uint8),
        )


def _collect(
    tasks: Sequence[_Task], labeled: WindowSet, folds: WalkForward, seeds: Sequence[int]
) -> WalkForwardPredictions:
    assert labeled.y is not None
    loaded = [np.load(t.path, allow_pickle=False) for t in tasks]
    extras = [json.loads(bytes(item["extra"])) for item in loaded]
    by_seed = np.stack(
        [
            np.concatenate([item["proba"] for item in loaded[s :: len(seeds)]])
            for s in range(len(seeds))
        ]
    )
    rows = np.concatenate([fold.val for fold in folds.folds])
    prior = np.concatenate(
        [
            np.tile(
                class_frequencies(labeled.y[fold.train], labeled.num_classes), (len(fold.val), 1)
            )
            for fold in folds.folds
        ]
    )
    proofs = [e["proof"] for e in extras if e["proof"] is not None]
    proof = {
        "proven": all(p["proven"] for p in proofs),
        "reasons": [reason for p in proofs for reason in p["reasons"]],
        "num_trainings": len(proofs),
    }
    return WalkForwardPredictions(
        rows=rows,
        y=labeled.y[rows],
        proba=by_seed.mean(axis=0),
        proba_by_seed=by_seed,
        prior=prior,
        load_report=extras[0]["load_report"],
        proof=proof if proofs else None,
    )


def class_frequencies(y: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return the share of each class, shape (K,); half a window is added to each, so none is 0."""
    counts = np.bincount(y, minlength=num_classes).astype(float)
    return np.asarray((counts + 0.5) / (counts + 0.5).sum())
