"""The pretraining corpus at loading: refused where it saw held-out bars or has changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from data_kit import RECIPE, bars_of, hours, reseal, walk, write_bars

from moola.data.audit.trail import CorpusClaim
from moola.errors import AuditError, DataError


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


@pytest.mark.parametrize("factor", [1.5, 1 + 1e-6])
def test_a_corpus_is_derived_from_its_bars_again(registry, factor):
    corpus = registry.load_set("unlabeled_windows/v1")
    rows = np.arange(len(corpus))
    train, held_out = rows[:60], rows[71:]
    audit = registry.audit_corpus(corpus, train, held_out)
    assert audit.passed
    assert len(audit.checks) > 3
    assert audit.facts["counts"] == {"train": 60, "val": len(held_out), "purged": 11}
    path = registry.folder("unlabeled_windows/v1") / "X_ohlc.npy"
    X = np.load(path)
    X[30] = (X[30].astype(np.float64) * factor).astype(np.float32)
    np.save(path, X)
    reseal(path.parent)  # the digests are right again
    forged = registry.load_set("unlabeled_windows/v1")
    with pytest.raises(AuditError, match=r"stretch of its source's bars .*: windows 30") as error:
        registry.audit_corpus(forged, train, held_out).require()
    name, trail = error.value.proof
    assert (name, trail["passed"]) == ("audit", False)


def test_held_out_windows_of_a_corpus_share_no_bar_with_training(registry):
    corpus = registry.load_set("unlabeled_windows/v1")
    rows = np.arange(len(corpus))
    audit = registry.audit_corpus(corpus, rows[:60], rows[68:])  # windows of 12 bars
    (failed,) = [check for check in audit.checks if not check.passed]
    assert failed.name == "no bar shared between train and held-out"
    assert failed.detail == "windows 57, 58, 59"
