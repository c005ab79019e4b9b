"""Windows without bars: stored as they are, audited as far as can be, and the rest is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_kit import RECIPE, SET, SPLIT, bars_of, hours, walk, write_bars

from moola.data.audit.trail import AuditTrail, Check
from moola.data.imported import UNPROVEN, ImportOptions
from moola.data.store.data_store import DataStore
from moola.errors import DataError
from moola.evaluation.gates.evidence import gate_0_data
from moola.hashing import sha256_file

NAMES = ("down", "up")
OPTIONS = ImportOptions(class_names=NAMES, horizon_bars=3)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A set that was built from bars, to be brought in again without them."""
    root = tmp_path_factory.mktemp("built")
    write_bars(root, bars_of(walk(400)))
    return DataStore(root).build_set(SET, RECIPE)


def files(built, folder: Path, **changes) -> tuple[Path, Path]:
    """Write windows and their rows as someone who has no bars does."""
    X = changes.pop("X", np.array(built.X_ohlc))
    columns = {
        "first_bar": [f"{t}Z" for t in built.clock[:, 0]],
        "last_bar": [f"{t}Z" for t in built.clock[:, 1]],
        "label": [NAMES[k] for k in built.y],
        "label_end": [f"{t}Z" for t in built.clock[:, 2]],
        **changes,
    }
    columns = {k: v for k, v in columns.items() if v is not None}
    np.save(folder / "X.npy", X)
    lines = [
        ",".join(columns),
        *(",".join(map(str, r)) for r in zip(*columns.values(), strict=True)),
    ]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder / "X.npy", folder / "rows.csv"


def test_imported_windows_are_what_was_built(built, tmp_path):
    registry = DataStore(tmp_path / "data")
    made = registry.import_set("v1", *files(built, tmp_path), OPTIONS)
    assert made.name == SET
    for array in ("X_ohlc", "X_feats20", "y", "clock"):
        assert np.array_equal(getattr(made, array), getattr(built, array))
    assert np.array_equal(made.times.first - made.times.first[0], built.times.first)
    assert np.array_equal(made.times.label_end, built.times.label_end)
    registry.build_split("fwd", SPLIT)
    trail = registry.load_labeled("v1", "fwd").audit_trail
    assert trail["passed"]
    assert trail["checks"][-1]["detail"] == UNPROVEN
    audit = AuditTrail(checks=tuple(Check(**check) for check in trail["checks"]), facts={})
    gate = gate_0_data(audit=audit, device_asked="cpu", device_used="cpu")
    assert gate.verdict == "passed"
    assert UNPROVEN in gate.reasons


def test_times_may_be_made_of_the_last_bar(built, tmp_path):
    paths = files(built, tmp_path, first_bar=None, label_end=None)
    registry = DataStore(tmp_path / "data")
    with pytest.raises(DataError, match="--bar-seconds 3600"):
        registry.import_set("v1", *paths, OPTIONS)
    options = ImportOptions(class_names=NAMES, horizon_bars=3, bar_seconds=3600)
    made = registry.import_set("v1", *paths, options)
    assert np.array_equal(made.clock, built.clock)


@pytest.mark.parametrize("form", ["columns", "lists"])
def test_one_parquet_file_holds_it_all(built, tmp_path, form):
    X = np.array(built.X_ohlc, dtype=np.float64)
    if form == "lists":
        columns = {"window": X.tolist()}
    else:
        names = [f"{p}_{k}" for k in range(X.shape[1]) for p in ("open", "high", "low", "close")]
        columns = dict(zip(names, X.reshape(len(X), -1).T, strict=True))
    times = {"last_bar": built.clock[:, 1], "first_bar": built.clock[:, 0]}
    utc = {k: pa.array(v, pa.timestamp("us", tz="UTC")) for k, v in times.items()}
    pq.write_table(pa.table({**columns, **utc, "label": built.y}), tmp_path / "w.parquet")
    made = DataStore(tmp_path).import_set("v1", tmp_path / "w.parquet", None, OPTIONS)
    assert np.array_equal(made.X_ohlc, built.X_ohlc)
    assert np.array_equal(made.y, built.y)


