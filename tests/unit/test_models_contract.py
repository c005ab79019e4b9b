"""What every model keeps: bad input refused without a trace, labels, features, save and load."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from test_models import windows

from moola.errors import BadInput, CheckpointError, ConfigError
from moola.models import REGISTRY, ModelRegistry, get_model

pytestmark = pytest.mark.medium  # trains networks

SMALL: dict[str, dict[str, Any]] = {
    "enhanced_simple_lstm": {"hidden_size": 4, "num_layers": 1, "n_epochs": 2},
    "simple_lstm": {"hidden_size": 4, "n_epochs": 2},
    "adapter_lstm": {
        "encoder_hidden": 4,
        "encoder_output": 6,
        "encoder_depth": 2,
        "adapter_hidden": 3,
        "hidden_size": 4,
        "n_epochs": 2,
    },
    "minirocket": {"num_kernels": 84, "gap_windows": 1},
    "hydra_multirocket": {"num_kernels": 84, "gap_windows": 1},
    "quant": {"num_trees": 5, "depth": 2},
    "logreg": {"gap_windows": 1},
    "rf": {"num_trees": 5},
    "hgb": {"max_trees": 5, "gap_windows": 1},
    "xgb": {"num_trees": 5},
    "stack": {"gap_windows": 1},
}
COMPILED = "hydra_multirocket"  # its first use compiles for a minute
EVERY = [pytest.param(n, marks=pytest.mark.slow if n == COMPILED else ()) for n in SMALL]
NETS = ("enhanced_simple_lstm", "simple_lstm", "adapter_lstm")
Data = tuple[np.ndarray, np.ndarray]


def made(name: str, **params: Any) -> Any:
    if name == "xgb":
        pytest.importorskip("xgboost")
    return get_model(name, **{**SMALL[name], **params})


def spoilt(value: float) -> Callable[[np.ndarray, np.ndarray], Data]:
    def change(X: np.ndarray, y: np.ndarray) -> Data:
        X = X.copy()
        X[3, 5, 1] = value
        return X, y

    return change


BAD_FIT: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Data], str]] = {
    "rank": (lambda X, y: (X[:, 0, 0], y), "shape|1D array"),
    "channels": (lambda X, y: (X[:, :, :3], y), r"shape .* expected numbers of shape \(n, T, 4\)"),
    "nan": (spoilt(np.nan), "window 3 holds a price that is NaN"),
    "infinity": (spoilt(np.inf), "window 3 holds a price that is NaN, infinite"),
    "single class": (lambda X, y: (X, np.zeros_like(y)), "1 class, 0; expected at least 2"),
    "labels missing": (lambda X, y: (X, y[:-1]), r"y has shape \(39,\); expected \(40,\)"),
    "empty": (lambda X, y: (X[:0], y[:0]), "no window; expected at least 1"),
}
BAD_PREDICT: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Data], str]] = {
    kind: BAD_FIT[kind] for kind in ("channels", "nan", "infinity", "empty")
}
BAD_PREDICT["bars"] = (lambda X, y: (X[:, :20], y), "windows have 20 bars; expected 24 bars")
BAD_PREDICT["rank"] = (lambda X, y: (X[0], y), "shape")


def answers(name: str) -> tuple[Any, np.ndarray, np.ndarray]:
    X, y = windows(40)
    model = made(name).fit(X, y)
    return model, X, model.predict_proba(X)


@pytest.mark.parametrize("name", EVERY)
def test_bad_input_is_refused_with_a_remedy_and_leaves_the_model_as_it_was(name: str) -> None:
    model, X, before = answers(name)
    _, y = windows(40)
    cases = [(model.fit, c, w, k) for k, (c, w) in BAD_FIT.items()]
    cases += [(lambda X, _: model.predict_proba(X), c, w, k) for k, (c, w) in BAD_PREDICT.items()]
    for call, change, words, kind in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call(*change(X, y))
        assert isinstance(caught.value, BadInput), kind
        assert "; expected" in str(caught.value), kind
        if kind != "rank":  # scikit-learn's words where X may be a matrix
            assert len(str(caught.value).split("; expected")[1].split(". ")) > 1, kind
        assert np.array_equal(model.predict_proba(X), before), kind


@pytest.mark.parametrize("name", EVERY)
def test_labels_are_kept_and_equal_seeds_give_equal_answers(name: str) -> None:
    X, y = windows(60)
    words = np.array(["narrow", "wide"])[y]
    model = made(name, seed=4).fit(X, words)
    proba = model.predict_proba(X)
    assert model.classes_.tolist() == ["narrow", "wide"]
    assert set(model.predict(X)) <= {"narrow", "wide"}
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-9)
    assert np.array_equal(clone(model).fit(X, words).predict_proba(X), proba)
    numbers = made(name, seed=4).fit(X, np.array([-7, 300])[y])
    assert np.array_equal(numbers.predict_proba(X), proba)
    assert set(numbers.predict(X)) <= {-7, 300}


@pytest.mark.parametrize("name", list(SMALL))
def test_an_unfitted_model_says_so(name: str) -> None:
    X, _ = windows(10)
    with pytest.raises(NotFittedError):
        made(name).predict(X)


_READ = """
import json, sys
import numpy as np
from moola.models import get_model
for name, folder in json.loads(sys.argv[1]).items():
    model = type(get_model(name)).load(folder + "/m")
    np.save(folder + "/again.npy", model.predict_proba(np.load(folder + "/X.npy")))
    assert model.classes_.tolist() == ["narrow", "wide"]
