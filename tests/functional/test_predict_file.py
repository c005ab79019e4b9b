"""`moola predict` on bars of any number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from serve_kit import CLASSES, NAME, Stand, expected_proba

from moola.config.data import WindowRecipe
from moola.data.store.data_store import DataStore
from moola.errors import ConfigError, DataError
from moola.steps.predict import predict
from moola.steps.window_files import read_windows

COLUMNS = [f"probability_{name}" for name in CLASSES]


@pytest.fixture
def bars(repository: Path) -> pd.DataFrame:
    """EURUSD bars with their weekend gaps."""
    return pd.read_parquet(repository / "data" / "bars" / "eurusd_1h.parquet").iloc[:700]


@pytest.fixture
def at_stand(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Stand:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stand.uri)
    return stand


def windows_by_hand(bars: pd.DataFrame, step: int, *, cross_gaps: bool) -> tuple[list, np.ndarray]:
    time = bars["timestamp"].to_numpy()
    ohlc = bars[["open", "high", "low", "close"]].to_numpy(dtype=np.float32)
    ends, windows = [], []
    for begin in range(0, len(bars) - 104, step):
        gaps = np.diff(time[begin : begin + 105]) > np.timedelta64(1, "h")
        if cross_gaps or not gaps.any():
            ends.append(time[begin + 104])
            windows.append(ohlc[begin : begin + 105])
    return ends, np.array(windows)


@pytest.mark.parametrize("crosses", [False, True])
def test_gaps_are_crossed_as_the_version_s_own_set_says(
    at_stand: Stand, tmp_path: Path, bars: pd.DataFrame, crosses: bool
) -> None:
    (tmp_path / "data" / "bars").mkdir(parents=True)
    bars.to_parquet(tmp_path / "data" / "bars" / "own.parquet")
    recipe = WindowRecipe(source="own", horizon_bars=6, step_bars=20, cross_gaps=crosses)
    DataStore(tmp_path / "data").build_set("labeled_windows/v1", recipe)
    whole, within = (windows_by_hand(bars, 20, cross_gaps=c)[1] for c in (True, False))
    scored = {
        "data_root": tmp_path / "data", "output": tmp_path / "out.parquet", "step": 20,
        "model_uri": f"models:/{NAME}/1", "device": "cpu",
    }  # fmt: skip
    done = predict(tmp_path / "data" / "bars" / "own.parquet", **scored)
    assert done.num_windows == len(whole if crosses else within)
    assert done.left_out == (0 if crosses else len(whole) - len(within))
    assert done.why == "as the recipe of labeled_windows/v1 says"
    asked = predict(tmp_path / "data" / "bars" / "own.parquet", cross_gaps=not crosses, **scored)
    assert (asked.num_windows, asked.why) == (len(within if crosses else whole), "as asked")


@pytest.mark.parametrize("cross_gaps", [False, True])
def test_bars_are_slid_over(
    at_stand: Stand, tmp_path: Path, bars: pd.DataFrame, cross_gaps: bool
) -> None:
    ends, X = windows_by_hand(bars, 6, cross_gaps=cross_gaps)
    bars.to_csv(tmp_path / "bars.csv", index=False)
    out = tmp_path / "out.parquet"
    done = predict(
        tmp_path / "bars.csv", output=out, model_uri=f"models:/{NAME}/1", step=6,
        cross_gaps=cross_gaps, device="cpu",
    )  # fmt: skip
    found = pq.read_table(out).to_pandas()
    assert done.num_windows == len(found) == len(X)
    assert done.version == "1"
    assert (found["time"].to_numpy() == np.array(ends, dtype="datetime64[us]")).all()
    assert np.abs(found[COLUMNS].to_numpy() - expected_proba(at_stand, X, "1")).max() < 1e-6


def test_batches_join_without_a_seam(tmp_path: Path, bars: pd.DataFrame, monkeypatch) -> None:
    from moola.data.ingest import files

    path = tmp_path / "bars.parquet"
    bars.to_parquet(path)
    whole = np.concatenate([c.X for c in read_windows(path, window_bars=105, step=7)])
    monkeypatch.setattr(files, "_BATCH_ROWS", 50)
    pieces = np.concatenate([c.X for c in read_windows(path, window_bars=105, step=7)])
    assert np.array_equal(whole, pieces)
    assert len(whole) == len(windows_by_hand(bars, 7, cross_gaps=False)[1])


def spoiled(bars: pd.DataFrame, fault: str) -> pd.DataFrame:
    changed = bars.reset_index(drop=True).copy()
    if fault == "order":
        changed = changed.iloc[::-1]
    elif fault == "price":
        changed.loc[40, "low"] = -1.0
    elif fault == "few":
        changed = changed.iloc[:80]
    return changed


@pytest.mark.parametrize(
    ("fault", "message"),
    [("order", "data row 1 .* not later"), ("price", "first is data row 40"), ("few", "no window")],
)
def test_bars_that_cannot_be_used_are_named(
    at_stand: Stand, tmp_path: Path, bars: pd.DataFrame, fault: str, message: str
) -> None:
    spoiled(bars, fault).to_csv(tmp_path / "bars.csv", index=False)
    out = tmp_path / "out.parquet"
    with pytest.raises(DataError, match=message):
        predict(tmp_path / "bars.csv", output=out, model_uri=f"models:/{NAME}/1", device="cpu")
    assert not out.exists()


def windows_in_files(folder: Path, X: np.ndarray) -> list[Path]:
    """Write windows as an array and as a table."""
    np.save(folder / "X.npy", X)
    columns = [f"{price}_{k}" for k in range(105) for price in ("open", "high", "low", "close")]
    pd.DataFrame(X.reshape(len(X), -1), columns=columns).to_parquet(folder / "X.parquet")
    return [folder / "X.npy", folder / "X.parquet"]


def test_a_bad_window_is_named_by_its_number_in_the_file(
    at_stand: Stand, tmp_path: Path, bars: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moola.steps.window_files.CHUNK_WINDOWS", 8)
    _, X = windows_by_hand(bars, 20, cross_gaps=True)
    X[21, 3, 2] = np.nan
    for file in windows_in_files(tmp_path, X):
        with pytest.raises(DataError, match=rf"{file.name}: window 21 holds a price that is NaN"):
            predict(file, output=tmp_path / "o", model_uri=f"models:/{NAME}/1", device="cpu")


def test_options_about_bars_are_refused_for_windows(tmp_path: Path, bars: pd.DataFrame) -> None:
    _, X = windows_by_hand(bars, 200, cross_gaps=True)
    for file in windows_in_files(tmp_path, X):
        for options in ({"step": 7}, {"cross_gaps": True}):
            with pytest.raises(ConfigError, match=f"{file.name} holds windows, and step"):
                list(read_windows(file, window_bars=105, **options))
        assert sum(len(c.X) for c in read_windows(file, window_bars=105)) == len(X)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(
    at_stand: Stand, tmp_path: Path, bars: pd.DataFrame
) -> None:
    """Four times as many bars, whose windows would fill 94 MB more, within 40 MiB."""
    peaks = []
    for num in (150_000, 600_000):
        close = 100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 1e-3, num)))
        time = pd.date_range("2020-01-01", periods=num, freq="min", tz="UTC")
        frame = pd.DataFrame({"timestamp": time, "open": close, "high": close, "low": close})
        path = tmp_path / f"{num}.parquet"
        frame.assign(close=close).to_parquet(path)
        code = (
            "import sys; from moola.cli import main\n"
            f"try: main(['predict', {str(path)!r}, '--step', '8', '--device', 'cpu', '--model', "
            f"'models:/{NAME}/1', '--output', {str(tmp_path / 'o.parquet')!r}])\n"
            "except SystemExit as end: assert not end.code\n"
            "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={"MLFLOW_TRACKING_URI": at_stand.uri, "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    print(f"peak memory {peaks[0]:.0f} and {peaks[1]:.0f} MiB")
    assert peaks[1] - peaks[0] < 40
