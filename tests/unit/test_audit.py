"""The audit of a split: copies, corpus, order and classes; each refusal names its windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from data_kit import bars_of, flat, small_registry, walk

from moola.data.audit.checks import audit_split
from moola.data.audit.duplicates import bar_pair_keys, same_windows, shifted_copies
from moola.data.audit.plot import audit_figure
from moola.data.audit.trail import AuditTrail, CorpusClaim
from moola.data.splits import Split
from moola.data.windows import WindowTimes, cut_windows
from moola.errors import AuditError, DataError

T = 24


def rows(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def case(**changes):
    """Thirty windows of 24 bars, 10 apart, labels 2 bars on; three are purged at each border."""
    bars = bars_of(walk(400))
    first = np.arange(30, dtype=np.int64) * 10
    times = WindowTimes(first=first, last=first + T - 1, label_end=first + T + 1)
    split = Split(
        name="s", labeled="labeled_windows/v1", labeled_sha256="d", strategy="forward_chaining",
        train=np.arange(13), val=np.arange(15, 20), test=np.arange(22, 30),
        purged=rows(13, 14, 20, 21),
    )  # fmt: skip
    given = {
        "y": np.arange(30) % 2,
        "num_classes": 2,
        "X_NTC": cut_windows(bars, first, T),
        "times": times,
        "clock": bars.time[np.column_stack([first, first + T - 1, first + T + 1])],
        "labeled_name": "labeled_windows/v1",
        "labeled_sha256": "d",
        "source": "walk",
    }
    split = replace(split, **changes.pop("split", {}))
    return split, {**given, **changes}


def run(**changes) -> AuditTrail:
    split, given = case(**changes)
    return audit_split(split, **given)


def failed(**changes) -> dict[str, str]:
    return {c.name: c.detail for c in run(**changes).checks if not c.passed}


def test_an_honest_split_passes_every_check():
    trail = run()
    assert failed() == {}
    assert trail.passed
    trail.require()
    assert trail.to_dict()["bars"]["val"] == [
        "2020-01-07T06:00:00.000000", "2020-01-09T23:00:00.000000",
    ]  # fmt: skip
    assert len(trail.to_dict()["purged_bars"]) == 2


def test_no_checks_are_no_pass():
    assert not AuditTrail(checks=(), facts={"split": "s"}).passed


def test_the_first_failed_check_is_raised_with_its_windows():
    with pytest.raises(AuditError, match="audit of s: parts are disjoint: windows 12"):
        run(split={"val": rows(12, 15, 16, 17, 18, 19)}).require()


@pytest.mark.parametrize(
    ("split", "name", "detail"),
    [
        ({"test": rows(22, 30)}, "indices exist", "windows 30"),
        ({"train": rows()}, "indices exist", "all inside"),
        ({"purged": rows(12, 13, 14, 20, 21)}, "parts are disjoint", "windows 12"),
        ({"train": np.arange(13)[::-1]}, "parts are in time order", "shuffled: train"),
        ({"purged": rows(13, 14, 20)}, "every window is accounted for", "29 of 30"),
        ({"labeled_sha256": "e"}, "split belongs to this set", "made for labeled_windows/v1 e"),
        (
            {"train": np.arange(14), "purged": rows(14, 20, 21)},
            "no bar shared between train and val",
            "windows 13",
        ),
        (
            {"train": np.arange(12), "purged": rows(12, 13, 14, 20, 21)},
            "only windows that reach into the next part are purged",
            "windows 12",
        ),
        ({"embargo_bars": 10}, "no bar shared between train and val", "windows 12"),
    ],
)
def test_every_refusal_of_indices_names_the_windows(split, name, detail):
    found = failed(split=split)
    assert name in found
    assert detail in found[name]


def test_a_missing_class_and_a_label_of_no_class():
    y = np.arange(30) % 2
    y[15:20] = 1
    assert failed(y=y) == {"every class in every part": "val lacks class 0"}
    y[3] = 7
    assert "windows 3 in train hold labels outside 0..1" in failed(y=y)["every class in every part"]
    assert failed(y=None) == {"every class in every part": "the set has no labels"}


def test_copies_are_found_exact_rescaled_and_shifted():
    _, given = case()
    X = given["X_NTC"]
    exact = X.copy()
    exact[25] = X[3]
    assert failed(X_NTC=exact) == {
        "no window is in two parts under two ids": "windows 3 (train) = 25 (test)"
    }
    scaled = X.copy()
    scaled[25] = X[3] * np.float32(1.7)
    assert failed(X_NTC=scaled)["no window is in two parts at another price level"] == (
        "windows 3 (train) = 25 (test)"
    )
    shifted = X.copy()
    shifted[17, 5:22] = X[6, 2:19] * np.float32(0.3)
    (detail,) = failed(X_NTC=shifted).values()
    assert detail.startswith("windows 6 from bar 2 = 17 from bar 5 (17 bars, correlation 1.0")


def test_a_short_copy_and_a_similar_walk_are_no_copies():
    _, given = case()
    X = given["X_NTC"].copy()
    X[17, 5:12] = X[6, 2:9]
    assert shifted_copies(X, np.arange(13), rows(17)) == []
    assert shifted_copies(X, rows(), rows(17)) == []
    noisy = given["X_NTC"].copy()
    rng = np.random.default_rng(0)
    noisy[17] = noisy[6] * (1 + rng.normal(0, 0.01, noisy[6].shape)).astype("f4")
    assert shifted_copies(noisy, np.arange(13), rows(17)) == []


def test_still_bars_are_no_copies():
    X = np.repeat(flat([5.0] * T)[None], 4, axis=0).astype("f4")
    assert (bar_pair_keys(X) == 0).all()
    assert shifted_copies(X, rows(0, 1), rows(2, 3)) == []


def test_same_windows_are_named_with_their_parts():
    X = np.stack([walk(8, seed=s) for s in (1, 2, 1)]).astype("f4")
    parts = {"train": rows(0, 1), "test": rows(2)}
    assert same_windows(X, parts) == [("train", 0, "test", 2)]
    assert same_windows(X * np.float32([[[1]], [[1]], [[3]]]), parts) == []


def claim(first: str, last: str, source: str = "walk") -> CorpusClaim:
    return CorpusClaim(
        name="unlabeled_windows/v1", sha256="c", source=source, source_sha256="b",
        first_bar=first, last_bar=last,
    )  # fmt: skip


def test_the_corpus_guard_by_time_and_source():
    # window 15, the first of val, begins at bar 150: 2020-01-07 06:00
    assert failed(corpus=claim("2019-01-01", "2020-01-07T05:00")) == {}
    touching = failed(corpus=claim("2019-01-01", "2020-01-07T06:00"))
    assert touching == {"pretraining corpus ends before val and test": "windows 15"}
    later = failed(corpus=claim("2020-01-10T02:00", "2030-01-01"))
    assert later["pretraining corpus ends before val and test"].startswith("windows 15, 16, 17")
    after = failed(corpus=claim("2029-01-01", "2030-01-01"))  # looks ahead, though no bar is shared
    assert after == later
    trail = run(corpus=claim("2019-01-01", "2021-01-01", source="other"))
    assert trail.passed
    by_time, by_bars = trail.checks[-2:]
    assert "warning: the same calendar time as 13 held-out windows" in by_time.detail
    assert by_bars.detail == "not compared: the corpus is not in this data store"


def test_the_corpus_guard_by_bars():
    _, given = case()
    X = given["X_NTC"]
    corpus = claim("2010-01-01", "2010-02-01", source="renamed")
    assert failed(corpus=corpus, X_corpus_NTC=X[:13]) == {}
    hit = failed(corpus=corpus, X_corpus_NTC=X[[2, 16]])
    # window 16 shares bars with 14 to 18; of val those are 15 to 18
    assert hit == {"no held-out bars inside the pretraining corpus": "windows 15, 16, 17, 18"}


@pytest.mark.medium
def test_the_picture_shows_parts_purged_stretches_and_corpus(tmp_path):
    trail = run(corpus=claim("2019-12-20", "2020-01-05")).to_dict()
    figure = audit_figure(trail)
    (axes,) = figure.axes
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert labels == ["corpus (walk)", "train (13)", "val (5)", "test (8)", "purged (4)"]
    assert len(axes.lines) == 6  # purged windows stand in two stretches
    assert figure._suptitle.get_text().startswith("Audit passed")
    figure.savefig(tmp_path / "audit.png")
    assert (tmp_path / "audit.png").stat().st_size > 10_000


def test_the_picture_of_a_refusal_says_so():
    figure = audit_figure(run(split={"test": rows(22, 30)}).to_dict())
    texts = [t.get_text() for t in figure.texts]
    assert any(t.startswith("REFUSED indices exist: windows 30") for t in texts)
    assert figure._suptitle.get_text().startswith("Audit FAILED")
    with pytest.raises(DataError, match="holds no checks"):
        audit_figure({"passed": True})


def test_the_picture_of_a_real_registry(tmp_path):
    trail = small_registry(tmp_path).load_labeled("v1", "fwd").audit_trail
    assert len(audit_figure(trail).axes[0].lines) == 5
