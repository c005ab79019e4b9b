"""Changes to a small registry, each a function of its root, for the tampering tests."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data_kit import SET, bars_of, edit_json, reseal, walk, write_bars


def flip_byte(name):
    def change(root):
        path = root / SET / name
        data = bytearray(path.read_bytes())
        data[-7] ^= 1
        path.write_bytes(data)

    return change


def edit_array(name, edit):
    def change(root):
        path = root / SET / name
        np.save(path, edit(np.load(path)))
        _hide(root)

    return change


def _hide(root):
    """Reseal the set and make the split refer to it as it now is."""
    reseal(root / SET)
    manifest = json.loads((root / SET / "manifest.json").read_text())
    values = json.loads((root / "splits" / "fwd.json").read_text())
    values["labeled_sha256"] = manifest["sha256"]
    del values["sha256"]
    (root / "splits" / "fwd.json").write_text(json.dumps(values))


def edit_meta(**changes):
    def change(root):
        edit_json(root / SET / "meta.json", **changes)
        _hide(root)

    return change


def edit_times(edit):
    def change(root):
        path = root / SET / "times.parquet"
        table = pq.read_table(path)
        columns = {name: table[name].to_numpy().copy() for name in table.column_names}
        edit(columns)
        pq.write_table(pa.table(columns), path)
        _hide(root)

    return change


def edit_split(edit, *, keep_digest=False):
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


def edit_manifest(**changes):
    return lambda root: edit_json(root / SET / "manifest.json", **changes)


def swap_at_border(values):
    train, val = values["train_indices"], values["val_indices"]
    train[-1], val[0] = val[0], train[-1]


def link_set(root):
    outside = root.parent / "elsewhere"
    shutil.move(root / SET, outside)
    (root / SET).symlink_to(outside)


def link_file(root):
    path = root / SET / "y.npy"
    shutil.move(path, root.parent / "y.npy")
    path.symlink_to(root.parent / "y.npy")


def link_kind(root):
    shutil.move(root / "labeled_windows", root.parent / "kind")
    (root / "labeled_windows").symlink_to(root.parent / "kind")


def link_split(root):
    path = root / "splits" / "fwd.json"
    shutil.move(path, root.parent / "fwd.json")
    path.symlink_to(root.parent / "fwd.json")


def truncate(name, keep):
    def change(root):
        path = root / SET / name
        path.write_bytes(path.read_bytes()[:keep])
        _hide(root)

    return change


def duplicate(X):
    X[120] = X[5]  # window 120 is in test, 5 in train
    return X


def rescaled(X):
    X[121] = X[6] * np.float32(3.7)
    return X


def nan_in_row_9(F):
    F[9, 3] = np.nan
    return F


def synthetic(X):
    X[88] = X[88] * np.float32(1.001)
    return X


def without_class(root):
    y = np.load(root / SET / "y.npy")
    rows = json.loads((root / "splits" / "fwd.json").read_text())["val_indices"]
    y[rows] = 0
    np.save(root / SET / "y.npy", y)
    tally = {"consolidation": int((y == 0).sum()), "expansion": int((y == 1).sum())}
    edit_meta(class_distribution=tally)(root)


def future_label(columns):
    columns["label_end_row"] = columns["label_end_row"] - 2
    columns["label_end"] = columns["label_end"] - np.timedelta64(2, "h")


def replace_bars(root):
    write_bars(root, bars_of(walk(400, seed=1)))
