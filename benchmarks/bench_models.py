"""Every model on the default task, walk-forward, beside the class prior: quality and speed.

    python benchmarks/bench_models.py --data-root data --cache artifacts/bench_models
    python benchmarks/bench_models.py --speed --json speed.json

Quality: the five expanding folds of `labeled_windows/v1` (BTCUSD) and `v2` (EURUSD), five seeds a
fold averaged per window (one for a model without chance), intervals by block bootstrap. Finished
fits are kept in the cache, so that an interrupted measurement goes on. Exits with 1 if
EnhancedSimpleLSTM on EURUSD has a ROC-AUC below 0.76. Speed: one fit on the last fold's training
windows of `v1` (after a short one to warm up), one window's answer, and a thousand windows', in CPU
time of one thread, which a busy machine lengthens little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from moola.config.training import FinetuneConfig
from moola.data.splits import WalkForward
from moola.data.store.data_store import DataStore
from moola.data.store.sets import WindowSet
from moola.evaluation.metrics import metric_intervals
from moola.judging.calibrate import overlap_of
from moola.models import REGISTRY, ModelRegistry
from moola.training.crossval import Trainee, walk_forward_predictions
from moola.training.finetune import finetune
from moola.training.launchers import LocalLauncher

MIN_ROC_AUC = 0.76
METRICS = ("log_loss", "brier", "roc_auc", "balanced_accuracy")
SETS = {
    "labeled_windows/v1": "splits/walk_forward_v1",
    "labeled_windows/v2": "splits/walk_forward_v2_eurusd",
}
SEEDS = (17, 18, 19, 20, 21)
NO_CHANCE = ("logreg",)


def configuration(model: str, labeled: str, encoder: str | None) -> FinetuneConfig:
    """Return how a model is trained here: the compact preset, with early stopping."""
    values: dict[str, Any] = {"model": model, "labeled": labeled, "preset": "compact"}
    if model == "adapter_lstm":
        values |= {"pretrained_encoder": encoder, "freeze": "phases", "phases": (30, 10, 5)}
        values |= {"epochs": 45, "patience": 8, "learning_rate": 1e-3}
    elif REGISTRY[model].is_net:
        values |= {"epochs": 40, "patience": 8, "learning_rate": 1e-3}
    return FinetuneConfig(**values)


def quality(
    names: Sequence[str],
    data: DataStore,
    cache: Path,
    *,
    encoder: str | None,
    num_seeds: int,
    jobs: int,
) -> dict[str, Any]:
    """Metrics with intervals of each model and of the prior, by set."""
    found: dict[str, Any] = {}
    for labeled_name, folds_name in SETS.items():
        labeled, folds = data.load_set(labeled_name), data.load_folds(folds_name)
        rows = found.setdefault(labeled_name, {})
        for name in names:
            seeds = SEEDS[: 1 if name in NO_CHANCE else num_seeds]
            config = configuration(name, labeled_name, encoder)
            predictions = walk_forward_predictions(
                {name: Trainee(config=config, seeds=seeds)},
                labeled,
                folds,
                device="cpu",
                cache=cache,
                launcher=LocalLauncher(jobs=jobs),
            )[name]
            block = overlap_of(labeled.times, predictions.rows)["block_length"]
            if "prior" not in rows:
                rows["prior"] = measured(predictions.y, predictions.prior, block)
            rows[name] = measured(predictions.y, predictions.proba, block)
            print(line(labeled_name, name, rows[name]), flush=True)
    return found


def measured(y: np.ndarray, proba: np.ndarray, block: int) -> dict[str, Any]:
    """Return each metric as (estimate, low, high), and the number of windows."""
    intervals = metric_intervals(y, proba, block_length=block)
    figures = {m: (intervals[m].estimate, intervals[m].low, intervals[m].high) for m in METRICS}
    return {"windows": len(y), **figures}


def line(labeled: str, name: str, row: dict[str, Any]) -> str:
    """Return one line of the table."""
    cells = [f"{e:.3f} [{low:.3f}, {high:.3f}]" for e, low, high in (row[m] for m in METRICS)]
    return f"{labeled:<20}{name:<22}{row['windows']:>5}  " + "  ".join(cells)


def speed(
    names: Sequence[str], labeled: WindowSet, folds: WalkForward, encoder: str | None
) -> dict[str, Any]:
    """CPU seconds of one fit, milliseconds of one window's answer and of a thousand windows'."""
    assert labeled.y is not None
    train = folds.folds[-1].train
    X, y = labeled.X_ohlc[train], labeled.y[train]
    cut = round(0.85 * len(X))
    thousand = np.resize(X, (1000, *X.shape[1:]))
    found = {}
    for name in names:
        config = configuration(name, labeled.name, encoder)
        finetune(config, X[:150], y[:150], validation=(X[150:200], y[150:200]), device="cpu")
        started = time.process_time()
        model = finetune(
            config, X[:cut], y[:cut], validation=(X[cut:], y[cut:]), device="cpu"
        ).model
        fit_s = time.process_time() - started
        found[name] = {
            "parameters": model.num_parameters,
            "fit_windows": cut,
            "fit_s": fit_s,
            "epochs": len(getattr(model, "history_", ())),
            "one_window_ms": 1e3 * median_seconds(model, X[:1], 30),
            "thousand_windows_ms": 1e3 * median_seconds(model, thousand, 3),
        }
        print(f"{name:<22}" + "  ".join(f"{k} {v:.6g}" for k, v in found[name].items()), flush=True)
    return found


def median_seconds(model: Any, X: np.ndarray, repeats: int) -> float:
    """Return the median CPU time of `predict_proba` after one call to warm up."""
    model.predict_proba(X)
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        model.predict_proba(X)
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [*ModelRegistry.ACTIVE, *ModelRegistry.CLASSICAL]
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--cache", type=Path, default=Path("artifacts/bench_models"))
    parser.add_argument("--models", nargs="+", choices=known, default=known)
    parser.add_argument(
        "--encoder", help="TS2Vec encoder for adapter_lstm; without, it is left out"
    )
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="of a fold, at most 5")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = [n for n in options.models if n != "adapter_lstm" or options.encoder]
    data = DataStore(options.data_root)
    data.build()
    if options.speed:
        import torch

        torch.set_num_threads(1)
        labeled = data.load_set(next(iter(SETS)))
        found = speed(names, labeled, data.load_folds(SETS[labeled.name]), options.encoder)
    else:
        options.cache.mkdir(parents=True, exist_ok=True)
        found = quality(
            names,
            data,
            options.cache,
            encoder=options.encoder,
            num_seeds=options.seeds,
            jobs=options.jobs,
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    primary = found.get("labeled_windows/v2", {}).get("enhanced_simple_lstm")
    return int(primary is not None and primary["roc_auc"][0] < MIN_ROC_AUC)


if __name__ == "__main__":
    sys.exit(main())
