"""Walk-forward predictions: each fold trained on its past, several seeds, averaged per window.

Every fold x seed is kept in a file named by the digest of all that determines it, so that an
interrupted evaluation goes on where it stopped and candidates share their baseline.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import moola
from moola.config.training import FinetuneConfig
from moola.data.splits import Split, WalkForward
from moola.data.store.sets import WindowSet
from moola.data.synthetic import SyntheticSet
from moola.data.windows import WindowTimes
from moola.errors import DataError
from moola.hashing import atomic_file, sha256_json
from moola.models import REGISTRY
from moola.models.weights.checkpoint import read_checkpoint
from moola.training.finetune import early_stopping_rows, finetune
from moola.training.launchers import Done, Launcher, LocalLauncher

TASK_LOG = "tasks.jsonl"
_HOLDS = "rows, schedule"  # beside the predictions; a result without them is made again


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one training on one fold with one seed did.

    Attributes
    ----------
    fold, seed, config
        Name of the fold, the seed, and the configuration as it was trained.
    rows
        Window ids: ``fit`` it was fitted on, ``stop`` it was stopped early by, ``purged`` of the
        fold's training windows because they reach into those, and ``val`` it predicted.
    load_report, schedule, proof
        None where the model has none.
    """

    fold: str
    seed: int
    config: Mapping[str, Any]
    rows: Mapping[str, NDArray[np.int64]]
    load_report: Mapping[str, Any] | None
    schedule: Mapping[str, Any] | None
    proof: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; rows as ``<part>_indices``, as split files name them."""
        rows = {f"{part}_indices": ids.tolist() for part, ids in self.rows.items()}
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["rows"]
        return {**values, "counts": {part: len(ids) for part, ids in self.rows.items()}, **rows}

    def row(self) -> dict[str, Any]:
        """Return the line of a table; None where the model has no such figure."""
        report, proof = self.load_report or {}, self.proof or {}
        return {
            "fold": self.fold,
            "seed": self.seed,
            "model": self.config["model"],
            **{f"num_{part}": len(ids) for part, ids in self.rows.items()},
            "match_ratio_encoder": report.get("match_ratio_encoder"),
            "schedule": (self.schedule or {}).get("name"),
            "proven": proof.get("proven"),
        }


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
    trainings
        One a fold and seed, in the order of folds.
    """

    rows: NDArray[np.int64]
    y: NDArray[np.int64]
    proba: NDArray[np.float64]
    proba_by_seed: NDArray[np.float64]
    prior: NDArray[np.float64]
    load_report: dict[str, Any] | None
    proof: dict[str, Any] | None
    trainings: tuple[Training, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """A configuration and the seeds it is trained with; its own seed and split are replaced."""

    config: FinetuneConfig
    seeds: tuple[int, ...]


def walk_forward_predictions(
    trainees: Mapping[str, Trainee],
    labeled: WindowSet,
    folds: WalkForward,
    *,
    device: str,
    cache: Path,
    launcher: Launcher = LocalLauncher(),  # noqa: B008  frozen
    on_done: Callable[[str, int, int], None] = lambda name, done, total: None,
    on_training: Callable[[str, Training], None] = lambda name, training: None,
    synthetic: SyntheticSet | None = None,
) -> dict[str, WalkForwardPredictions]:
    """Train configurations on every fold x seed and predict each fold's validation windows.

    Parameters
    ----------
    trainees
        By name; the trainings of all of them run side by side.
    cache
        Folder of finished fold x seed results, with ``tasks.jsonl``: a line for each training that
        says where it ran and how long.
    launcher
        Where the trainings run; the results do not depend on it.
    on_done
        Called with (name, finished, total) for progress.
    on_training
        Called with a trainee's name and a training as soon as it is done, or found in the cache.
    labeled, folds
        The set, and its folds.
    synthetic
        The synthetic set that configurations name; of it each training takes the windows whose
        parents it is fitted on.
    device
        ``cpu`` or ``cuda``, resolved.

    Returns
    -------
    dict
        `WalkForwardPredictions` by name.

    Raises
    ------
    DataError
        If the set has no labels, or a configuration names another synthetic set.
    LauncherError
        If workers die; what is finished is kept.
    """
    if labeled.y is None:
        raise DataError(f"{labeled.name} has no labels")
    tasks = {
        name: list(_tasks(t, labeled, folds, synthetic, cache=cache, device=device))
        for name, t in trainees.items()
    }
    _train(
        tasks,
        labeled,
        synthetic,
        device=device,
        launcher=launcher,
        on_done=on_done,
        on_training=on_training,
    )
    return {
        name: _collect(tasks[name], labeled, folds, trainee.seeds)
        for name, trainee in trainees.items()
    }


@dataclass(frozen=True, kw_only=True)
class _Task:
    config: FinetuneConfig
    fold: Split
    path: Path


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What every task needs; the encoders travel as bytes, since a worker may be another host."""

    X: NDArray[np.float32]
    y: NDArray[np.int64]
    times: WindowTimes
    device: str
    encoders: Mapping[str, Mapping[str, bytes]]
    synthetic: _Synthetic | None


@dataclass(frozen=True, kw_only=True)
class _Synthetic:
    X: NDArray[np.float32]
    y: NDArray[np.int64]
    parent: NDArray[np.int64]


def _tasks(
    trainee: Trainee,
    labeled: WindowSet,
    folds: WalkForward,
    synthetic: SyntheticSet | None = None,
    *,
    cache: Path,
    device: str,
) -> Iterator[_Task]:
    """Yield fold x seed, each with the file of its result, named by all that determines it."""
    encoder = trainee.config.pretrained_encoder
    encoder_sha256 = read_checkpoint(Path(encoder)).sha256 if encoder else None
    config = trainee.config
    if config.synthetic and (synthetic is None or synthetic.name != config.synthetic):
        raise DataError(f"synthetic set {config.synthetic} is not at hand", limit="the set named")
    made_of = {"synthetic_sha256": synthetic.sha256} if synthetic and config.synthetic else {}
    for fold in folds.folds:
        for seed in trainee.seeds:
            of_task = dataclasses.replace(config, seed=seed, split=fold.name)
            identity = {
                "config": {
                    **of_task.to_dict(),
                    "device": device,
                    "pretrained_encoder": encoder_sha256,
                },
                "labeled_sha256": labeled.sha256,
                "fold_sha256": fold.digest(),
                "holds": _HOLDS,
                **made_of,
                "moola": moola.__version__,
                "torch": torch.__version__,
            }
            yield _Task(config=of_task, fold=fold, path=cache / f"{sha256_json(identity)[:32]}.npz")


def _train(
    tasks: Mapping[str, Sequence[_Task]],
    labeled: WindowSet,
    synthetic: SyntheticSet | None,
    *,
    device: str,
    launcher: Launcher,
    on_done: Callable[[str, int, int], None],
    on_training: Callable[[str, Training], None],
) -> None:
    """Run the tasks that have no result yet, those with most windows first."""
    missing = {
        n: {t.path for t in fold_tasks if not t.path.exists()} for n, fold_tasks in tasks.items()
    }
    for name, fold_tasks in tasks.items():
        for task in fold_tasks:
            if task.path not in missing[name]:
                on_training(name, _training_of(task))
        on_done(name, len(fold_tasks) - len(missing[name]), len(fold_tasks))
    remaining = {
        t.path: t for fold_tasks in tasks.values() for t in fold_tasks if not t.path.exists()
    }
    ordered = sorted(remaining.values(), key=lambda task: -len(task.fold.train))
    assert labeled.y is not None
    shared = _Shared(
        X=labeled.X_ohlc,
        y=labeled.y,
        times=labeled.times,
        device=device,
        encoders=_encoder_files(ordered),
        synthetic=_Synthetic(X=synthetic.X_ohlc, y=synthetic.y, parent=synthetic.parent)
        if synthetic is not None
        else None,
    )
    for outcome in launcher.map(_run_task, shared, ordered):
        task = ordered[outcome.index]
        with atomic_file(task.path) as temporary:
            temporary.write_bytes(outcome.result)
        _log_task(task, outcome)
        for name in (n for n, paths in missing.items() if task.path in paths):
            missing[name].discard(task.path)
            on_training(name, _training_of(task))
            on_done(name, len(tasks[name]) - len(missing[name]), len(tasks[name]))


def _log_task(task: _Task, outcome: Done) -> None:
    line = {
        "result": task.path.name,
        "model": task.config.model,
        "fold": task.fold.name,
        "seed": task.config.seed,
        "host": outcome.host,
        "pid": outcome.pid,
        "seconds": round(outcome.seconds, 3),
    }
    with (task.path.parent / TASK_LOG).open("a") as handle:
        handle.write(json.dumps(line) + "\n")


def _encoder_files(tasks: Iterable[_Task]) -> dict[str, dict[str, bytes]]:
    """Return the files of every encoder the tasks start from, by its path and their names."""
    paths = {t.config.pretrained_encoder for t in tasks} - {None}
    digests = {}
    for path in (Path(str(p)) for p in paths):
        files = [p for p in path.iterdir() if p.is_file()] if path.is_dir() else [path]
        digests[str(path)] = {p.name: p.read_bytes() for p in files}
    return digests


def _run_task(shared: _Shared, task: _Task) -> bytes:
    """Train one fold with one seed; return the file its result is kept in."""
    X, y, times = shared.X, shared.y, shared.times
    fit, stop, validation = task.fold.train, task.fold.train[:0], None
    if task.config.patience and REGISTRY[task.config.model].is_net:
        fit, stop = early_stopping_rows(fit, times.label_end, times.first)
        validation = (X[stop], y[stop])
    X_fit, y_fit = X[fit], y[fit]
    if task.config.synthetic:
        assert shared.synthetic is not None
        X_fit, y_fit = _with_synthetic(X_fit, y_fit, fit, shared.synthetic)
    with _encoder_here(task.config, shared.encoders) as config:
        result = finetune(
            config,
            X_fit,
            y_fit,
            validation=validation,
            gap_windows=times.gap_windows(fit),
            device=shared.device,
        )
    report = result.load_report
    if report is not None:
        report = {**report, "checkpoint": str(task.config.pretrained_encoder)}
    extra = {"load_report": report, "proof": result.proof, "schedule": result.schedule}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        rows=task.fold.val,
        fit=fit,
        stop=stop,
        proba=result.model.predict_proba(X[task.fold.val]),
        extra=np.frombuffer(json.dumps(extra).encode(), dtype=np.uint8),
    )
    return buffer.getvalue()


def _with_synthetic(
    X: NDArray[np.float32], y: NDArray[np.int64], fit: NDArray[np.int64], synthetic: _Synthetic
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Append the synthetic windows of the rows a training is fitted on, and of no others."""
    usable = np.isin(synthetic.parent, fit)
    return np.concatenate([X, synthetic.X[usable]]), np.concatenate([y, synthetic.y[usable]])


def _training_of(task: _Task) -> Training:
    """Read back what a finished task's result says of its training."""
    with np.load(task.path, allow_pickle=False) as stored:
        extra = json.loads(bytes(stored["extra"]))
        rows = {part: np.asarray(stored[part]) for part in ("fit", "stop")}
    unused = np.setdiff1d(task.fold.train, np.concatenate([rows["fit"], rows["stop"]]))
    return Training(
        fold=task.fold.name,
        seed=task.config.seed,
        config=task.config.to_dict(),
        rows={**rows, "purged": unused, "val": task.fold.val},
        load_report=extra["load_report"],
        schedule=extra["schedule"],
        proof=extra["proof"],
    )


@contextmanager
def _encoder_here(
    config: FinetuneConfig, encoders: Mapping[str, Mapping[str, bytes]]
) -> Iterator[FinetuneConfig]:
    """Unpack the encoder that was sent along and point the configuration at it."""
    if config.pretrained_encoder is None:
        yield config
        return
    path = Path(config.pretrained_encoder)
    files = encoders[str(path)]
    with tempfile.TemporaryDirectory(prefix="moola-encoder-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        here = Path(folder) / path.name if list(files) == [path.name] else Path(folder)
        yield dataclasses.replace(config, pretrained_encoder=str(here))


def _collect(
    tasks: Sequence[_Task], labeled: WindowSet, folds: WalkForward, seeds: Sequence[int]
) -> WalkForwardPredictions:
    assert labeled.y is not None
    loaded = [np.load(t.path, allow_pickle=False) for t in tasks]
    extras = [json.loads(bytes(item["extra"])) for item in loaded]
    n = len(seeds)
    by_seed = np.stack([np.concatenate([item["proba"] for item in loaded[s::n]]) for s in range(n)])
    rows = np.concatenate([fold.val for fold in folds.folds])
    shares = [class_frequencies(labeled.y[fold.train], labeled.num_classes) for fold in folds.folds]
    prior = np.repeat(shares, [len(fold.val) for fold in folds.folds], axis=0)
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
        trainings=tuple(_training_of(task) for task in tasks),
    )


def class_frequencies(y: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return the share of each class, shape (K,); half a window is added to each, so none is 0."""
    counts = np.bincount(y, minlength=num_classes).astype(float)
    return np.asarray((counts + 0.5) / (counts + 0.5).sum())
