"""What a fine-tuning epoch costs: frozen on cached encoder outputs, unfrozen, and a plain loop.

    python benchmarks/bench_finetune.py --windows 512 --threads 2

Prints one line a measurement and, with ``--json FILE``, writes the figures. The plain loop is the
shortest torch loop that trains the same net on the same batches, without callbacks, proof or cache.
Exits with 1 if a frozen epoch costs more than 10 % of an unfrozen one, or the small recipe (78
windows, 3 epochs, hidden 128, 1 layer, batch 512) more than 1.3 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

from moola.models.enhanced_simple_lstm import PRESETS, EnhancedSimpleLSTMModel
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.weights.freeze import FreezeCallback, make_schedule
from moola.training.forensics import WeightEvolution

BARS = Path(__file__).resolve().parents[1] / "data" / "bars" / "btcusd_1h.parquet"
MAX_FROZEN_SHARE, MAX_RECIPE_SECONDS = 0.10, 1.3
WINDOW_BARS, STEP_BARS = 105, 6


class EpochClock(Callback):
    """Seconds of each epoch; must be the last callback."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, state: FitState) -> None:
        """Start."""
        self._started = time.perf_counter()

    def on_epoch_end(self, state: FitState) -> None:
        """Stop."""
        self.seconds.append(time.perf_counter() - self._started)


def real_windows(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the latest `num` windows of the shipped bars, labelled by whether the close rose."""
    table = pq.read_table(BARS, columns=["open", "high", "low", "close"]).to_pandas()
    ohlc = np.array(table, dtype=np.float32)
    ohlc[:, 1], ohlc[:, 2] = ohlc.max(axis=1), ohlc.min(axis=1)
    last = len(ohlc) - WINDOW_BARS
    starts = last - STEP_BARS * np.arange(num)[::-1]
    X = np.stack([ohlc[s : s + WINDOW_BARS] for s in starts])
    return X, (X[:, -1, 3] > X[:, 0, 3]).astype(np.int64)


def estimator_epochs(
    schedule_name: str, X: np.ndarray, y: np.ndarray, epochs: int, *, cache: bool
) -> list[float]:
    """Seconds of each epoch of the estimator, with schedule, proof and gradient norms."""
    schedule = make_schedule(schedule_name, num_layers=PRESETS["matched"]["num_layers"])
    clock = EpochClock()
    model = EnhancedSimpleLSTMModel.from_preset("matched", n_epochs=epochs, cache_frozen=cache)
    model.fit(X, y, callbacks=[FreezeCallback(schedule), WeightEvolution(schedule), clock])
    return clock.seconds


def plain_epochs(
    X: np.ndarray, y: np.ndarray, epochs: int, *, frozen: bool, batch_size: int, **shape: int
) -> list[float]:
    """Seconds of each epoch of a plain torch loop over the same net and windows."""
    model = EnhancedSimpleLSTMModel(n_epochs=1, batch_size=len(X), **shape).fit(X, y)
    x, f = model._inputs(X)
    target = torch.from_numpy(y)
    torch.manual_seed(17)
    net = model.build_net(2).train()
    if frozen:
        net.encoder.requires_grad_(False).eval()
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=1e-4)
    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        for rows in torch.randperm(len(x)).split(batch_size):
            loss = nn.functional.cross_entropy(net(x[rows], f[rows]), target[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
        seconds.append(time.perf_counter() - started)
    return seconds


def small_recipe(repeats: int) -> dict[str, Any]:
    """78 windows, 3 epochs, hidden 128, 1 layer, batch 512: the estimator and the plain loop."""
    X, y = real_windows(78)
    shape = {"hidden_size": 128, "num_layers": 1}

    def fit() -> None:
        EnhancedSimpleLSTMModel(n_epochs=3, batch_size=512, **shape).fit(X, y)

    first = timed(fit)
    again = [timed(fit) for _ in range(repeats)]
    plain = [
        sum(plain_epochs(X, y, 3, frozen=False, batch_size=512, **shape)) for _ in range(repeats)
    ]
    return {
        "first_fit_s": first,
        "fit_s": statistics.median(again),
        "plain_loop_s": statistics.median(plain),
    }


def timed(call: Callable[[], None]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(num_windows: int, frozen_epochs: int, repeats: int) -> dict[str, Any]:
    """All figures of one run; one kind of epoch after the other, so that load hits all alike."""
    recipe = small_recipe(repeats)
    X, y = real_windows(num_windows)
    found: dict[str, list[float]] = {"unfrozen": [], "plain_unfrozen": [], "plain_frozen": []}
    cached, encode = [], []
    for _ in range(repeats):
        found["unfrozen"] += estimator_epochs("none", X, y, 1, cache=True)
        first, *rest = estimator_epochs("frozen", X, y, frozen_epochs, cache=True)
        encode.append(first - statistics.median(rest))
        cached += rest
        options = {"batch_size": 32, **PRESETS["matched"]}
        found["plain_unfrozen"] += plain_epochs(X, y, 1, frozen=False, **options)
        found["plain_frozen"] += plain_epochs(X, y, 1, frozen=True, **options)
    figures = {f"{k}_epoch_s": statistics.median(v) for k, v in found.items()}
    frozen = statistics.median(cached)
    return {
        "windows": num_windows,
        "threads": torch.get_num_threads(),
        **figures,
        "frozen_cached_epoch_s": frozen,
        "encode_once_s": statistics.median(encode),
        "frozen_share": frozen / figures["unfrozen_epoch_s"],
        "frozen_share_of_plain": frozen / figures["plain_unfrozen_epoch_s"],
        "small_recipe": recipe,
    }


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=512)
    parser.add_argument("--frozen-epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = measure(options.windows, options.frozen_epochs, options.repeats)
    recipe = figures["small_recipe"]
    print(f"matched preset, {options.windows} windows, batch 32, {options.threads} threads, CPU")
    for name, text in (
        ("unfrozen_epoch_s", "unfrozen epoch"),
        ("plain_unfrozen_epoch_s", "unfrozen epoch, plain loop"),
        ("plain_frozen_epoch_s", "frozen epoch, plain loop (no cache)"),
        ("frozen_cached_epoch_s", "frozen epoch on cached outputs"),
        ("encode_once_s", "encoding the windows, once a phase"),
    ):
        print(f"  {text:<38}{figures[name]:8.3f} s")
    print(f"  frozen / unfrozen: {figures['frozen_share']:.1%} (at most {MAX_FROZEN_SHARE:.0%})")
    print("small recipe: 78 windows, 3 epochs, hidden 128, 1 layer, batch 512")
    print(f"  fit {recipe['fit_s']:.3f} s (first in the process {recipe['first_fit_s']:.3f} s), ")
    print(f"  plain loop {recipe['plain_loop_s']:.3f} s; at most {MAX_RECIPE_SECONDS} s")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    fast = recipe["fit_s"] <= MAX_RECIPE_SECONDS
    return 0 if fast and figures["frozen_share"] <= MAX_FROZEN_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
