"""Time to quality: masked error of held-out windows against seconds, three ways.

    python benchmarks/long/pretrain_quality.py --hidden-dim 64 --num-layers 1

The usual recipe (every window every epoch, batch 512, rate 1e-3, cosine, DataLoader with workers,
masks on the host, 50 epochs) against Moola with windows at random offsets, small batches and a
one-cycle rate; once with the same decoder, once with the decoder over the linear bridge. All three
train the same network on the same windows and are measured on the same held-out ones and masks.
Seconds are the training process's own CPU time with one thread, so that a busy machine does not
count; the recipe's workers are not counted. Writes a JSON file and a plot. Exits with 1 if Moola
with the same decoder is not five times as fast to the error at which the recipe ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, TensorDataset

from moola.config.pretraining import PretrainConfig
from moola.data.store.data_store import DataStore
from moola.data.windows import normalise
from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder
from moola.models.device import keep_freed_memory, use_bf16
from moola.pretraining import masked_lstm_pretrain as masked
from moola.pretraining.corpus import Corpus, split_by_time
from moola.pretraining.distributed import ALONE
from moola.pretraining.loop import rate_at
from moola.pretraining.masking import draw_mask
from moola.pretraining.quality import error_table, reconstruct

MIN_GAIN = 5.0
RECIPE, SAME, BRIDGE = "usual recipe", "Moola, same decoder", "Moola, decoder over the bridge"
Curve = list[tuple[float, int, float]]


def recipe_curve(X: np.ndarray, config: PretrainConfig) -> Curve:
    """Seconds, windows seen and held-out error after every epoch of the usual recipe."""
    torch.manual_seed(config.seed)
    train, val = split_by_time(len(X), X.shape[1], config.val_split)
    model = BiLSTMMaskedAutoencoder(**config.encoder_shape())
    judge = masked._Masked(model, config, Corpus(X, device="cpu"), train, val, share=ALONE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    data = TensorDataset(torch.from_numpy(normalise(X[train])))
    loader = DataLoader(data, batch_size=config.batch_size, shuffle=True, num_workers=4)
    draw = torch.Generator().manual_seed(config.seed)
    bf16 = use_bf16(config.amp, "cpu")
    curve: Curve = []
    began, seen, best, since = time.process_time(), 0, float("inf"), 0
    for epoch in range(config.epochs):
        model.train()
        optimizer.param_groups[0]["lr"] = rate_at(config, epoch, 0, 1)
        for (x,) in loader:
            mask = draw_mask("patch", len(x), x.shape[1], ratio=0.15, patch_size=7, generator=draw)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                filled, states = model(x, mask)
            loss, error = model.compute_loss(filled.float(), x, mask, states.float())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            error.item()
            seen += len(x)
        model.eval()
        figure = judge.evaluate()["val_recon"]
        curve.append((time.process_time() - began, seen, figure))
        best, since = (figure, 0) if figure < best else (best, since + 1)
        if since >= config.patience:
            break
    return curve


def moola_curve(X: np.ndarray, config: PretrainConfig) -> Curve:
    """Return seconds, windows seen and held-out error after every epoch of Moola's loop."""
    curve: Curve = []
    began = time.process_time()

    def on_epoch(row: dict[str, float], total: int) -> None:
        seen = (int(row["epoch"]) + 1) * (config.windows_per_epoch or 0)
        curve.append((time.process_time() - began, seen, row["val_recon"]))

    masked.MaskedLSTMPretrainer(config).pretrain(X, on_epoch=on_epoch)
    return curve


def linear_error(X: np.ndarray, config: PretrainConfig) -> float:
    """Held-out error of linear interpolation."""
    _, val = split_by_time(len(X), X.shape[1], config.val_split)
    untrained = BiLSTMMaskedAutoencoder(hidden_dim=1, num_layers=1).eval()
    made = reconstruct(untrained, np.asarray(X[val]), config.to_dict(), seed=config.seed + 1)
    return float(error_table(made, patch_size=config.patch_size, block=X.shape[1])[0]["linear"])


def seconds_to(curve: Curve, error: float) -> float | None:
    """Seconds until a curve first reaches an error, or None."""
    return next((seconds for seconds, _, value in curve if value <= error), None)


def draw_curves(curves: dict[str, Curve], linear: float, path: Path) -> None:
    """Write error against seconds."""
    figure = Figure(figsize=(7.2, 4.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for (name, curve), colour in zip(
        curves.items(), ("#8794a0", "#2b6cb0", "#b5432e"), strict=True
    ):
        seconds, _, errors = zip(*curve, strict=True)
        axis.plot(seconds, errors, color=colour, marker=".", label=name)
    axis.axhline(linear, color="#1f2933", linestyle="--", linewidth=1, label="linear interpolation")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("seconds of CPU, one thread")
    axis.set_ylabel("masked error, held-out windows")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--hidden-dim", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--recipe-epochs", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--windows-per-epoch", type=int, default=2000)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--plot", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    X = np.asarray(DataStore(options.data_root).load_unlabeled()["X_ohlc"])
    recipe = PretrainConfig(
        hidden_dim=options.hidden_dim, num_layers=options.num_layers,
        epochs=options.recipe_epochs, device="cpu",
    )  # fmt: skip
    same = replace(
        recipe, sampling="offsets", windows_per_epoch=options.windows_per_epoch, batch_size=32,
        epochs=options.epochs, patience=options.epochs, schedule="onecycle", learning_rate=3e-3,
    )  # fmt: skip
    curves: dict[str, Curve] = {RECIPE: recipe_curve(X, recipe)}
    keep_freed_memory()
    curves[SAME] = moola_curve(X, same)
    bridge = replace(same, reconstruct="bridge", latent_weight=0.002)
    curves[BRIDGE] = moola_curve(X, bridge)
    linear = linear_error(X, recipe)
    goal = curves[RECIPE][-1][2]
    spent = seconds_to(curves[RECIPE], goal) or 0.0
    figures: dict[str, Any] = {"linear": linear, "goal": goal, "curves": curves}
    print(f"{options.hidden_dim} x {options.num_layers}; linear interpolation {linear:.4f}")
    gains = {}
    for name, curve in curves.items():
        reached = seconds_to(curve, goal)
        words = f"{reached:.1f} s, {spent / reached:.1f} x" if reached else "not reached"
        gains[name] = spent / reached if reached else 0.0
        print(f"  {name:<32}end {curve[-1][2]:.4f} after {curve[-1][0]:.0f} s and {curve[-1][1]:,} "
              f"windows; the recipe's end ({goal:.4f}): {words}", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if options.plot:
        draw_curves(curves, linear, options.plot)
    return int(gains[SAME] < MIN_GAIN)


if __name__ == "__main__":
    sys.exit(main())
