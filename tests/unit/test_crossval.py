"""Walk-forward predictions: every fold and seed once, finished trainings reused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_kit import small_registry

from moola.config.data import SplitRecipe
from moola.config.training import FinetuneConfig
from moola.data.splits import WalkForward
from moola.data.store.data_store import DataStore, WindowSet
from moola.data.synthetic import SyntheticSet
from moola.errors import DataError
from moola.evaluation.predictions import mean_proba
from moola.models import get_model
from moola.training import crossval
from moola.training.crossval import (
    Trainee,
    Training,
    WalkForwardPredictions,
    class_frequencies,
    walk_forward_predictions,
)
from moola.training.finetune import early_stopping_rows

pytestmark = pytest.mark.medium  # trains networks

CONFIG = FinetuneConfig(
    preset="compact", epochs=2, batch_size=32, patience=0, learning_rate=3e-3, device="cpu"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[WindowSet, WalkForward]:
    registry: DataStore = small_registry(tmp_path_factory.mktemp("data"))
    recipe = SplitRecipe(labeled="labeled_windows/v1", strategy="walk_forward", num_folds=2)
    folds = registry.build_split("walk", recipe)
    assert isinstance(folds, WalkForward)
    return registry.load_set("labeled_windows/v1"), folds


def predict(
    data: tuple[WindowSet, WalkForward], cache: Path, **options: Any
) -> WalkForwardPredictions:
    trainee = Trainee(config=options.pop("config", CONFIG), seeds=options.pop("seeds", (1, 2)))
    found = walk_forward_predictions({"own": trainee}, *data, device="cpu", cache=cache, **options)
    return found["own"]


def test_predictions_of_every_fold_and_seed_in_time_order(
    data: tuple[WindowSet, WalkForward], tmp_path: Path
) -> None:
    labeled, folds = data
    steps: list[tuple[int, int]] = []
    found = predict(data, tmp_path, on_done=lambda _, *counts: steps.append(counts))
    rows = np.concatenate([f.val for f in folds.folds])
    assert found.rows.tolist() == rows.tolist()
    assert (np.diff(rows) > 0).all()
    assert labeled.y is not None
    assert found.y.tolist() == labeled.y[rows].tolist()
    assert found.proba_by_seed.shape == (2, len(rows), 2)
    assert np.allclose(found.proba_by_seed.sum(axis=2), 1)
    assert np.array_equal(found.proba, mean_proba(list(found.proba_by_seed)))
    assert not np.array_equal(found.proba_by_seed[0], found.proba_by_seed[1])
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.load_report is None
    assert found.proof is not None
    assert (found.proof["proven"], found.proof["num_trainings"]) == (True, 4)
    first = folds.folds[0]
    assert np.allclose(found.prior[0], class_frequencies(labeled.y[first.train], 2))


def test_what_is_finished_is_not_trained_again(
    data: tuple[WindowSet, WalkForward], tmp_path: Path
) -> None:
    first = predict(data, tmp_path)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.npz")}
    assert len(files) == 4
    lost = sorted(files)[0]
    lost.unlink()
    steps: list[tuple[int, int]] = []
    again = predict(data, tmp_path, on_done=lambda _, *counts: steps.append(counts))
    assert steps == [(3, 4), (4, 4)]
    assert np.array_equal(first.proba_by_seed, again.proba_by_seed)
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.npz") if p != lost}
    assert all(files[p] == t for p, t in kept.items())


def test_another_configuration_or_seed_is_another_training(
    data: tuple[WindowSet, WalkForward], tmp_path: Path
) -> None:
    base = predict(data, tmp_path, seeds=(1,))
    other = predict(data, tmp_path, seeds=(1,), config=replace(CONFIG, focal_gamma=2.0))
    assert not np.array_equal(base.proba, other.proba)
    predict(data, tmp_path, seeds=(1,), config=replace(CONFIG, device="auto"))  # the same training
    assert len(list(tmp_path.glob("*.npz"))) == 4


def test_another_device_or_torch_is_another_training(
    data: tuple[WindowSet, WalkForward], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(device: str) -> set[Path]:
        trainee = Trainee(config=CONFIG, seeds=(1,))
        return {t.path for t in crossval._tasks(trainee, *data, cache=tmp_path, device=device)}

    on_cpu = files("cpu")
    assert not on_cpu & files("cuda")
    monkeypatch.setattr(torch, "__version__", "0.0.1")
    assert not on_cpu & files("cpu")


def test_early_stopping_holds_the_latest_of_train_and_leaves_val_alone(
    data: tuple[WindowSet, WalkForward], tmp_path: Path
) -> None:
    told: list[Training] = []
    options: dict[str, Any] = {"seeds": (1,), "config": replace(CONFIG, patience=1, epochs=4)}
    found = predict(data, tmp_path, **options, on_training=lambda _, one: told.append(one))
    assert found.proba.shape == (len(found.rows), 2)
    labeled, folds = data
    for fold, training in zip(folds.folds, found.trainings, strict=True):
        rows = training.rows
        fit, stop = early_stopping_rows(fold.train, labeled.times.label_end, labeled.times.first)
        assert (rows["fit"].tolist(), rows["stop"].tolist()) == (fit.tolist(), stop.tolist())
        together = [*rows["fit"], *rows["purged"], *rows["stop"]]
        assert together == fold.train.tolist()
        assert rows["val"].tolist() == fold.val.tolist()
        assert (training.fold, training.seed) == (fold.name, 1)
        assert training.schedule["name"] == training.row()["schedule"]
        assert training.proof["proven"]
    again: list[Training] = []  # those of the cache are told too
    predict(data, tmp_path, **options, on_training=lambda _, one: again.append(one))
    told.sort(key=lambda training: training.fold)
    assert [t.to_dict() for t in again] == [t.to_dict() for t in told]


def test_a_set_without_labels_is_refused(
    data: tuple[WindowSet, WalkForward], tmp_path: Path
) -> None:
    labeled, folds = data
    with pytest.raises(DataError, match="labeled_windows/v1 has no labels"):
        predict((replace(labeled, y=None), folds), tmp_path)


def test_class_frequencies_by_hand() -> None:
    found = class_frequencies(np.array([0, 0, 0, 1]), 3)
    assert found.tolist() == pytest.approx([3.5 / 5.5, 1.5 / 5.5, 0.5 / 5.5])


def test_a_control_trains_on_every_training_window_though_candidates_stop_early(
    data: tuple[WindowSet, WalkForward], tmp_path: Path
) -> None:
    labeled, folds = data
    assert labeled.y is not None
    config = FinetuneConfig(model="logreg", patience=20, device="cpu")
    found = predict(data, tmp_path, config=config, seeds=(17,))
    fold = folds.folds[0]
    gap = labeled.times.gap_windows(fold.train)
    assert gap < get_model("logreg").gap_windows
    whole = get_model("logreg", seed=17, gap_windows=gap)
    whole.fit(labeled.X_ohlc[fold.train], labeled.y[fold.train])
    expected = whole.predict_proba(labeled.X_ohlc[fold.val])
    assert np.allclose(found.proba[: len(fold.val)], expected, atol=1e-9)


def test_a_synthetic_window_trains_where_its_parent_does(
    data: tuple[WindowSet, WalkForward], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeled, folds = data
    assert labeled.y is not None
    parent = np.arange(0, len(labeled), 3)  # also of windows that no fold trains on
    made = SyntheticSet(
        name="synthetic_cache/third",
        X_ohlc=np.array(labeled.X_ohlc[parent]) * 2,
        X_feats20=np.zeros((len(parent), 20), dtype=np.float32),
        y=labeled.y[parent],
        parent=parent,
        labeled=labeled.name,
        labeled_sha256=labeled.sha256,
        split="forward",
        num_classes=2,
        config={},
        sha256="a" * 64,
    )
    given: list[np.ndarray] = []
    real = crossval.finetune

    def watched(config: FinetuneConfig, X: np.ndarray, y: np.ndarray, **options: Any) -> Any:
        given.append(X)
        return real(config, X, y, **options)

    monkeypatch.setattr(crossval, "finetune", watched)
    config = replace(CONFIG, synthetic="third", patience=1)
    found = predict(data, tmp_path, config=config, seeds=(1,), synthetic=made)
    assert len(given) == len(folds.folds)
    for X, training in zip(sorted(given, key=len), found.trainings, strict=True):
        fit = training.rows["fit"]
        own = parent[np.isin(parent, fit)]
        assert 0 < len(own) < len(parent)
        assert np.array_equal(X, np.r_[labeled.X_ohlc[fit], labeled.X_ohlc[own] * 2])
    other = replace(made, sha256="b" * 64)
    predict(data, tmp_path, config=config, seeds=(1,), synthetic=other)
    assert len(given) == 2 * len(folds.folds)  # another content is another training
    predict(data, tmp_path, seeds=(1,), synthetic=made)
    assert {len(X) for X in given[-2:]} == {len(fold.train) for fold in folds.folds}
    for wrong in (None, replace(made, name="synthetic_cache/another")):
        with pytest.raises(DataError, match="synthetic_cache/third is not at hand"):
            predict(data, tmp_path, config=config, seeds=(1,), synthetic=wrong)
