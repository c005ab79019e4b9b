"""Synthetic sets: train only, never stored or loaded where quality fails, tampering refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_kit import RECIPE, SPLIT, bars_of, edit_json, reseal, walk, write_bars

from moola.data.audit.synthetic import STATISTICS, synthetic_checks, synthetic_quality
from moola.data.store.data_store import DataStore
from moola.data.synthetic import make_synthetic
from moola.errors import AuditError, DataError

LABELED = "labeled_windows/v1"


def rescale(X, rng):
    """Another price level for every window: the features cannot see it."""
    return X * rng.uniform(0.5, 2.0, (len(X), 1, 1)).astype(np.float32)


def widen(X, rng):
    """Highs and lows pushed out at random: plainly not what real bars look like."""
    X = X.copy()
    X[..., 1] *= 1 + 0.02 * rng.random(X.shape[:2], dtype=np.float32)
    return X


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry") / "data"
    write_bars(root, bars_of(walk(900)))
    found = DataStore(root)
    found.build_set(LABELED, RECIPE)
    found.build_split("fwd", SPLIT)
    found.build_split("wf", replace(SPLIT, strategy="walk_forward", num_folds=3))
    return root


@pytest.fixture
def registry(built: Path, tmp_path: Path) -> DataStore:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return DataStore(tmp_path)


def build(registry, augment=rescale, name="v1_rescale", **values):
    return registry.build_synthetic(
        name, registry.load_set(LABELED), registry.load_split("fwd"), augment,
        config={"low": 0.5, "high": 2.0}, **values,
    )  # fmt: skip


def test_a_synthetic_set_is_appended_to_train_only(registry):
    made, checks = build(registry, ratio=0.5)
    assert checks
    assert all(c.passed for c in checks)
    real = registry.load_labeled("v1", "fwd")
    both = registry.load_labeled("v1", "fwd", True, "v1_rescale")
    n = len(real.X_train)
    assert len(made) == n
    assert np.array_equal(both.X_train[:n], real.X_train)
    assert np.array_equal(both.X_train[n:], made.X_ohlc)
    assert both.y_train[n:].tolist() == real.labeled.y[made.parent].tolist()
    assert both.synthetic_train.tolist() == [False] * n + [True] * n
    assert np.array_equal(both.X_val, real.X_val)
    assert np.array_equal(both.X_test, real.X_test)
    trail = both.audit_trail
    assert trail["synthetic_applied"] == "synthetic_cache/v1_rescale"
    assert trail["synthetic_ratio"] == 0.5
    assert (trail["n_real_train"], trail["n_synthetic_train"]) == (n, n)
    assert trail["val_synthetic_count"] == trail["test_synthetic_count"] == 0
    assert trail["synthetic_quality"]["p_value"] >= 0.1
    assert "cannot be told from chance" in trail["synthetic_quality"]["can_detect"]
    assert json.loads(json.dumps(trail)) == trail


@pytest.mark.parametrize(("ratio", "share"), [(0.2, 0.25), (0.5, 1.0), (0.75, 3.0)])
def test_the_ratio_is_the_share_of_synthetic_windows(registry, ratio, share):
    made, _ = build(registry, ratio=ratio)
    train = registry.load_split("fwd").train
    assert len(made) == round(share * len(train))
    assert np.isin(made.parent, train).all()
    counts = np.bincount(made.parent, minlength=int(train.max()) + 1)[train]
    assert counts.max() - counts.min() <= 1  # parents are drawn evenly


def test_the_layout_is_the_one_documented(registry):
    build(registry)
    folder = registry.data_root / "synthetic_cache" / "v1_rescale"
    assert sorted(p.name for p in folder.iterdir()) == [
        "X_feats20.npy", "X_ohlc.npy", "augmentation_config.json", "manifest.json", "meta.json",
        "parents.parquet", "y.npy",
    ]  # fmt: skip
    config = json.loads((folder / "augmentation_config.json").read_text())
    assert config["settings"] == {"low": 0.5, "high": 2.0}
    assert (config["ratio"], config["random_state"]) == (0.5, 0)
    assert config["split_sha256"] == registry.load_split("fwd").digest()


def test_the_same_settings_give_the_same_bytes(registry):
    first, _ = build(registry)
    second, _ = build(registry, name="again")
    other, _ = build(registry, name="other", random_state=1)
    assert np.array_equal(first.X_ohlc, second.X_ohlc)
    assert not np.array_equal(first.X_ohlc, other.X_ohlc)


def test_a_poor_set_is_not_stored(registry):
    with pytest.raises(
        AuditError, match=r"p of at least 0.1, .*: smallest Holm-corrected p is 0.0"
    ):
        build(registry, widen, "poor")
    assert registry.names() == [LABELED, "splits/fwd", "splits/wf"]


def test_a_poor_set_is_refused_at_load_whatever_its_files_say(registry):
    build(registry, widen, "poor", require_quality=False)
    folder = registry.data_root / "synthetic_cache" / "poor"
    edit_json(folder / "meta.json", ks_pval=1.0, p_value=1.0)
    reseal(folder)
    with pytest.raises(AuditError, match=r"look like real ones.*classifier AUC 0\.[89]"):
        registry.load_labeled("v1", "fwd", True, "poor")
    assert registry.load_labeled("v1", "fwd").audit_trail["synthetic_applied"] is False


def test_a_name_is_taken_once(registry):
    build(registry)
    with pytest.raises(DataError, match="v1_rescale exists"):
        build(registry)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (lambda X, rng: X[:-1], r"returned shape \(\d+, 12, 4\); expected"),
        (lambda X, rng: X[:, :-1], r"returned shape \(\d+, 11, 4\)"),
        (lambda X, rng: X * np.float32(np.nan), "broke its windows: window 0 holds a price"),
        (lambda X, rng: -X, "not positive"),
        (lambda X, rng: X[..., ::-1], "does not enclose"),
    ],
)
def test_an_augmenter_that_breaks_windows_is_refused(registry, augment, message):
    with pytest.raises(DataError, match=message):
        build(registry, augment)


def test_the_augmenter_sees_train_windows_only(registry):
    split = registry.load_split("fwd")
    labeled = registry.load_set(LABELED)
    seen = []

    def note(X, rng):
        seen.append(X.copy())
        return X

    make_synthetic(labeled, split, note, name="synthetic_cache/x", config={}, ratio=0.7)
    train = {w.tobytes() for w in labeled.X_ohlc[split.train]}
    assert {w.tobytes() for w in seen[0]} == train
    with pytest.raises(ValueError, match="settings are not plain values"):
        make_synthetic(labeled, split, note, name="synthetic_cache/x", config={"f": note})
    with pytest.raises(DataError, match=r"ratio of synthetic windows is 1.0"):
        make_synthetic(labeled, split, note, name="synthetic_cache/x", config={}, ratio=1.0)


def test_parents_outside_another_splits_train_part_are_refused(registry):
    made, _ = build(registry)
    folds = registry.load_folds("wf")
    labeled = registry.load_set(LABELED)
    checks, report = synthetic_checks(made, labeled, folds.folds[0])
    (bad,) = [c for c in checks if not c.passed]
    assert bad.name == "synthetic windows were made from train windows only"
    assert bad.detail.startswith("windows ")
    assert report is None


def _edit(name, change):
    def edit(folder):
        path = folder / name
        np.save(path, change(np.load(path)))
        reseal(folder)

    return edit


def _parents(folder):
    parent = pq.read_table(folder / "parents.parquet")["parent"].to_numpy().copy()
    parent[-1] = 290  # a window of test
    pq.write_table(pa.table({"parent": parent}), folder / "parents.parquet")
    reseal(folder)


def _meta(**values):
    def edit(folder):
        edit_json(folder / "meta.json", **values)
        reseal(folder)

    return edit


TAMPERED = {
    "byte": (lambda f: (f / "y.npy").write_bytes((f / "y.npy").read_bytes()[:-1] + b"\7"),
             "y.npy changed since it was built"),
    "label": (_edit("y.npy", lambda y: 1 - y), "have another label than their parents"),
    "parent in test": (_parents, "made from train windows only: windows 290"),
    "features": (_edit("X_feats20.npy", lambda F: F * np.float32(0.5)), "not those of the windows"),
    "NaN": (_edit("X_ohlc.npy", lambda X: X * np.float32(np.nan)), "holds a price that is NaN"),
    "other set": (_meta(source_sha256="0" * 64), "made from this set: .* 000000000000"),
    "count": (_meta(num_windows=3), r"parents.parquet has \d+ rows|has shape"),
    "config gone": (lambda f: (f / "augmentation_config.json").unlink(), "config.json is missing"),
    "manifest": (lambda f: edit_json(f / "manifest.json", name="synthetic_cache/x"),
                 "holds the manifest of 'synthetic_cache/x'"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(TAMPERED))
def test_a_tampered_synthetic_set_is_refused(registry, case):
    change, message = TAMPERED[case]
    build(registry)
    change(registry.data_root / "synthetic_cache" / "v1_rescale")
    with pytest.raises((AuditError, DataError), match=message):
        registry.load_labeled("v1", "fwd", True, "v1_rescale")


def test_quality_is_deterministic_and_names_every_feature(registry):
    made, _ = build(registry)
    labeled, train = registry.load_set(LABELED), registry.load_split("fwd").train
    first = synthetic_quality(made, labeled, train, num_permutations=99)
    assert first == synthetic_quality(made, labeled, train, num_permutations=99)
    assert tuple(f.name for f in first.features) == STATISTICS
    assert first.num_permutations == 99
