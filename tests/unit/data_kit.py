"""Small bar sets and registries for the data tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moola.config.data import SplitRecipe, WindowRecipe
from moola.data.bars import Bars
from moola.data.store.data_store import DataStore
from moola.data.windows import WindowTimes
from moola.hashing import sha256_files, sha256_json

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "bars"
RECIPE = WindowRecipe(source="walk", window_bars=12, step_bars=3, horizon_bars=3)
SET = "labeled_windows/v1"
SPLIT = SplitRecipe(labeled=SET)


def hours(num: int, start: str = "2020-01-01T00") -> np.ndarray:
    return np.datetime64(start, "us") + np.arange(num) * np.timedelta64(3600, "s")


def walk(num: int, *, seed: int = 0, price: float = 100.0, swing: float = 0.5) -> np.ndarray:
    """OHLC of a random walk whose log volatility swings up and down, shape (num, 4)."""
    rng = np.random.default_rng(seed)
    volatility = np.exp(swing * np.sin(np.arange(num) / 17.0)) * 0.004
    close = price * np.exp(np.cumsum(rng.normal(0, 1, num) * volatility))
    open_ = np.r_[price, close[:-1]]
    high = np.maximum(open_, close) * (1 + rng.uniform(0, 1, num) * volatility)
    low = np.minimum(open_, close) * (1 - rng.uniform(0, 1, num) * volatility)
    return np.column_stack([open_, high, low, close])


def bars_of(ohlc: Any, *, name: str = "walk", time: np.ndarray | None = None) -> Bars:
    ohlc = np.asarray(ohlc, dtype=np.float64)
    return Bars(
        name=name, time=hours(len(ohlc)) if time is None else time, ohlc=ohlc, sha256="0" * 64
    )


def flat(levels: Any, spread: float = 0.0) -> np.ndarray:
    """Bars with open = close = level and a high and low `spread` around it."""
    level = np.asarray(levels, dtype=np.float64)
    return np.column_stack([level, level + spread, level - spread, level])


def write_bars(root: Path, bars: Bars) -> Path:
    path = root / "bars" / f"{bars.name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = dict(zip(("open", "high", "low", "close"), bars.ohlc.T, strict=True))
    time = pa.array(bars.time, pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"timestamp": time, **columns}), path)
    return path


def small_registry(root: Path, num_bars: int = 400, *, swing: float = 0.5) -> DataStore:
    """A registry with one source, one labelled set of about 129 windows and one split."""
    write_bars(root, bars_of(walk(num_bars, swing=swing)))
    registry = DataStore(root)
    registry.build_set(SET, RECIPE)
    registry.build_split("fwd", SPLIT)
    return registry


def reseal(folder: Path) -> None:
    """Write a set's manifest anew, as someone would who hides a change."""
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [p.name for p in folder.iterdir() if p.is_file() and p.name != "manifest.json"]
    manifest["files"] = sha256_files(folder, names)
    manifest["sha256"] = sha256_json(manifest["files"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps(values))


def regular(n: int, *, step: int = 2, T: int = 4, H: int = 2) -> WindowTimes:
    """Times of `n` windows of `T` bars, `step` bars apart, whose labels look `H` bars on."""
    first = np.arange(n, dtype=np.int64) * step
    return WindowTimes(first=first, last=first + T - 1, label_end=first + T + H - 1)


def split_recipe(**values: Any) -> SplitRecipe:
    """The default recipe with some values changed."""
    return SplitRecipe(**{"labeled": SET, **values})
