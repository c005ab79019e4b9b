"""What masked pretraining reaches of what the hardware gives, and of the usual recipe.

    python benchmarks/bench_pretrain.py --threads 2 --seconds 8

Four ways to train the same network (128 x 2, 105 bars, patches), each in a process of its own, one
after the other, several rounds: (a) the bare limit: forward, backward and step on one resident
batch; (b) Moola's loop, validation left out; (c) the usual recipe: TensorDataset, DataLoader with 4
workers, masks drawn on the host, AMP; (d) Lightning's Trainer, if installed. (a) and (b) run as
`moola pretrain-bilstm` does, freed memory kept; (a) is also measured without. Prints windows/s, the
ratio to (a) and the peak memory. Two processes differ by some per cent by where their memory lies,
so (b) is judged against (a) by steps taken in turn in one process. Exits with 1 if (b) is below
0.95 of (a) or 1.5 times (c).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pyarrow.parquet as pq
import torch

from moola.config.pretraining import PretrainConfig
from moola.data.windows import normalise
from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder
from moola.models.device import keep_freed_memory, use_bf16
from moola.pretraining import masked_lstm_pretrain as masked
from moola.pretraining.corpus import Corpus
from moola.pretraining.distributed import ALONE
from moola.pretraining.masking import draw_mask

BARS = Path(__file__).resolve().parents[1] / "data" / "bars" / "btcusd_1h.parquet"
WINDOW_BARS, NUM_WINDOWS = 105, 4096
MIN_OF_BARE, MIN_OF_RECIPE = 0.95, 1.5
NAMES = {
    "bare_plain": "bare limit, memory given back",
    "bare": "(a) bare limit",
    "moola": "(b) Moola",
    "recipe": "(c) usual recipe, 4 workers",
    "lightning": "(d) Lightning",
}


def corpus_windows() -> np.ndarray:
    """Return the first windows of the shipped bars, in price units, one bar apart."""
    table = pq.read_table(BARS, columns=["open", "high", "low", "close"]).to_pandas()
    ohlc = np.array(table[: NUM_WINDOWS + WINDOW_BARS - 1], dtype=np.float32)
    ohlc[:, 1], ohlc[:, 2] = ohlc.max(axis=1), ohlc.min(axis=1)
    return np.stack([ohlc[i : i + WINDOW_BARS] for i in range(NUM_WINDOWS)])


def one_step(
    model: BiLSTMMaskedAutoencoder, optimizer: Any, x: torch.Tensor, mask: torch.Tensor, bf16: bool
) -> None:
    """Forward, loss, backward, clip, step."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        reconstruction, states = model(x, mask)
    loss, _ = model.compute_loss(reconstruction.float(), x, mask, states.float())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def network(device: str) -> tuple[BiLSTMMaskedAutoencoder, torch.optim.Optimizer]:
    """Return the network of the defaults and its optimiser."""
    torch.manual_seed(17)
    model = BiLSTMMaskedAutoencoder().to(device).train()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)


def mask_of(num: int, generator: torch.Generator) -> torch.Tensor:
    """Return a mask of the defaults."""
    return draw_mask("patch", num, WINDOW_BARS, ratio=0.15, patch_size=7, generator=generator)


def bare_steps(config: PretrainConfig, device: str) -> Iterator[int]:
    """One resident batch, again and again."""
    model, optimizer = network(device)
    bf16 = use_bf16(config.amp, device)
    x = torch.from_numpy(normalise(corpus_windows()[: config.batch_size])).to(device)
    mask = mask_of(len(x), torch.Generator(device=device).manual_seed(0))
    while True:
        one_step(model, optimizer, x, mask, bf16)
        yield len(x)


def moola_steps(config: PretrainConfig, device: str) -> Iterator[int]:
    """Run the batches and losses of Moola's loop, with its step and its sums."""
    model, optimizer = network(device)
    X = corpus_windows()
    corpus = Corpus(X, device=device)
    rows = np.arange(len(X))
    objective = masked._Masked(model, config, corpus, rows, rows[-16:], share=ALONE)
    draw = torch.Generator(device=device).manual_seed(0)
    parameters, sums = list(model.parameters()), torch.zeros(3, device=device)
    while True:
        for parts, num in objective.losses(draw, ALONE):
            optimizer.param_groups[0]["lr"] = 1e-3
            optimizer.zero_grad(set_to_none=True)
            parts[0].backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            sums += torch.cat([parts.detach(), norm.reshape(1)]) * num
            yield num


def recipe_steps(config: PretrainConfig, device: str) -> Iterator[int]:
    """Batches copied together by workers, masks on the host, a loss read after every step."""
    from torch.utils.data import DataLoader, TensorDataset

    model, optimizer = network(device)
    bf16 = use_bf16(config.amp, device)
    data = TensorDataset(torch.from_numpy(normalise(corpus_windows())))
    loader = DataLoader(
        data,
        batch_size=config.batch_size,
        shuffle=True,
        num_workers=4,
        pin_memory=device == "cuda",
        drop_last=True,
    )
    generator = torch.Generator().manual_seed(0)
    while True:
        for (x_host,) in loader:
            mask = mask_of(len(x_host), generator).to(device)
            one_step(model, optimizer, x_host.to(device), mask, bf16)
            yield len(x_host)


