"""What augmentation does to a market's moments, and how often its windows are refused.

Prints, for both shipped labelled sets, the moments of real windows and of the same windows after
one transform, the ROC-AUC of a classifier that tells the two apart (every window transformed, all
features and moments, 5 folds of whole blocks), and how many of N seeds the product's own test
refuses for the default augmenters, as `moola data synth` and gate 5 use them.

    python benchmarks/bench_augmentation.py               # in a folder with `moola data build` done
    python benchmarks/bench_augmentation.py --seeds 40 --data data
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest

from moola.data.audit.moments import MOMENT_NAMES, window_moments
from moola.data.audit.synthetic import synthetic_checks, window_statistics
from moola.data.audit.twosample import classifier_auc
from moola.data.store.data_store import DataStore
from moola.data.store.sets import WindowSet
from moola.data.synthetic import make_synthetic
from moola.models.fitting.augmentation import TEMPORAL
from moola.models.fitting.transforms import scale_wicks
from moola.pretraining.data_augmentation import TimeSeriesAugmenter

SETS = (("labeled_windows/v1", "fwd_chain_v3"), ("labeled_windows/v2", "fwd_chain_v2_eurusd"))
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def interpolated(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Warp by interpolation between bars, as most libraries do, for comparison."""
    num, bars = X.shape[:2]
    pace = [np.interp(np.arange(bars - 1), np.linspace(0, bars - 2, 4), row)
            for row in rng.normal(0.0, 0.12, (num, 4))]  # fmt: skip
    time = np.c_[np.zeros(num), np.cumsum(np.exp(pace), axis=1)]
    time *= (bars - 1) / time[:, -1:]
    left = np.clip(np.floor(time).astype(int), 0, bars - 2)
    weight, row = (time - left)[..., None], np.arange(num)[:, None]
    return ((1 - weight) * X[row, left] + weight * X[row, left + 1]).astype(np.float32)


def wicks(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale the wicks of every window."""
    config = TimeSeriesAugmenter()
    factor = rng.uniform(config.volatility_low, config.volatility_high, len(X))
    made = scale_wicks(torch.from_numpy(X.astype(np.float64)), torch.from_numpy(factor))
    return made.float().numpy()


TRANSFORMS: dict[str, Change] = {
    "real": lambda X, _rng: X,
    "warp": replace(TEMPORAL, time_warp_prob=1.0, jitter_prob=0.0).augment,
    "jitter": replace(TEMPORAL, time_warp_prob=0.0, jitter_prob=1.0).augment,
    "scaled wicks": wicks,
    "warp by interpolation": interpolated,
}
DEFAULTS: dict[str, Change] = {
    "moola data synth": TimeSeriesAugmenter().augment,
    "moola train --augment": TEMPORAL.augment,
}


def print_moments(name: str, labeled: WindowSet) -> None:
    """Print one set's table."""
    X, rng = np.array(labeled.X_ohlc), np.random.default_rng(0)
    first = labeled.times.first
    block = first // (int((labeled.times.label_end - first).max()) + 1)
    real = window_statistics(X)
    print(f"\n{name}, {len(X):,} windows: mean over windows\n")
    print("| | " + " | ".join(n.replace("_", " ") for n in MOMENT_NAMES) + " | AUC |")
    print("| --- |" + " ---: |" * (len(MOMENT_NAMES) + 1))
    for what, change in TRANSFORMS.items():
        made = change(X, rng)
        means = " | ".join(f"{value:.3f}" for value in window_moments(made).mean(axis=0))
        auc = classifier_auc(real, window_statistics(made), block, block)
        print(f"| {what} | {means} | {'' if what == 'real' else f'{auc:.3f}'} |", flush=True)


def print_refusals(seeds: int, data: DataStore) -> None:
    """Print how many seeds the product's own test refuses."""
    print(f"\nRefused by the product's own test, of {seeds} seeds [exact 95 % interval]\n")
    print("| | " + " | ".join(name for name, _ in SETS) + " |\n| --- | --- | --- |")
    for what, change in DEFAULTS.items():
        cells = []
        for name, split_name in SETS:
            labeled, split = data.load_set(name), data.load_split(split_name)
            aucs, refused = [], 0
            for seed in range(seeds):
                made = make_synthetic(
                    labeled, split, change, name="bench", config={}, random_state=seed
                )
                checks, report = synthetic_checks(made, labeled, split)
                refused += not all(c.passed for c in checks)
                aucs.append(report.auc)
            low, high = binomtest(refused, seeds).proportion_ci(method="exact")
            cells.append(
                f"{refused} [{low:.0%}, {high:.0%}], AUC {min(aucs):.3f} to {max(aucs):.3f}"
            )
        print(f"| {what} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--data", type=Path, default=Path("data"))
    options = parser.parse_args()
    data = DataStore(options.data)
    for name, _split in SETS:
        print_moments(name, data.load_set(name))
    print_refusals(options.seeds, data)


if __name__ == "__main__":
    main()
