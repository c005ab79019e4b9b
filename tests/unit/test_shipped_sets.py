"""The default sets and splits: the same bytes on every machine, and each passes its audit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_kit import SET

from moola.config.data import load_recipes
from moola.data.store.data_store import DataStore
from moola.hashing import sha256_array, sha256_file

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
def shipped(data_root: Path) -> DataStore:
    return DataStore(data_root)


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


@pytest.mark.medium
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
