"""Split files: every index is kept, none overwritten, and shuffled or edited ones are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data_kit import edit_json, regular, small_registry, split_recipe

from moola.data.splits import forward_chain, read_split_file, walk_forward, write_split
from moola.errors import AuditError, DataError


def test_a_split_file_keeps_every_index_and_is_never_overwritten(tmp_path):
    split = forward_chain("s", split_recipe(embargo_bars=1), regular(40), "d")
    path = tmp_path / "s.json"
    write_split(path, split, "someone")
    before = path.read_bytes()
    write_split(path, split, "someone else")
    assert path.read_bytes() == before
    read = read_split_file(path)
    assert read.digest() == split.digest()
    assert json.loads(before)["created_by"] == "someone"
    with pytest.raises(DataError, match="exists with another content"):
        write_split(path, forward_chain("s", split_recipe(), regular(40), "d"), "someone")
    assert path.read_bytes() == before


def stored(tmp_path, **changes):
    path = tmp_path / "s.json"
    write_split(path, forward_chain("s", split_recipe(), regular(40), "d"), "someone")
    edit_json(path, **changes)
    return path


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"strategy": "random"}, DataError, "future bars into training"),
        ({"strategy": "stratified"}, DataError, "future bars into training"),
        ({"strategy": None}, DataError, "strategy None"),
        ({"strategy": ["forward_chaining"]}, DataError, "has strategy"),
        ({"strategy": "walk_forward"}, DataError, "holds no folds"),
        ({"train_indices": None}, DataError, "train_indices is missing"),
        ({"train_indices": "0 1 2"}, DataError, "a list of whole numbers"),
        ({"train_indices": [0.5, 1]}, DataError, "a list of whole numbers"),
        ({"train_indices": [True, False]}, DataError, "a list of whole numbers"),
        ({"val_indices": [-1, 25]}, DataError, "window numbers from 0"),
        ({"val_indices": [2**70]}, DataError, "window numbers from 0"),
        ({"train_indices": [], "counts": {"train": 0, "val": 4, "test": 10, "purged": 4}},
         DataError, "'s' is malformed: train_indices is empty; expected at least one window"),
        ({"embargo_bars": -2}, DataError, "embargo_bars is -2"),
        ({"embargo_bars": "0"}, DataError, "embargo_bars is '0'"),
        ({"counts": {"train": 1}}, DataError, "counts are"),
        ({"name": 3}, DataError, "name is 3"),
        ({"labeled_sha256": None}, DataError, "labeled_sha256 is None"),
        ({"train_indices": [3, 1, 2], "counts": None}, DataError, "counts are None"),
        ({"embargo_bars": 3}, AuditError, "changed since it was made"),
        ({"purged_indices": [22], "counts": {"train": 22, "val": 4, "test": 10, "purged": 1}},
         AuditError, "changed since it was made"),
    ],
)  # fmt: skip
def test_split_files_that_are_wrong_are_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        read_split_file(stored(tmp_path, **changes))


def file_of(tmp_path, train, val, test):
    """A split file as other tools write it: no digest, no counts."""
    values = {
        "name": "theirs", "labeled_version": "labeled_windows/v1", "labeled_sha256": "d",
        "strategy": "forward_chaining", "train_indices": train, "val_indices": val,
        "test_indices": test, "purged_indices": [],
    }  # fmt: skip
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(values))
    return path


def test_random_and_stratified_indices_by_file_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    order = rng.permutation(40).tolist()
    with pytest.raises(AuditError, match=r"train is shuffled, window .* after window"):
        read_split_file(file_of(tmp_path, order[:24], order[24:30], order[30:]))
    with pytest.raises(AuditError, match="holds random or stratified indices"):
        read_split_file(
            file_of(tmp_path, sorted(order[:24]), sorted(order[24:30]), sorted(order[30:]))
        )
    y = np.arange(40) % 2  # every fourth window of each class to val: stratified, in order
    val = np.concatenate([np.flatnonzero(y == c)[::4] for c in (0, 1)])
    rest = sorted(set(range(30)) - set(val.tolist()))
    early = sorted(v for v in val.tolist() if v < 30)
    with pytest.raises(AuditError, match="is not after window 29 of train"):
        read_split_file(file_of(tmp_path, rest, early, list(range(30, 40))))
    assert len(read_split_file(file_of(tmp_path, [0, 1], [5], [9])).train) == 2


def test_parts_in_the_wrong_order_are_refused(tmp_path):
    with pytest.raises(AuditError, match="window 0 of test is not after window 9 of val"):
        read_split_file(file_of(tmp_path, [], list(range(5, 10)), list(range(5))))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", '"x"', "\x00", "null"])
def test_files_that_are_no_json_object_are_refused(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"is not JSON|holds (list|str|NoneType)"):
        read_split_file(path)


def test_fold_files_are_checked_fold_by_fold(tmp_path):
    walk = walk_forward("w", split_recipe(strategy="walk_forward", num_folds=2), regular(40), "d")
    path = tmp_path / "w.json"
    write_split(path, walk, "someone")
    values = json.loads(path.read_text())
    del values["sha256"]
    cases = {
        "another set": lambda v: v["folds"][1].update(labeled_sha256="other"),
        "reaches window 35 of the locked test part": lambda v: v["folds"][1].update(
            val_indices=[33, 34, 35], counts={"train": 17, "val": 3, "test": 0, "purged": 2}
        ),
        "'w/fold2' is malformed: train_indices is empty": lambda v: v["folds"][1].update(
            train_indices=[], val_indices=[], counts={"train": 0, "val": 0, "test": 0, "purged": 2}
        ),
        "a fold is not an object": lambda v: v["folds"].append(3),
        "holds no folds": lambda v: v.update(folds=[]),
        "test_indices is missing": lambda v: v.pop("test_indices"),
    }
    for message, change in cases.items():
        copy = json.loads(json.dumps(values))
        change(copy)
        path.write_text(json.dumps(copy))
        with pytest.raises((DataError, AuditError), match=message):
            read_split_file(path)


def test_an_absent_split_names_those_there(tmp_path):
    small_registry(tmp_path)
    with pytest.raises(DataError, match="one of: fwd"):
        read_split_file(tmp_path / "splits" / "other.json")
