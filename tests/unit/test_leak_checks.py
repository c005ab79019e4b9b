"""Leaks of known kind: held by gate 1, and the check that names them; an honest market is clean."""

import numpy as np
import pytest

from moola.config.data import SplitRecipe, WindowRecipe
from moola.config.evaluation import Thresholds
from moola.data.bars import Bars
from moola.data.ingest import IngestOptions, ingest
from moola.data.labels import label_windows
from moola.data.store.data_store import DataStore
from moola.errors import BadInput, DataError
from moola.evaluation.gates import GateContext, gate_1_baseline
from moola.evaluation.gates.leak_checks import LeakCheck, area_of
from moola.evaluation.gates.suspicion import questions, with_answers
from moola.hashing import sha256_files, sha256_json, write_json
from moola.judging.calibrate import overlap_of
from moola.judging.null import label_arithmetic, repaired_share
from moola.steps.investigate import checks_of

LIMITS = Thresholds.load()
T, H, STEP, N = 24, 6, 6, 5000
SHORT = {"window_bars": T, "horizon_bars": H, "step_bars": STEP, "source": "market"}


def market(seed=0, num_bars=N):
    """Bars whose volatility remembers: what a model may honestly know."""
    rng = np.random.default_rng(seed)
    h = np.zeros(num_bars)
    for k in range(1, num_bars):
        h[k] = 0.97 * h[k - 1] + 0.05 * rng.standard_normal()
    moves = rng.standard_normal((num_bars, 12)) * (0.001 * np.exp(h))[:, None]
    path = np.cumsum(moves.ravel()).reshape(num_bars, 12)
    path = np.concatenate([np.r_[0.0, path[:-1, -1]][:, None], path], axis=1)
    logs = np.stack([path[:, 0], path.max(1), path.min(1), path[:, -1]], axis=1)
    time = np.datetime64("2018-01-01", "us") + np.arange(num_bars) * np.timedelta64(3600, "s")
    return Bars(name="market", time=time, ohlc=100 * np.exp(logs), sha256="")


def write_bars(root, bars, **columns):
    """Write bars as CSV, some columns replaced; return the file."""
    found = dict(zip(("open", "high", "low", "close"), bars.ohlc.T, strict=True)) | columns
    lines = ["timestamp,open,high,low,close"]
    for k, time in enumerate(bars.time):
        prices = ",".join(f"{found[c][k]:.6f}" for c in ("open", "high", "low", "close"))
        lines.append(f"{str(time)[:19]}Z,{prices}")
    path = root / "market.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def built(root, recipe):
    """Build the set of a recipe and its folds."""
    registry = DataStore(root)
    labeled = registry.build_set("labeled_windows/m", recipe)
    split = SplitRecipe(labeled=labeled.name, strategy="walk_forward", num_folds=2)
    return registry, labeled, registry.build_split("walk_forward_m", split)


def judged(registry, labeled, folds):
    """Gate 1 of a logistic regression on the stored features, as `moola evaluate` asks it."""
    from sklearn.linear_model import LogisticRegression

    y, feats = labeled.y, np.asarray(labeled.X_feats20)
    rows = np.concatenate([f.val for f in folds.folds])
    proba, prior = [], []
    for fold in folds.folds:
        model = LogisticRegression(max_iter=1000).fit(feats[fold.train], y[fold.train])
        proba.append(model.predict_proba(feats[fold.val]))
        share = np.bincount(y[fold.train], minlength=2) / len(fold.train)
        prior.append(np.tile(share, (len(fold.val), 1)))
    return gate_1_baseline(
        y[rows],
        np.concatenate(proba),
        np.concatenate(prior),
        context=GateContext(**overlap_of(labeled.times, rows), thresholds=LIMITS),
        arithmetic=label_arithmetic(registry, labeled, rows, num_surrogates=1000, seed=0),
        repaired_share=repaired_share(registry, labeled.source),
    )


def leaks(registry, labeled, folds):
    """Names of the checks that show a leak, and all of them."""
    rows = np.unique(np.concatenate([r for f in folds.folds for r in (f.train, f.val)]))
    found = checks_of(registry, labeled, rows, limits=LIMITS)
    return {name for name, check in found.items() if check.leak}, found


@pytest.fixture(scope="module")
def early_clock(tmp_path_factory):
    """Bars on a clock that is six bars early beside labels on the right one."""
    root = tmp_path_factory.mktemp("early")
    bars = market()
    recipe = WindowRecipe(**SHORT)
    starts = np.arange(0, N - T - H - 6, STEP)
    y = label_windows(bars, starts, recipe).y
    last = bars.time[starts + T - 1]
    (root / "labels").mkdir()
    rows = [f"{str(t)[:19]}Z,{k}" for t, k in zip(last, y, strict=True)]
    (root / "labels" / "mine.csv").write_text("last_bar,label\n" + "\n".join(rows) + "\n")
    early = Bars(name="market", time=bars.time - np.timedelta64(6 * 3600, "s"), ohlc=bars.ohlc,
                 sha256="")  # fmt: skip
    ingest(write_bars(root, early), "market", root / "bars")
    recipe = WindowRecipe(
        **SHORT, label="file", label_file="mine.csv", class_names=("calm", "wild")
    )
    return built(root, recipe)


