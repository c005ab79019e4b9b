"""A registry somebody changed: each change to a set, split or link is refused at the next load."""

from __future__ import annotations

import numpy as np
import pytest
from data_kit import SET, edit_json
from tamper_kit import (
    duplicate,
    edit_array,
    edit_manifest,
    edit_meta,
    edit_split,
    edit_times,
    flip_byte,
    future_label,
    link_file,
    link_kind,
    link_set,
    link_split,
    nan_in_row_9,
    replace_bars,
    rescaled,
    swap_at_border,
    synthetic,
    truncate,
    without_class,
)

from moola.data.store.review import describe
from moola.errors import MoolaError

TAMPERED = {
    "swapped index": (edit_split(swap_at_border), "random or stratified indices: window"),
    "shuffled train": (
        edit_split(lambda v: v["train_indices"].reverse()),
        "train is shuffled, window 71 comes after window 72",
    ),
    "index of no window": (
        edit_split(lambda v: v["test_indices"].append(129)),
        "indices exist: windows 129",
    ),
    "window in two parts": (
        edit_split(lambda v: v["purged_indices"].append(v["test_indices"][0])),
        "parts are disjoint: windows 97",
    ),
    "window kept quiet": (
        edit_split(lambda v: v["test_indices"].pop()),
        "every window is accounted for: 128 of 129",
    ),
    "window left out as purged": (
        edit_split(lambda v: v["purged_indices"].append(v["test_indices"].pop())),
        "only windows that reach into the next part are purged: windows 128",
    ),
    "purge undone": (
        edit_split(lambda v: v["train_indices"].append(v["purged_indices"].pop(0))),
        "no bar shared between train and val: windows",
    ),
    "split file edited": (
        edit_split(lambda v: v.update(embargo_bars=2), keep_digest=True),
        "split file fwd.json changed since it was made",
    ),
    "split of another set": (
        edit_split(lambda v: v.update(labeled_sha256="0" * 64)),
        "split belongs to this set: made for labeled_windows/v1 000000000000",
    ),
    "split under another name": (
        lambda root: (root / "splits" / "fwd.json").write_text(
            (root / "splits" / "fwd.json").read_text().replace('"name": "fwd"', '"name": "x"')
        ),
        "changed since it was made",
    ),
    "random strategy": (
        edit_split(lambda v: v.update(strategy="random")),
        "strategy 'random'",
    ),
    "indices as texts": (
        edit_split(lambda v: v.update(val_indices=["77", "78"])),
        "val_indices is missing or holds something else",
    ),
    "changed byte of windows": (flip_byte("X_ohlc.npy"), "X_ohlc.npy changed since it was built"),
    "changed byte of labels": (flip_byte("y.npy"), "y.npy changed since it was built"),
    "changed byte of features": (flip_byte("X_feats20.npy"), "X_feats20.npy changed since"),
    "changed byte of times": (flip_byte("times.parquet"), "times.parquet changed since"),
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
    "manifest digest edited": (edit_manifest(sha256="0" * 64), "does not match its own digest"),
    "manifest of another set": (edit_manifest(name="labeled_windows/v7"), "holds the manifest of"),
    "manifest without files": (edit_manifest(files=None), "does not match its own digest"),
    "manifest is a list": (
        lambda root: (root / SET / "manifest.json").write_text("[]"),
        r"manifest.json holds list",
    ),
    "manifest holds NaN": (
        lambda root: (root / SET / "manifest.json").write_text('{"name": NaN}'),
        "it holds NaN",
    ),
    "manifest recipe gone": (edit_manifest(recipe=3), "lacks recipe or sources"),
    "wrong T in meta": (edit_meta(T=13), r"meta.json has T = 13; expected 12 by its recipe"),
    "T as text": (edit_meta(T="12"), r"meta.json has T = '12'; expected a whole number"),
    "wrong K": (edit_meta(K=3), r"meta.json has K = 3; expected 2 by its recipe"),
    "one class": (edit_meta(K=1), "meta.json has K = 1"),
    "D of five": (edit_meta(D_ohlc=5), "meta.json has D_ohlc = 5"),
    "count in meta": (edit_meta(num_windows=128), r"has shape \(129, 12, 4\)"),
    "class counts in meta": (
        edit_meta(class_distribution={"consolidation": 129, "expansion": 0}),
        "meta.json has class_distribution",
    ),
    "windows cut short": (edit_array("X_ohlc.npy", lambda X: X[:-1]), r"has shape \(128, 12, 4\)"),
    "windows in another type": (
        edit_array("X_ohlc.npy", lambda X: X.astype(np.float64)),
        "X_ohlc.npy holds float64",
    ),
    "labels as floats": (
        edit_array("y.npy", lambda y: y.astype(np.float32)), "y.npy holds float32",
    ),
    "label of no class": (
        edit_array("y.npy", lambda y: np.where(np.arange(129) == 4, 2, y)),
        "window 4 has label 2; expected 0 to 1",
    ),
    "feature is NaN": (
        edit_array("X_feats20.npy", nan_in_row_9),
        "window 9 has a feature that is NaN",
    ),
    "labels pickled": (
        edit_array("y.npy", lambda y: y.astype(object)),
        "y.npy cannot be read",
    ),
    "truncated windows": (truncate("X_ohlc.npy", 5000), "X_ohlc.npy cannot be read"),
    "empty windows": (truncate("X_ohlc.npy", 0), "X_ohlc.npy cannot be read"),
    "truncated times": (truncate("times.parquet", 300), "times.parquet cannot be read"),
    "duplicate under another id": (
        edit_array("X_ohlc.npy", duplicate),
        r"is in two parts under two ids: windows 5 \(train\) = 120 \(test\)",
    ),
    "duplicate at another price": (
        edit_array("X_ohlc.npy", rescaled),
        r"at another price level: windows 6 \(train\) = 121 \(test\)",
    ),
    "synthetic row in val": (
        edit_array("X_ohlc.npy", synthetic),
        r"none is synthetic\): windows 88$|none is synthetic\): windows 88\.",
    ),
    "missing class": (without_class, "every class in every part: val lacks class 1"),
    "label changed": (
        edit_array("y.npy", lambda y: np.where(np.isin(np.arange(129), [0, 1]), 1 - y, y)),
        "every label is the one its rule gives: windows 0, 1",
    ),
    "future label": (
        edit_times(future_label),
        "every window's times are those of its bars: windows 0, 1, 2, 3, 4",
    ),
    "times shuffled": (
        edit_times(lambda c: c.update(first_row=c["first_row"][::-1].copy())),
        "times.parquet is not in time order",
    ),
    "clock moved": (
        edit_times(lambda c: c.update({k: c[k] + np.timedelta64(1, "h")
                                   for k in ("first_bar", "last_bar", "label_end")})),
        "every window's times are those of its bars: windows 0, 1, 2, 3, 4 and 124 more",
    ),
    "bars replaced": (
        replace_bars, "the source is the one the set was built from: walk has SHA-256",
    ),
    "set is a link out": (link_set, "is a link out of its place"),
    "file is a link": (link_file, "y.npy is a symbolic link"),
    "folder is a link out": (link_kind, "is a link out of its place"),
    "split is a link out": (link_split, "split fwd is a link out of its place"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(TAMPERED))
def test_a_tampered_registry_is_refused(registry, case):
    change, message = TAMPERED[case]
    assert registry.load_labeled("v1", "fwd").audit_trail["passed"]
    change(registry.data_root)
    with pytest.raises(MoolaError, match=message) as caught:
        registry.load_labeled("v1", "fwd")
    assert "\n" not in str(caught.value)


def test_the_list_says_which_set_was_changed_and_goes_on(registry):
    flip_byte("y.npy")(registry.data_root)
    listed = {row["name"]: row["content"] for row in describe(registry)["sets"]}
    assert "y.npy changed since it was built" in listed[SET]
    assert listed["unlabeled_windows/v1"].endswith(" windows")


def test_the_table_is_long_and_its_messages_differ():
    assert len(TAMPERED) >= 25
    assert len({message for _, message in TAMPERED.values()}) >= 45