def lightning_rate(config: PretrainConfig, device: str, seconds: float) -> float:
    """Windows a second of Lightning's Trainer on the recipe's data."""
    import lightning
    from torch.utils.data import DataLoader, TensorDataset

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(device)[0]
            self.generator = torch.Generator().manual_seed(0)
            self.seen, self.began = 0, 0.0

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            if index == 2:
                self.seen, self.began = 0, time.perf_counter()
            x = batch[0]
            mask = mask_of(len(x), self.generator).to(x.device)
            reconstruction, states = self.net(x, mask)
            self.seen += len(x)
            return self.net.compute_loss(reconstruction.float(), x, mask, states.float())[0]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=1e-4)

    module = Module()
    data = TensorDataset(torch.from_numpy(normalise(corpus_windows())))
    loader = DataLoader(data, batch_size=config.batch_size, shuffle=True, num_workers=4)
    lightning.Trainer(
        max_time={"seconds": int(seconds) + 4}, accelerator=device, devices=1, logger=False,
        precision="bf16-mixed" if use_bf16(config.amp, device) else "32-true",
        gradient_clip_val=1.0, enable_checkpointing=False, enable_progress_bar=False,
    ).fit(module, loader)  # fmt: skip
    return module.seen / (time.perf_counter() - module.began)


def rate_of(steps: Iterator[int], seconds: float, wait: Callable[[], None]) -> float:
    """Windows a second, after two steps that do not count."""
    for _ in range(2):
        next(steps)
    wait()
    begun, seen = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        seen += next(steps)
    wait()
    return seen / (time.perf_counter() - begun)


def moola_of_bare(config: PretrainConfig, device: str, seconds: float) -> float:
    """Rate of Moola's steps over that of bare ones: medians of steps taken in turn."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    ways = [bare_steps(config, device), moola_steps(config, device)]
    spent: list[list[float]] = [[], []]
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(spent[1]) < 8:
        for steps, times in zip(ways, spent, strict=True):
            begun = time.perf_counter()
            num = next(steps)
            wait()
            times.append((time.perf_counter() - begun) / num)
    bare, moola = (statistics.median(times[2:]) for times in spent)
    return bare / moola


def measure_here(way: str, options: argparse.Namespace) -> dict[str, float]:
    """One way, in this process."""
    torch.set_num_threads(options.threads)
    config = PretrainConfig(batch_size=options.batch_size, amp=options.amp)
    device = options.device
    if way in ("bare", "moola", "in_turn"):
        keep_freed_memory()
    if way == "in_turn":
        return {"moola_of_bare": moola_of_bare(config, device, 3 * options.seconds)}
    ways = {
        "bare_plain": bare_steps,
        "bare": bare_steps,
        "moola": moola_steps,
        "recipe": recipe_steps,
    }
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    if way == "lightning":
        rate = lightning_rate(config, device, options.seconds)
    else:
        rate = rate_of(ways[way](config, device), options.seconds, wait)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"windows_per_s": rate, "peak_mb": peak}


def measure(way: str, arguments: list[str]) -> dict[str, float]:
    """One way, in a process of its own."""
    command = [sys.executable, __file__, "--way", way, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=(*NAMES, "in_turn"), help="only this, as JSON")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--amp", default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure_here(options.way, options)))
        return 0
    ways = [w for w in NAMES if w != "lightning" or importlib.util.find_spec("lightning")]
    names = ("batch_size", "amp", "device", "seconds", "threads")
    passed = [f"--{n.replace('_', '-')}={getattr(options, n)}" for n in names]
    rounds = [{way: measure(way, passed) for way in ways} for _ in range(options.rounds)]
    figures = {
        way: {key: statistics.median(r[way][key] for r in rounds) for key in rounds[0][way]}
        for way in ways
    }
    bare = figures["bare"]["windows_per_s"]
    precision = "bf16" if use_bf16(options.amp, options.device) else "fp32"
    print(f"128 x 2, {WINDOW_BARS} bars, batch {options.batch_size}, {precision}, {options.device}")
    for way, found in figures.items():
        rate = found["windows_per_s"]
        print(f"  {NAMES[way]:<32}{rate:8.1f} windows/s{rate / bare:7.2f} of (a)"
              f"{found['peak_mb']:8.0f} MB")  # fmt: skip
    figures["in_turn"] = measure("in_turn", passed)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    of_bare = figures["in_turn"]["moola_of_bare"]
    of_recipe = figures["moola"]["windows_per_s"] / figures["recipe"]["windows_per_s"]
    print(f"  Moola: {of_bare:.2f} of (a), steps in turn, at least {MIN_OF_BARE}; "
          f"{of_recipe:.2f} times (c), at least {MIN_OF_RECIPE}")  # fmt: skip
    return 0 if of_bare >= MIN_OF_BARE and of_recipe >= MIN_OF_RECIPE else 1


if __name__ == "__main__":
    sys.exit(main())
