"""TS2Vec on three UCR sets that sktime ships: our accuracy beside what is reported elsewhere.

    python benchmarks/long/ucr_ts2vec.py --seeds 3 --iterations 200

For each set and seed: pretrain on the train windows without labels, as the paper does (AdamW, rate
1e-3, batch 16, 200 steps), take each series' maximum over time, fit an RBF support vector machine
(C from a grid by cross-validation) and a logistic regression on the train labels, and measure
accuracy on test. Exits with 1 if a set's mean falls short of its least reported figure by more
than 0.03.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sktime.datasets import load_arrow_head, load_gunpoint, load_italy_power_demand
from torch.optim.swa_utils import AveragedModel

from moola.models.device import keep_freed_memory
from moola.models.ts2vec import TS2VecEncoder
from moola.pretraining.contrast import hierarchical_loss, two_views

SETS = {
    "ArrowHead": (load_arrow_head, (0.79, 0.86)),
    "GunPoint": (load_gunpoint, (0.98, 0.98)),
    "ItalyPowerDemand": (load_italy_power_demand, (0.93, 0.93)),
}
TOLERANCE = 0.03


def read(load: object, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return series of shape (n, T, 1), float32, and labels."""
    X, y = load(split=part, return_X_y=True, return_type="numpy3D")  # type: ignore[operator]
    return np.ascontiguousarray(X.transpose(0, 2, 1), dtype=np.float32), np.asarray(y)


def pretrain(X: np.ndarray, seed: int, iterations: int) -> TS2VecEncoder:
    """Train an encoder on series without labels; the weights' running mean is used, as there."""
    torch.manual_seed(seed)
    encoder = TS2VecEncoder(input_dim=X.shape[2]).train()
    averaged = AveragedModel(encoder)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    draw = torch.Generator().manual_seed(seed)
    x, done = torch.from_numpy(X), 0
    while done < iterations:
        for rows in torch.randperm(len(x), generator=draw).split(min(16, len(x))):
            if len(rows) < min(16, len(x)):
                continue
            loss = hierarchical_loss(*two_views(encoder, x[rows], draw))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            averaged.update_parameters(encoder)
            done += 1
            if done == iterations:
                break
    return averaged.module.eval()


@torch.inference_mode()
def encode(encoder: TS2VecEncoder, X: np.ndarray) -> np.ndarray:
    """Return one vector a series."""
    return torch.cat([encoder.encode(x) for x in torch.from_numpy(X).split(128)]).numpy()


def probes(
    Z: np.ndarray, y: np.ndarray, Z_test: np.ndarray, y_test: np.ndarray
) -> dict[str, float]:
    """Return the accuracy of a support vector machine and of a logistic regression."""
    folds = min(5, int(np.unique(y, return_counts=True)[1].min()))
    grid = {"svc__C": [10.0**k for k in range(-4, 5)]}
    svm = GridSearchCV(make_pipeline(StandardScaler(), SVC(gamma="scale")), grid, cv=folds)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return {
        "svm": float(svm.fit(Z, y).score(Z_test, y_test)),
        "linear": float(linear.fit(Z, y).score(Z_test, y_test)),
    }


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    found, short = {}, False
    for name in options.sets:
        load, (low, high) = SETS[name]
        (X, y), (X_test, y_test) = read(load, "train"), read(load, "test")
        scores: dict[str, list[float]] = {"svm": [], "linear": []}
        began = time.process_time()
        for seed in range(options.seeds):
            encoder = pretrain(X, seed, options.iterations)
            made = probes(encode(encoder, X), y, encode(encoder, X_test), y_test)
            for probe, score in made.items():
                scores[probe].append(score)
        means = {probe: statistics.mean(values) for probe, values in scores.items()}
        listed = {p: " ".join(f"{v:.3f}" for v in values) for p, values in scores.items()}
        print(f"{name:<18} svm {means['svm']:.3f} ({listed['svm']})  "
              f"linear {means['linear']:.3f} ({listed['linear']})  reported {low:.2f} to {high:.2f}"
              f"  {time.process_time() - began:.0f} s of CPU", flush=True)  # fmt: skip
        found[name] = scores
        short |= max(means.values()) < low - TOLERANCE
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
