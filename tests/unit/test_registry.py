from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_kit import (
    RECIPE,
    SHIPPED,
    SPLIT,
    bars_of,
    edit_json,
    hours,
    reseal,
    small_registry,
    walk,
    write_bars,
)

from moola.config.data import WindowRecipe, load_recipes
from moola.data.audit_trail import CorpusClaim
from moola.data.features import features20
from moola.data.registry import DataRegistry
from moola.errors import AuditError, DataError, MoolaError
from moola.hashing import sha256_array, sha256_file

SET = "labeled_windows/v1"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A small registry to copy and to tamper with."""
    root = tmp_path_factory.mktemp("registry") / "data"
    registry = small_registry(root)
    corpus = WindowRecipe(
        source="walk", window_bars=12, step_bars=1, label="none", horizon_bars=0,
        end="2020-01-08T00:00",
    )  # fmt: skip
    registry.build_set("unlabeled_windows/v1", corpus)
    return root


@pytest.fixture
def registry(built, tmp_path) -> DataRegistry:
    shutil.copytree(built, tmp_path / "data")
    return DataRegistry(tmp_path / "data")


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


# ------------------------------------------------------------------- the same bytes everywhere

DIGESTS = {
    "unlabeled_windows/v1": "9eddca5f5c2c48111770d9cb998fff9145646d5db5f0342898453fab8c9ae002",
    "labeled_windows/v1": "b434315293bae30b088655e954960f9215aeea42e342df7f140179e7577d8307",
    "labeled_windows/v2": "270e1b540a7de26fcecc4b12123740b5165d194cbad42abe88bbc0bccb928daa",
    "labeled_windows/v3": "e4558f3af01bb101e3ff3405face79d77ca69139ca4e2d6e50e196b40f691034",
    "splits/fwd_chain_v3": "70c88a40779f00e32d10513b7e49c5ab1b5790d06aa68bee2f1046b3ff2e875b",
    "splits/walk_forward_v1": "a28930ea08e8f55608ba32e4bd360ca6fa3052b11e5d6c39c3d96c504c8e534b",
    "splits/fwd_chain_v2_eurusd": (
        "e880bb21206d67bc1dfb9d90ff57156e46f37e6dde9b98993657b0fca6bae12f"
    ),
    "splits/walk_forward_v2_eurusd": (
        "9afd6a3c61d0b5249e3244e3cf9511aa657d2ecaccc0a92e4f27e848116b06fc"
    ),
    "splits/fwd_chain_v3_3class": (
        "29485affd299e89d180df4fa30a99cad8f7fd993c2d7adf794413e0af34dcebd"
    ),
    "splits/walk_forward_v3_3class": (
        "4ac84ea6f91f136e08f316c0c501a8cdb06a476d261c10ab35c862aea99b2167"
    ),
}
CONTENT = {
    "X_ohlc.npy": "1b9fe0d78495eeb9",
    "X_feats20.npy": "e5c6c9248ebd0dbc",
    "y.npy": "296ead7900f172fe",
    "meta.json": "2ddd9567b660e7bb",
}
TIMES = "1c465ac4655dfc0e"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> DataRegistry:
    root = tmp_path_factory.mktemp("shipped") / "data"
    shutil.copytree(SHIPPED, root / "bars")
    registry = DataRegistry(root)
    registry.build()
    return registry


def test_the_default_sets_are_the_same_bytes_on_every_machine(shipped):
    folder = shipped.data_root / SET
    assert {f: sha256_file(folder / f)[:16] for f in CONTENT} == CONTENT
    table = pq.read_table(folder / "times.parquet")
    columns = np.column_stack([table[c].cast(pa.int64()).to_numpy() for c in table.column_names])
    assert sha256_array(columns)[:16] == TIMES


@pytest.mark.skipif(
    not pa.__version__.startswith("25.0."), reason="the parquet footer names pyarrow's version"
)
def test_the_digests_of_the_default_sets_and_splits(shipped):
    assert shipped.build() == DIGESTS


def test_every_default_split_passes_its_audit(shipped):
    claim = shipped.load_unlabeled()["claim"]
    _, splits = load_recipes()
    for name, recipe in splits.items():
        labeled = shipped.load_set(recipe.labeled)
        if recipe.strategy == "forward_chaining":
            parts = [shipped.load_split(name)]
        else:
            parts = list(shipped.load_folds(name).folds)
        for split in parts:
            trail = shipped.audit(labeled, split, corpus=claim)
            trail.require()
            assert len(trail.checks) >= 15


def test_features_of_a_default_set_can_be_derived_again(shipped):
    checks = shipped.lineage(shipped.load_set("labeled_windows/v2"), with_features=True)
    assert all(c.passed for c in checks)
    assert checks[-1].name == "every feature is its window's own"


def test_v1_and_v3_share_their_windows(shipped):
    v1, v3 = (shipped.load_set(f"labeled_windows/{v}") for v in ("v1", "v3"))
    assert np.array_equal(v1.X_ohlc, v3.X_ohlc)
    assert np.array_equal(v1.y > 0, v3.y > 0)


def test_two_builds_are_the_same_to_the_byte(registry, tmp_path):
    other = small_registry(tmp_path / "other")
    for file in (other.data_root / SET).iterdir():
        if file.name != "manifest.json":
            assert file.read_bytes() == (registry.data_root / SET / file.name).read_bytes()
    assert other.load_set(SET).sha256 == registry.load_set(SET).sha256


# ------------------------------------------------------------------------------- immutability


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
    made = DataRegistry(tmp_path).build_set("labeled_windows/own", recipe)
    # last bars 47..49 look over the gap (H = 3), 50..60 begin before it: 14 windows
    assert made.meta["num_dropped"] == 14
    assert len(made) == 56


# ------------------------------------------------------------------------ tampered registries


def _bytes(name):
    def change(root):
        path = root / SET / name
        data = bytearray(path.read_bytes())
        data[-7] ^= 1
        path.write_bytes(data)

    return change


def _array(name, edit, *, seal=True):
    def change(root):
        path = root / SET / name
        np.save(path, edit(np.load(path)))
        if seal:
            reseal(root / SET)
            _follow(root)

    return change


def _follow(root):
    """Make the split refer to the set as it now is."""
    manifest = json.loads((root / SET / "manifest.json").read_text())
    values = json.loads((root / "splits" / "fwd.json").read_text())
    values["labeled_sha256"] = manifest["sha256"]
    del values["sha256"]
    (root / "splits" / "fwd.json").write_text(json.dumps(values))


def _meta(**changes):
    def change(root):
        edit_json(root / SET / "meta.json", **changes)
        reseal(root / SET)
        _follow(root)

    return change


def _times(edit):
    def change(root):
        path = root / SET / "times.parquet"
        columns = {
            k: v.to_numpy().copy()
            for k, v in zip(
                pq.read_table(path).column_names, pq.read_table(path).columns, strict=True
            )
        }
        edit(columns)
        pq.write_table(pa.table(columns), path)
        reseal(root / SET)
        _follow(root)

    return change  # fmt: skip


def _split(edit, *, keep_digest=False):
    def change(root):
        path = root / "splits" / "fwd.json"
        values = json.loads(path.read_text())
        edit(values)
        if not keep_digest:
            values.pop("sha256", None)
            parts = ("train", "val", "test", "purged")
            values["counts"] = {p: len(values[f"{p}_indices"]) for p in parts}
        path.write_text(json.dumps(values))

    return change


def _manifest(**changes):
    return lambda root: edit_json(root / SET / "manifest.json", **changes)


def _swap(values):
    train, val = values["train_indices"], values["val_indices"]
    train[-1], val[0] = val[0], train[-1]


def _link_out(root):
    outside = root.parent / "elsewhere"
    shutil.move(root / SET, outside)
    (root / SET).symlink_to(outside)


def _link_file(root):
    path = root / SET / "y.npy"
    shutil.move(path, root.parent / "y.npy")
    path.symlink_to(root.parent / "y.npy")


def _link_kind(root):
    shutil.move(root / "labeled_windows", root.parent / "kind")
    (root / "labeled_windows").symlink_to(root.parent / "kind")


def _link_split(root):
    path = root / "splits" / "fwd.json"
    shutil.move(path, root.parent / "fwd.json")
    path.symlink_to(root.parent / "fwd.json")


def _truncate(name, keep):
    def change(root):
        path = root / SET / name
        path.write_bytes(path.read_bytes()[:keep])
        reseal(root / SET)
        _follow(root)

    return change


def _duplicate(X):
    X[120] = X[5]  # window 120 is in test, 5 in train
    return X


def _rescaled(X):
    X[121] = X[6] * np.float32(3.7)
    return X


def _shifted(X):
    X[122, 4:] = X[10, :8] * np.float32(2.0)
    return X


def _nan_in_row_9(F):
    F[9, 3] = np.nan
    return F


def _synthetic(X):
    X[88] = X[88] * np.float32(1.001)
    return X


def _without_class(root):
    y = np.load(root / SET / "y.npy")
    rows = json.loads((root / "splits" / "fwd.json").read_text())["val_indices"]
    y[rows] = 0
    np.save(root / SET / "y.npy", y)
    tally = {"consolidation": int((y == 0).sum()), "expansion": int((y == 1).sum())}
    _meta(class_distribution=tally)(root)


def _future_label(columns):
    columns["label_end_row"] = columns["label_end_row"] - 2
    columns["label_end"] = columns["label_end"] - np.timedelta64(2, "h")


def _bars(root):
    write_bars(root, bars_of(walk(400, seed=1)))


TAMPERED = {
    "swapped index": (_split(_swap), "random or stratified indices: window"),
    "shuffled train": (
        _split(lambda v: v["train_indices"].reverse()),
        "train is shuffled, window 71 stands after window 72",
    ),
    "index of no window": (
        _split(lambda v: v["test_indices"].append(129)),
        "indices exist: windows 129",
    ),
    "window in two parts": (
        _split(lambda v: v["purged_indices"].append(v["test_indices"][0])),
        "parts are disjoint: windows 97",
    ),
    "window kept quiet": (
        _split(lambda v: v["test_indices"].pop()),
        "every window is accounted for: 128 of 129",
    ),
    "window left out as purged": (
        _split(lambda v: v["purged_indices"].append(v["test_indices"].pop())),
        "only windows that reach into the next part are purged: windows 128",
    ),
    "purge undone": (
        _split(lambda v: v["train_indices"].append(v["purged_indices"].pop(0))),
        "no bar shared between train and val: windows",
    ),
    "split file edited": (
        _split(lambda v: v.update(embargo_bars=2), keep_digest=True),
        "split file fwd.json changed since it was made",
    ),
    "split of another set": (
        _split(lambda v: v.update(labeled_sha256="0" * 64)),
        "split belongs to this set: made for labeled_windows/v1 000000000000",
    ),
    "split under another name": (
        lambda root: (root / "splits" / "fwd.json").write_text(
            (root / "splits" / "fwd.json").read_text().replace('"name": "fwd"', '"name": "x"')
        ),
        "changed since it was made",
    ),
    "random strategy": (
        _split(lambda v: v.update(strategy="random")),
        "strategy 'random'",
    ),
    "indices as texts": (
        _split(lambda v: v.update(val_indices=["77", "78"])),
        "val_indices is missing or holds something else",
    ),
    "changed byte of windows": (_bytes("X_ohlc.npy"), "X_ohlc.npy changed since it was built"),
    "changed byte of labels": (_bytes("y.npy"), "y.npy changed since it was built"),
    "changed byte of features": (_bytes("X_feats20.npy"), "X_feats20.npy changed since"),
    "changed byte of times": (_bytes("times.parquet"), "times.parquet changed since"),
    "meta edited": (
        lambda root: edit_json(root / SET / "meta.json", K=3),
        "meta.json changed since",
    ),
    "file removed": (lambda root: (root / SET / "y.npy").unlink(), "y.npy is missing"),
    "meta removed": (lambda root: (root / SET / "meta.json").unlink(), "meta.json does not exist"),
    "manifest removed": (
        lambda root: (root / SET / "manifest.json").unlink(),
        "manifest.json does not exist",
    ),
    "manifest digest edited": (_manifest(sha256="0" * 64), "does not match its own digest"),
    "manifest of another set": (_manifest(name="labeled_windows/v7"), "holds the manifest of"),
    "manifest without files": (_manifest(files=None), "does not match its own digest"),
    "manifest is a list": (
        lambda root: (root / SET / "manifest.json").write_text("[]"),
        r"manifest.json holds list",
    ),
    "manifest holds NaN": (
        lambda root: (root / SET / "manifest.json").write_text('{"name": NaN}'),
        "it holds NaN",
    ),
    "manifest recipe gone": (_manifest(recipe=3), "lacks recipe or sources"),
    "wrong T in meta": (_meta(T=13), r"meta.json has T = 13; expected 12 by its recipe"),
    "T as text": (_meta(T="12"), r"meta.json has T = '12'; expected a whole number"),
    "wrong K": (_meta(K=3), r"meta.json has K = 3; expected 2 by its recipe"),
    "one class": (_meta(K=1), "meta.json has K = 1"),
    "D of five": (_meta(D_ohlc=5), "meta.json has D_ohlc = 5"),
    "count in meta": (_meta(num_windows=128), r"has shape \(129, 12, 4\)"),
    "class counts in meta": (
        _meta(class_distribution={"consolidation": 129, "expansion": 0}),
        "meta.json has class_distribution",
    ),
    "windows cut short": (_array("X_ohlc.npy", lambda X: X[:-1]), r"has shape \(128, 12, 4\)"),
    "windows in another type": (
        _array("X_ohlc.npy", lambda X: X.astype(np.float64)),
        "X_ohlc.npy holds float64",
    ),
    "labels as floats": (_array("y.npy", lambda y: y.astype(np.float32)), "y.npy holds float32"),
    "label of no class": (
        _array("y.npy", lambda y: np.where(np.arange(129) == 4, 2, y)),
        "window 4 has label 2; expected 0 to 1",
    ),
    "feature is NaN": (
        _array("X_feats20.npy", _nan_in_row_9),
        "window 9 has a feature that is NaN",
    ),
    "labels pickled": (
        _array("y.npy", lambda y: y.astype(object)),
        "y.npy cannot be read",
    ),
    "truncated windows": (_truncate("X_ohlc.npy", 5000), "X_ohlc.npy cannot be read"),
    "empty windows": (_truncate("X_ohlc.npy", 0), "X_ohlc.npy cannot be read"),
    "truncated times": (_truncate("times.parquet", 300), "times.parquet cannot be read"),
    "duplicate under another id": (
        _array("X_ohlc.npy", _duplicate),
        r"stands in two parts under two ids: windows 5 \(train\) = 120 \(test\)",
    ),
    "duplicate at another price": (
        _array("X_ohlc.npy", _rescaled),
        r"at another price level: windows 6 \(train\) = 121 \(test\)",
    ),
    "synthetic row in val": (
        _array("X_ohlc.npy", _synthetic),
        r"none is synthetic\): windows 88$|none is synthetic\): windows 88\.",
    ),
    "missing class": (_without_class, "every class in every part: val lacks class 1"),
    "label changed": (
        _array("y.npy", lambda y: np.where(np.isin(np.arange(129), [0, 1]), 1 - y, y)),
        "every label is the one its rule gives: windows 0, 1",
    ),
    "future label": (
        _times(_future_label), "every window's times are those of its bars: windows 0, 1, 2, 3, 4",
    ),
    "times shuffled": (
        _times(lambda c: c.update(first_row=c["first_row"][::-1].copy())),
        "times.parquet is not in time order",
    ),
    "clock moved": (
        _times(lambda c: c.update({k: c[k] + np.timedelta64(1, "h")
                                   for k in ("first_bar", "last_bar", "label_end")})),
        "every window's times are those of its bars: windows 0, 1, 2, 3, 4 and 124 more",
    ),
    "bars replaced": (_bars, "the source is the one the set was built from: walk has SHA-256"),
    "set is a link out": (_link_out, "is a link out of its place"),
    "file is a link": (_link_file, "y.npy is a symbolic link"),
    "folder is a link out": (_link_kind, "is a link out of its place"),
    "split is a link out": (_link_split, "split fwd is a link out of its place"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(TAMPERED))
def test_a_tampered_registry_is_refused(registry, case):
    change, message = TAMPERED[case]
    assert registry.load_labeled("v1", "fwd").audit_trail["passed"]
    change(registry.data_root)
    with pytest.raises(MoolaError, match=message) as caught:
        registry.load_labeled("v1", "fwd")
    assert "\n" not in str(caught.value)


def test_the_table_is_long_and_its_messages_differ():
    assert len(TAMPERED) >= 25
    assert len({message for _, message in TAMPERED.values()}) >= 45


@pytest.mark.parametrize(
    "name",
    ["../v1", "labeled_windows/../v1", "labeled_windows/..", "labeled_windows/.v1", "other/v1",
     "labeled_windows/a/b", "labeled_windows/", "labeled_windows/a\\b", "", "/etc/passwd",
     "labeled_windows/a\0b"],
)  # fmt: skip
def test_names_that_lead_out_are_refused(registry, name):
    with pytest.raises(DataError, match="set name is"):
        registry.load_set(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../fwd", "split name is"),
        ("splits/../../x.json", "split name is"),
        (".hidden", "split name is"),
        ("", "split name is"),
        ("random", "put future bars into training"),
        ("stratified", "put future bars into training"),
        ("splits/random.json", "put future bars into training"),
        ("nothing", "one of: fwd"),
    ],
)
def test_split_names_are_checked(registry, name, message):
    with pytest.raises(DataError, match=message):
        registry.load_split(name)


def test_an_absent_set_names_those_there(registry):
    with pytest.raises(DataError, match=r"labeled_windows/v8 does not exist.*one of: v1"):
        registry.load_labeled("v8", "fwd")
    with pytest.raises(DataError, match="a synthetic set is asked for, but none is named"):
        registry.load_labeled("v1", "fwd", include_synthetic=True)


def test_a_corpus_that_reaches_into_val_or_test_is_refused(registry):
    claim = registry.load_unlabeled()["claim"]
    assert registry.load_labeled("v1", "fwd", corpus=claim).audit_trail["corpus"] == claim.to_dict()
    late = replace(claim, name="unlabeled_windows/gone", last_bar="2020-01-12T00:00")
    with pytest.raises(AuditError, match="pretraining corpus ends before val and test: windows 77"):
        registry.load_labeled("v1", "fwd", corpus=late)


def test_a_corpus_of_another_name_with_the_same_bars_is_refused(registry):
    bars = bars_of(walk(400), name="copy", time=hours(400, "2015-01-01T00"))
    write_bars(registry.data_root, bars)
    corpus = replace(RECIPE, source="copy", label="none", horizon_bars=0)
    claim = registry.build_set("unlabeled_windows/copy", corpus).claim()
    with pytest.raises(
        AuditError, match="no held-out bars inside the pretraining corpus: windows 77"
    ):
        registry.load_labeled("v1", "fwd", corpus=claim)


def test_a_corpus_that_changed_since_pretraining_is_refused(registry):
    claim = registry.load_unlabeled()["claim"]
    with pytest.raises(AuditError, match="but the encoder was trained on 000000000000"):
        registry.load_labeled("v1", "fwd", corpus=replace(claim, sha256="0" * 64))


@pytest.mark.parametrize("last", ["NaT", "", "soon", "2019-01-01"])
def test_a_corpus_without_times_is_refused(registry, last):
    claim = replace(registry.load_unlabeled()["claim"], name="unlabeled_windows/x", last_bar=last)
    with pytest.raises(DataError, match=r"corpus"):
        registry.load_labeled("v1", "fwd", corpus=claim)
    with pytest.raises(DataError, match="corpus claim is incomplete"):
        CorpusClaim.from_dict({"name": "x"})


def test_without_bars_the_audit_says_what_it_did_not_compare(registry):
    (registry.data_root / "bars" / "walk.parquet").unlink()
    checks = registry.load_labeled("v1", "fwd").audit_trail["checks"]
    assert "not compared" in checks[-1]["detail"]


# --------------------------------------------------------------------------------- kill -9

BUILD = """
import sys
from moola.config.data import WindowRecipe
from moola.data.registry import DataRegistry
print("ready", flush=True)
recipe = WindowRecipe(source="walk", window_bars=60, step_bars=1, horizon_bars=6)
DataRegistry(sys.argv[1]).build_set("labeled_windows/big", recipe)
print("done", flush=True)
"""


def test_a_build_killed_at_any_moment_leaves_a_whole_set_or_none(tmp_path):
    write_bars(tmp_path, bars_of(walk(30_000)))
    folder = tmp_path / "labeled_windows" / "big"
    rng = np.random.default_rng(3)
    outcomes = []
    for attempt in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        process = subprocess.Popen(
            [sys.executable, "-c", BUILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        delay = 0.0 if attempt == 0 else float(rng.uniform(0.0, 0.9))
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=20)
        process.stdout.close()
        if folder.exists():
            assert len(DataRegistry(tmp_path).load_set("labeled_windows/big")) == 29_935
        outcomes.append(folder.exists())
    assert not outcomes[0]
    recipe = WindowRecipe(source="walk", window_bars=60, step_bars=1, horizon_bars=6)
    assert len(DataRegistry(tmp_path).build_set("labeled_windows/big", recipe)) == 29_935
    assert DataRegistry(tmp_path).names() == ["labeled_windows/big"]