@pytest.mark.medium
def test_a_clock_six_bars_early_is_held_and_named(early_clock):
    report = judged(*early_clock)
    assert report.verdict == "held"
    assert report.reasons[0].startswith("too good to be true: ROC-AUC is 0.9")
    assert any("surrogate null was not computed" in reason for reason in report.reasons)
    named, found = leaks(*early_clock)
    assert {"lag", "offset", "age"} <= named
    assert "the clock is 6 bars early" in found["offset"].detail
    assert found["horizon"].leak is None


@pytest.mark.medium
def test_a_shifted_close_needs_a_word_and_is_held_and_named(tmp_path):
    bars = market()
    shifted = np.r_[bars.ohlc[1:, 3], bars.ohlc[-1, 3]]
    path = write_bars(tmp_path, bars, close=shifted)
    with pytest.raises(DataError, match=r"repairs touch .*take --accept repairs"):
        ingest(path, "market", tmp_path / "bars", IngestOptions(repairs=("widen",)))
    assert not list((tmp_path / "bars").glob("*.parquet"))
    options = IngestOptions(repairs=("widen",), accept=("repairs",))
    ingest(path, "market", tmp_path / "bars", options)
    world = built(tmp_path, WindowRecipe(**SHORT))
    report = judged(*world)
    assert report.verdict == "held"
    assert set(report.figures["leaks"]["suspicions"]) >= {"repairs"}
    named, found = leaks(*world)
    assert {"repairs", "continuity"} <= named
    assert "beside the opens the closes come 1 bars early" in found["continuity"].detail


@pytest.mark.medium
def test_a_label_in_a_feature_is_held_and_named(tmp_path):
    ingest(write_bars(tmp_path, market()), "market", tmp_path / "bars")
    registry, labeled, folds = built(tmp_path, WindowRecipe(**SHORT))
    folder = tmp_path / "labeled_windows" / "m"
    feats = np.array(labeled.X_feats20)
    noise = np.random.default_rng(0).normal(0, 0.2, len(feats))
    feats[:, 7] = np.clip(labeled.y - 0.5 + noise, -1, 1)
    np.save(folder / "X_feats20.npy", feats.astype("<f4"))
    files = sha256_files(folder)
    del files["manifest.json"]
    manifest = {**labeled.manifest, "files": files, "sha256": sha256_json(files)}
    write_json(folder / "manifest.json", manifest)
    labeled = registry.load_set("labeled_windows/m")
    assert judged(registry, labeled, folds).verdict == "held"
    named, found = leaks(registry, labeled, folds)
    assert "feature" in named
    assert "not made of their windows: range_6_lag_96" in found["feature"].detail


@pytest.mark.medium
def test_an_honest_market_shows_no_leak(tmp_path):
    ingest(write_bars(tmp_path, market(3)), "market", tmp_path / "bars")
    world = built(tmp_path, WindowRecipe(**SHORT))
    named, found = leaks(*world)
    assert named == set()
    assert all(check.leak is False for check in found.values())
    assert judged(*world).verdict != "held"


def test_every_suspicion_and_every_leak_wants_an_answer_in_words(early_clock):
    report = judged(*early_clock)
    checks = {
        "lag": LeakCheck(question="?", leak=True, detail="x"),
        "halves": LeakCheck(question="?", leak=False, detail="y"),
    }
    assert questions(report, checks) == ("roc_auc", "entropy", "lag")
    words = {
        "roc_auc": "the label is a clock",
        "entropy": "the label is a clock",
        "lag": "it is so",
    }
    for bad in ({}, words | {"halves": "it is so"}, words | {"lag": "yes"}):
        with pytest.raises(BadInput):
            with_answers(report, bad, checks=checks, who="eve", at="2026-01-01T00:00:00+00:00")
    done = with_answers(report, words, checks=checks, who="eve", at="2026-01-01T00:00:00+00:00")
    assert done.verdict == "passed"
    assert done.reasons[0].startswith("was held, and eve answered: roc_auc: the label is a clock")
    assert done.figures["leaks"]["answers"] == words
    assert done.figures["leaks"]["who"] == "eve"
    with pytest.raises(BadInput, match="is passed, not held"):
        with_answers(done, words, checks=checks, who="eve", at="")


def test_labels_of_one_class_rank_nothing():
    assert area_of(np.zeros(5, dtype=np.intp), np.full((5, 2), 0.5)) == 0.5