"""


@pytest.mark.parametrize(
    "names", [set(SMALL) - {COMPILED}, pytest.param({COMPILED}, marks=pytest.mark.slow)]
)
def test_a_fresh_process_gives_the_same_probabilities(names: set[str], tmp_path: Path) -> None:
    X, y = windows(60)
    folders, proba = {}, {}
    for name in sorted(names):
        if name == "xgb" and not _has_xgboost():
            continue
        folder = tmp_path / name
        folder.mkdir()
        model = made(name).fit(X, np.array(["narrow", "wide"])[y])
        model.save(folder / "m")
        np.save(folder / "X.npy", X)
        folders[name], proba[name] = str(folder), model.predict_proba(X)
        assert {p.name for p in (folder / "m").iterdir()} == {"model.safetensors", "config.json"}
    command = [sys.executable, "-c", _READ, json.dumps(folders)]
    subprocess.run(command, check=True, cwd=tmp_path)
    for name, folder_name in folders.items():
        again = np.load(Path(folder_name) / "again.npy")
        assert np.abs(again - proba[name]).max() < 1e-6, name


class _Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('the payload ran')",)


@pytest.mark.parametrize("name", ["simple_lstm", "logreg"])
def test_a_pickle_payload_is_refused_and_does_not_run(name: str, tmp_path: Path) -> None:
    kind = type(get_model(name))
    torch.save({"state_dict": _Payload()}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="pickled code"):
        kind.load(tmp_path / "m.pt")
    X, y = windows(40)
    made(name).fit(X, y).save(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        kind.load(tmp_path / "m")


@pytest.mark.parametrize("name", ["enhanced_simple_lstm", "logreg", "rf", "stack"])
def test_features_may_be_given_in_the_place_of_those_computed(name: str) -> None:
    X, y = windows(60)
    features = np.c_[y + np.random.default_rng(0).normal(0, 0.1, 60), np.arange(60) % 7]
    model = made(name).fit(X, y, features=features)
    given = model.predict_proba(X, features=features)
    assert not np.allclose(given, model.predict_proba(X, features=features[::-1]))
    wide = np.zeros((60, 21))
    with pytest.raises(BadInput, match=r"21 features; expected 1 to 20\. Choose at most 20"):
        made(name).fit(X, y, features=wide)
    for wrong in (features[:5], features[:, 0], features * np.nan):
        with pytest.raises(BadInput, match="expected"):
            model.predict_proba(X, features=wrong)
    with pytest.raises(ValueError, match="features"):
        model.predict_proba(X)


def test_windows_alone_and_features_alone() -> None:
    X, y = windows(60)
    flat = np.c_[y + np.random.default_rng(0).normal(0, 0.1, 60), np.arange(60) % 7]
    model = made("logreg").fit(flat, y)
    assert (model.predict(flat) == y).all()
    with pytest.raises(BadInput, match="21 features; expected at most 20"):
        made("logreg").fit(np.zeros((60, 21)), y)
    with pytest.raises(BadInput, match="features are given beside an X of shape"):
        made("logreg").fit(flat, y, features=flat)
    with pytest.raises(BadInput, match="features are given to minirocket"):
        made("minirocket").fit(X, y, features=flat)
    net = made("enhanced_simple_lstm").fit(X, y)
    with pytest.raises(BadInput, match="trained without"):
        net.predict(X, features=flat)


def test_validation_labels_must_be_known() -> None:
    X, y = windows(40)
    with pytest.raises(BadInput, match=r"training lacks, .*2.*; expected one of \[0, 1\]\. Drop"):
        made("simple_lstm").fit(X, y, validation=(X, y * 2))


@pytest.mark.parametrize("name", ["simple_lstm", "minirocket"])
def test_other_series_than_bars(name: str) -> None:
    rng = np.random.default_rng(2)
    y = np.arange(40) % 3
    X = rng.normal(0, 0.2, (40, 16, 2)) - 5 + y[:, None, None] * np.sin(np.arange(16))[:, None]
    params = {"n_epochs": 30, "learning_rate": 0.02} if name in NETS else {}
    model = made(name, input_kind="series", **params).fit(X, y)
    assert (model.predict(X) == y).mean() > 0.9
    for wrong, words in (
        (X[:, :12], "12 bars; expected 16 bars"),
        (X[:, :, :1], "1 channels; expected 2 channels"),
        (X * np.nan, "series 0 holds a value that is NaN"),
        (X[:0], "no series"),
    ):
        with pytest.raises(BadInput, match=words):
            model.predict(wrong)
    with pytest.raises(ConfigError, match="input_kind is 'bars'"):
        made(name, input_kind="bars").fit(X, y)


def test_bars_cannot_be_warped_where_there_are_none() -> None:
    X, y = windows(40)
    with pytest.raises(ConfigError, match="use_temporal_aug is given with input_kind 'series'"):
        made("simple_lstm", input_kind="series", use_temporal_aug=True).fit(X, y)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    "option",
    [{"class_weight": "balanced"}, {"focal_gamma": 2.0}, {"mixup_alpha": 0.4}, {"cutmix_alpha": 1}],
)
def test_options_of_the_loss_reach_every_net(name: str, option: dict[str, Any]) -> None:
    X, y = windows(30)
    y[:20] = 0
    plain = made(name).fit(X, y).predict_proba(X)
    assert not np.array_equal(made(name, **option).fit(X, y).predict_proba(X), plain)


def test_a_val_split_that_leaves_a_class_out_is_refused() -> None:
    X, _ = windows(40)
    y = np.arange(40) // 25
    for options, message in [
        ({"gap_windows": 0}, "val_split 0.5 and a gap of 0 windows leave 1 of 2 classes"),
        ({"gap_windows": 30}, "a gap of 30 windows leave 0 of 2 classes"),
        ({"gap_windows": -1}, "gap_windows is -1"),
        ({"val_split": 1.0}, "val_split is 1.0"),
    ]:
        with pytest.raises(BadInput, match=message):
            made("simple_lstm", **{"val_split": 0.5, **options}).fit(X, y)


def test_xgb_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = windows(40)
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(
        ConfigError, match=r"needs the package xgboost.*pip install 'moola-ml\[xgb\]'"
    ):
        get_model("xgb").fit(X, y)


def test_stacking_is_out_of_fold_in_time_order() -> None:
    X, y = windows(80)
    model = made("stack", gap_windows=3).fit(X, y)
    rows = model.out_of_fold_
    assert (np.diff(rows) > 0).all()
    assert rows.min() > 3
    with pytest.raises(BadInput, match="leave no forward-chaining folds"):
        made("stack").fit(X, np.sort(y))
    with pytest.raises(ConfigError, match="expected at least two of logreg, rf, xgb"):
        made("stack", members=("logreg", "svm")).fit(X, y)


def test_the_forest_as_arrays_is_scikit_learns_forest() -> None:
    from sklearn.ensemble import RandomForestClassifier

    from moola.models.controls.tree_arrays import TreeArrays

    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(80, 5)), np.arange(80) % 3
    forest = RandomForestClassifier(7, min_samples_leaf=2, random_state=0).fit(X, y)
    trees = TreeArrays.of_forest(forest)
    assert np.abs(trees.proba(X) - forest.predict_proba(X)).max() < 1e-12
    splits = sum(int((t.tree_.feature >= 0).sum()) for t in forest.estimators_)
    leaves = sum(int((t.tree_.feature < 0).sum()) for t in forest.estimators_)
    assert trees.num_parameters == 2 * splits + 2 * leaves


def test_xgboosts_trees_as_arrays_are_xgboosts_own() -> None:
    xgboost = pytest.importorskip("xgboost")
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 4)).round(1)  # many values lie on a threshold
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.3)
    model = get_model("xgb", num_trees=9, max_depth=3).fit(X, y)
    options = {
        "objective": "multi:softprob", "num_class": 3, "max_depth": 3, "eta": 0.05,
        "subsample": 0.8, "min_child_weight": 5.0, "seed": 17, "nthread": 1, "verbosity": 0,
    }  # fmt: skip
    data = xgboost.DMatrix(X, y)
    theirs = xgboost.train(options, data, num_boost_round=9).predict(data)
    assert np.abs(model.predict_proba(X) - theirs).max() < 1e-6


def test_every_model_is_covered_here() -> None:
    assert set(SMALL) == set(REGISTRY) == {*ModelRegistry.ACTIVE, *ModelRegistry.CLASSICAL}
    assert set(NETS) == {name for name, entry in REGISTRY.items() if entry.is_net}


def _has_xgboost() -> bool:
    from importlib.util import find_spec

    return find_spec("xgboost") is not None
