"""Sets of a registry: built once and never changed, loaded with a split, and one's own labels."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from data_kit import RECIPE, SET, SPLIT, bars_of, hours, small_registry, walk, write_bars

from moola.data.features import features20
from moola.data.store.data_store import DataStore
from moola.errors import AuditError, DataError


def test_a_set_holds_what_its_recipe_says(registry):
    loaded = registry.load_set(SET)
    # 400 bars, 12 + 3 a window, three apart: starts 0, 3, ..., 384
    assert len(loaded) == 129
    assert loaded.X_ohlc.shape == (129, 12, 4)
    assert loaded.X_feats20.shape == (129, 20)
    assert loaded.meta["T"] == 12
    assert loaded.num_classes == 2
    assert loaded.times.first.tolist() == list(range(0, 385, 3))
    assert (loaded.times.last - loaded.times.first == 11).all()
    assert (loaded.times.label_end - loaded.times.last == 3).all()
    assert str(loaded.clock[1, 0]) == "2020-01-01T03:00:00.000000"
    assert np.array_equal(loaded.X_feats20, features20(loaded.X_ohlc))
    assert sum(loaded.meta["class_distribution"].values()) == 129
    assert not loaded.X_ohlc.flags.writeable


def test_loading_gives_parts_that_add_up(registry):
    data = registry.load_labeled("v1", "fwd")
    assert len(data.X_train) == len(data.y_train) == len(data.split.train)
    assert np.array_equal(data.X_val, data.labeled.X_ohlc[data.split.val])
    assert np.array_equal(data.y_test, data.labeled.y[data.split.test])
    assert not data.synthetic_train.any()
    trail = data.audit_trail
    assert trail["passed"]
    # borders at 77 and 97; a window and its horizon are 15 bars, three apart: four are purged each
    assert trail["counts"] == {"train": 73, "val": 16, "test": 32, "purged": 8}
    assert trail["purged_bars"] == [
        ["2020-01-10T03:00:00.000000", "2020-01-11T02:00:00.000000"],
        ["2020-01-12T15:00:00.000000", "2020-01-13T14:00:00.000000"],
    ]
    assert sum(trail["counts"].values()) == 129
    assert trail["val_synthetic_count"] == trail["test_synthetic_count"] == 0
    assert json.loads(json.dumps(trail)) == trail


def test_two_builds_are_the_same_to_the_byte(registry, tmp_path):
    other = small_registry(tmp_path / "other")
    for file in (other.data_root / SET).iterdir():
        if file.name != "manifest.json":
            assert file.read_bytes() == (registry.data_root / SET / file.name).read_bytes()
    assert other.load_set(SET).sha256 == registry.load_set(SET).sha256


def test_a_set_that_stands_is_never_overwritten(registry):
    before = {f: f.stat().st_mtime_ns for f in (registry.data_root / SET).iterdir()}
    registry.build_set(SET, RECIPE)
    with pytest.raises(DataError, match="exists with another recipe"):
        registry.build_set(SET, replace(RECIPE, step_bars=4))
    assert {f: f.stat().st_mtime_ns for f in (registry.data_root / SET).iterdir()} == before


def test_a_set_stands_in_the_folder_of_its_kind(registry):
    with pytest.raises(DataError, match=r"label 'none'; expected unlabeled_windows"):
        registry.build_set("labeled_windows/v9", replace(RECIPE, label="none", horizon_bars=0))


def test_a_failed_build_leaves_nothing(registry):
    with pytest.raises(DataError, match="does not exist"):
        registry.build_set("labeled_windows/v9", replace(RECIPE, source="nothing"))
    with pytest.raises(DataError, match="no window"):
        registry.build_set("labeled_windows/v9", replace(RECIPE, window_bars=500))
    assert [p.name for p in (registry.data_root / "labeled_windows").iterdir()] == ["v1"]


def test_a_set_with_triple_barrier_labels_keeps_each_labels_end(registry):
    recipe = replace(RECIPE, label="triple_barrier", horizon_bars=9)
    made = registry.build_set("labeled_windows/tb", recipe)
    reach = made.times.label_end - made.times.last
    assert reach.min() >= 1
    assert reach.max() == 9
    assert len(np.unique(reach)) > 3
    registry.build_split("tb", replace(SPLIT, labeled="labeled_windows/tb"))
    assert registry.load_labeled("tb", "tb").audit_trail["passed"]


def test_a_set_with_labels_by_file(registry):
    folder = registry.data_root / "labels"
    folder.mkdir()
    time, y = hours(400)[20:380:2], np.arange(180) % 2
    rows = [f"{t}Z,{k}" for t, k in zip(time.astype("datetime64[s]"), y, strict=True)]
    (folder / "mine.csv").write_text("last_bar,label\n" + "\n".join(rows))
    recipe = replace(RECIPE, label="file", label_file="mine.csv", class_names=("no", "yes"))
    made = registry.build_set("labeled_windows/own", recipe)
    assert made.y.tolist() == y.tolist()
    assert made.meta["class_distribution"] == {"no": 90, "yes": 90}
    assert made.meta["num_dropped"] == 0
    assert set(made.manifest["sources"]) == {"walk", "mine.csv"}
    registry.build_split("own", replace(SPLIT, labeled="labeled_windows/own"))
    assert registry.load_labeled("own", "own").audit_trail["passed"]
    (folder / "mine.csv").write_text("last_bar,label\n" + "\n".join(rows[::-1]).replace(",0", ",1"))
    with pytest.raises(AuditError, match="every label is the one its rule gives: windows 0, 2, 4"):
        registry.load_labeled("own", "own")


def test_windows_of_a_label_file_that_touch_a_gap_are_dropped_and_counted(tmp_path):
    time = np.concatenate([hours(50), hours(50, "2020-02-01T00")])
    write_bars(tmp_path, bars_of(walk(100), time=time))
    (tmp_path / "labels").mkdir()
    rows = [f"{t}Z,{k % 2}" for k, t in enumerate(time[20:90].astype("datetime64[s]"))]
    (tmp_path / "labels" / "mine.csv").write_text("last_bar,label\n" + "\n".join(rows))
    recipe = replace(RECIPE, label="file", label_file="mine.csv", class_names=("no", "yes"))
    made = DataStore(tmp_path).build_set("labeled_windows/own", recipe)
    # last bars 47..49 look over the gap (H = 3), 50..60 begin before it: 14 windows
    assert made.meta["num_dropped"] == 14
    assert len(made) == 56


def test_without_bars_the_audit_says_what_it_did_not_compare(registry):
    (registry.data_root / "bars" / "walk.parquet").unlink()
    checks = registry.load_labeled("v1", "fwd").audit_trail["checks"]
    assert "not compared" in checks[-1]["detail"]