def test_rows_in_any_order_give_the_same_set(built, tmp_path):
    first = DataStore(tmp_path / "a").import_set("v1", *files(built, tmp_path), OPTIONS)
    order = np.random.default_rng(0).permutation(len(built))
    columns = {
        "first_bar": [f"{t}Z" for t in built.clock[order, 0]],
        "last_bar": [f"{t}Z" for t in built.clock[order, 1]],
        "label": built.y[order],
        "label_end": [f"{t}Z" for t in built.clock[order, 2]],
    }
    paths = files(built, tmp_path, X=np.array(built.X_ohlc)[order], **columns)
    again = DataStore(tmp_path / "b").import_set("v1", *paths, OPTIONS)
    for file in ("X_ohlc.npy", "y.npy", "times.parquet"):
        folders = [tmp_path / k / SET / file for k in "ab"]
        assert sha256_file(folders[0]) == sha256_file(folders[1])
    assert np.array_equal(first.X_feats20, again.X_feats20)


def test_windows_without_labels(built, tmp_path):
    paths = files(built, tmp_path, label=None, label_end=None)
    made = DataStore(tmp_path / "data").import_set("u", *paths, ImportOptions())
    assert made.name == "unlabeled_windows/u"
    assert made.y is None


def spoilt(built, what: str) -> dict:
    X = np.array(built.X_ohlc)
    last = [f"{t}Z" for t in built.clock[:, 1]]
    if what == "synthetic":
        X[7, 2:9] *= 1.01
    if what == "negative":
        X[3] -= X[3].mean()
    if what == "shape":
        X = X[:, :, :3]
    if what == "fewer":
        X = X[:-1]
    if what == "other times":  # an hour late: neighbours at another distance
        last = [f"{t}Z" for t in hours(len(built), "2021-01-01T00")]
        return {"X": X, "last_bar": last, "first_bar": None, "label_end": None}
    if what == "no zone":
        last = [str(t) for t in built.clock[:, 1]]
    if what == "twice":
        last[5] = last[4]
    label = ["" if what == "empty" and k == 2 else NAMES[y] for k, y in enumerate(built.y)]
    return {"X": X, "last_bar": last, "label": label}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("synthetic", r"share bars by their times, and their prices differ"),
        ("other times", r"share bars by their times, and their prices differ"),
        ("negative", "window 3 holds a price .* not normalised"),
        ("shape", r"have shape \(\d+, 12, 3\)"),
        ("fewer", "128 windows and 129 rows"),
        ("no zone", "last_bar: the times name no zone.*--timezone UTC"),
        ("twice", "has the time of another"),
        ("empty", "label is empty in row 2"),
    ],
)
def test_windows_that_cannot_be_are_refused_and_nothing_stays(built, tmp_path, what, message):
    registry = DataStore(tmp_path / "data")
    options = ImportOptions(class_names=NAMES, horizon_bars=3, bar_seconds=3600)
    with pytest.raises(DataError, match=message):
        registry.import_set("v1", *files(built, tmp_path, **spoilt(built, what)), options)
    assert registry.names() == []


def test_files_that_hold_no_windows_are_refused(built, tmp_path):
    registry = DataStore(tmp_path / "data")
    X, rows = files(built, tmp_path)
    with pytest.raises(DataError, match=r"says nothing of times and labels.*--rows"):
        registry.import_set("v1", X, None, OPTIONS)
    with pytest.raises(DataError, match="cannot be read"):
        registry.import_set("v1", rows, rows, OPTIONS)
    with pytest.raises(DataError, match="does not exist"):
        registry.import_set("v1", tmp_path / "no.npy", rows, OPTIONS)
    registry.import_set("v1", X, rows, OPTIONS)
    with pytest.raises(DataError, match="exists"):
        registry.import_set("v1", X, rows, OPTIONS)
