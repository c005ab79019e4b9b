"""A set cut in chunks from partitioned bars is the set cut from one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_kit import bars_of, hours, walk, write_bars
from pyarrow import fs

from moola.config.data import WindowRecipe
from moola.data.partitioned import PartitionedBars, write_partitioned_set
from moola.data.store.data_store import DataStore
from moola.errors import DataError

RECIPE = WindowRecipe(source="walk", window_bars=12, step_bars=5, horizon_bars=3)
LOCAL = fs.LocalFileSystem()


def partition(folder: Path, time: np.ndarray, ohlc: np.ndarray, sizes: list[int]) -> None:
    begin = 0
    for number, size in enumerate(sizes):
        part = slice(begin, begin + size)
        columns = dict(zip(("open", "high", "low", "close"), ohlc[part].T, strict=True))
        stamp = pa.array(time[part], pa.timestamp("us", tz="UTC"))
        path = folder / f"part={number:02}" / "bars.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"timestamp": stamp, **columns}), path)
        begin += size


@pytest.fixture
def bars() -> tuple[np.ndarray, np.ndarray]:
    time, ohlc = hours(700), walk(700)
    time[300:] += np.timedelta64(7, "h")  # a gap
    return time, ohlc


@pytest.mark.parametrize("chunk_bars", [20, 64, 1000])
@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        WindowRecipe(source="walk", window_bars=12, step_bars=1, label="none"),
        WindowRecipe(source="walk", window_bars=12, step_bars=7, label="triple_barrier"),
        WindowRecipe(
            source="walk", window_bars=12, horizon_bars=3, start="2020-01-03", end="2020-01-25",
            cross_gaps=True,
        ),
        WindowRecipe(source="walk", window_bars=12, step_bars=31, horizon_bars=3),
    ],
    ids=["labelled", "unlabelled", "barriers", "between times, across the gap", "wide steps"],
)  # fmt: skip
def test_chunks_and_one_file_give_the_same_set(
    tmp_path: Path, bars: Any, recipe: WindowRecipe, chunk_bars: int
) -> None:
    time, ohlc = bars
    kind = "labeled_windows" if recipe.num_classes else "unlabeled_windows"
    write_bars(tmp_path / "one", bars_of(ohlc, time=time))
    whole = DataStore(tmp_path / "one").build_set(f"{kind}/v1", recipe)
    partition(tmp_path / "parts", time, ohlc, [250, 51, 399])
    target = tmp_path / "many" / kind / "v1"
    target.mkdir(parents=True)
    write_partitioned_set(
        target, f"{kind}/v1", recipe, LOCAL, str(tmp_path / "parts"), chunk_bars=chunk_bars
    )
    loaded = DataStore(tmp_path / "many").load_set(f"{kind}/v1")
    for name in ("X_ohlc", "X_feats20", "y"):
        expected = getattr(whole, name)
        assert (expected is None) == (getattr(loaded, name) is None)
        assert expected is None or np.array_equal(expected, getattr(loaded, name))
    assert np.array_equal(whole.clock, loaded.clock)
    for rows in ("first", "last", "label_end"):
        assert np.array_equal(getattr(whole.times, rows), getattr(loaded.times, rows))
    assert dict(loaded.meta) | {"source_sha256": ""} == dict(whole.meta) | {"source_sha256": ""}


def test_a_gap_is_told_by_the_bars_of_its_chunk(tmp_path: Path) -> None:
    """Two-hourly bars after 300 hourly ones: gaps by the median of all, none by their own."""
    time = np.concatenate([hours(300), hours(500)[::2] + np.timedelta64(300, "h")])
    partition(tmp_path / "parts", time, walk(550), [300, 250])
    found = PartitionedBars("walk", LOCAL, str(tmp_path / "parts"), chunk_bars=100)
    rows = [chunk.first_row + chunk.times.first for chunk in found.chunks(RECIPE)]
    assert np.concatenate(rows).max() > 500
    write_bars(tmp_path, bars_of(walk(550), time=time))
    whole = DataStore(tmp_path).build_set("labeled_windows/v1", RECIPE)
    assert whole.times.label_end.max() < 300


def test_the_registry_builds_from_a_folder_of_bars(tmp_path: Path, bars: Any) -> None:
    partition(tmp_path / "bars" / "walk", *bars, [350, 350])
    built = DataStore(tmp_path).build_set("labeled_windows/v1", RECIPE)
    assert built.y is not None
    assert set(built.y) == {0, 1}
    assert DataStore(tmp_path).lineage(built)[0].passed


def test_bars_out_of_order_or_missing_are_named(tmp_path: Path, bars: Any) -> None:
    time, ohlc = bars
    order = np.r_[350:700, 0:350]
    partition(tmp_path / "parts", time[order], ohlc[order], [350, 350])
    target = tmp_path / "set"
    target.mkdir()
    with pytest.raises(DataError, match="walk has a time not after the one before"):
        write_partitioned_set(target, "labeled_windows/v1", RECIPE, LOCAL, str(tmp_path / "parts"))
    pq.write_table(pa.table({"open": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="lack timestamp, high, low, close"):
        PartitionedBars("x", LOCAL, str(tmp_path / "other.parquet"))
    with pytest.raises(DataError, match="cannot be read"):
        PartitionedBars("x", LOCAL, str(tmp_path / "absent"))


def test_a_corpus_in_which_no_window_fits_is_refused(tmp_path: Path) -> None:
    partition(tmp_path / "parts", hours(10), walk(10), [10])
    target = tmp_path / "set"
    target.mkdir()
    with pytest.raises(DataError, match=r"no window fits into walk \(10 bars\)"):
        write_partitioned_set(target, "labeled_windows/v1", RECIPE, LOCAL, str(tmp_path / "parts"))
