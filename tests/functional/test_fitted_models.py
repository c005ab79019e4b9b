"""Models without epochs as versions: registered, read back, judged, served, attacked."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
from data_kit import SET, small_registry
from hostile_versions import Hostile, both, drop, header, names, put, read, tensors
from mlflow import MlflowClient
from promotion_kit import NAME
from test_hostile_versions import require_untouched

from moola.config.data import SplitRecipe
from moola.config.evaluation import EvaluateConfig, Thresholds
from moola.config.serving import ServeConfig
from moola.config.training import ENCODER_MODELS, FITTED_MODELS, MODELS, FinetuneConfig
from moola.data.store.data_store import DataStore
from moola.errors import CheckpointError, ConfigError, PromotionRefused
from moola.models import REGISTRY, get_model
from moola.promotion.evidence.keys import ensure_signing_key
from moola.promotion.versions.inspection import inspect
from moola.promotion.versions.packaging import check_packaging
from moola.promotion.versions.referee_score import score
from moola.serving.scoring import WindowScorer
from moola.steps.evaluate import evaluate
from moola.steps.finetune import FinetuneSummary, finetune
from moola.steps.predict import predict
from moola.steps.promote import promote
from moola.steps.registry import challenge
from moola.steps.serve import make_source

MOST_SECONDS = 10
COMPILED = "hydra_multirocket"  # its first use compiles for a minute
EVERY = [pytest.param(n, marks=pytest.mark.slow if n == COMPILED else ()) for n in FITTED_MODELS]
Arrays = dict[str, np.ndarray]


class World:
    """A project whose versions are trained when a test first asks for one."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.registry: DataStore = small_registry(folder / "data", num_bars=1200, swing=2.0)
        recipe = SplitRecipe(labeled=SET, strategy="walk_forward", num_folds=2)
        self.registry.build_split("walk", recipe)
        self.client = MlflowClient()
        self.trained: dict[str, FinetuneSummary] = {}
        ensure_signing_key(folder)

    def train(self, model: str) -> FinetuneSummary:
        if model == "xgb":
            pytest.importorskip("xgboost")
        if model not in self.trained:
            config = FinetuneConfig(model=model, labeled=SET, split="splits/fwd.json", device="cpu")
            self.trained[model] = finetune(config)
        return self.trained[model]

    def files(self, model: str) -> Path:
        version = str(self.train(model).version)
        address = self.client.get_model_version_download_uri(NAME, version)
        return Path(address.removeprefix("file://"))

    def windows(self, num: int = 60) -> np.ndarray:
        return np.asarray(self.registry.load_set(SET).X_ohlc[:num])

    def attack(self, model: str, hostile: Hostile) -> tuple[Path, Path]:
        folder = self.folder / "hostile"
        shutil.rmtree(folder, ignore_errors=True)
        canary = folder / "canary"
        canary.mkdir(parents=True)
        shutil.copytree(self.files(model), folder / "files")
        hostile(folder / "files", canary)
        return folder / "files", canary


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("fitted")
    shutil.copy(template_db, folder / "mlflow.db")
    before = Path.cwd()
    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        yield World(folder)
    finally:
        os.chdir(before)


def test_every_model_of_the_catalogue_can_be_registered() -> None:
    assert set(MODELS) == set(REGISTRY)
    assert set(FITTED_MODELS) == {name for name, entry in REGISTRY.items() if not entry.is_net}
    assert not set(ENCODER_MODELS) & set(FITTED_MODELS)


@pytest.mark.parametrize("model", EVERY)
def test_a_version_answers_as_the_model_that_was_fitted(world: World, model: str) -> None:
    summary = world.train(model)
    X, fitted = world.windows(), summary.result.model
    wanted = fitted.predict_proba(X)
    packaging = check_packaging(world.files(model))
    stored = packaging.stored
    assert stored.config.model == model
    assert stored.window_bars == X.shape[1]
    assert stored.temperature == summary.calibration.temperature
    back = type(fitted).load(packaging.checkpoint)
    assert back.predict_proba(X) == pytest.approx(wanted, rel=1e-12)
    scorer = WindowScorer.load(packaging.checkpoint)
    assert scorer.probabilities(X, calibrated=False) == pytest.approx(wanted, rel=1e-9)
    served = mlflow.pyfunc.load_model(f"models:/{NAME}/{summary.version}").predict(X)
    columns = [f"probability_{name}" for name in scorer.class_names]
    assert served[columns].to_numpy() == pytest.approx(scorer.probabilities(X), rel=1e-9)


@pytest.mark.parametrize("model", ["logreg", "minirocket"])
def test_every_door_takes_such_a_version(world: World, model: str) -> None:
    version = str(world.train(model).version)
    np.save(world.folder / "windows.npy", world.windows(3))
    answers = world.folder / "answers.parquet"
    predict(world.folder / "windows.npy", output=answers, model_uri=f"models:/{NAME}/{version}")
    assert pq.read_table(answers).num_rows == 3
    source = make_source(ServeConfig(version=version, project=str(world.folder)))
    assert source.load(version).scorer.window_bars == 12
    found = score(str(world.files(model)), str(world.folder / "data"), SET, "fwd")
    assert found["metrics"]["log_loss"] < 0.69
    assert challenge(name=NAME, version=version, project=world.folder).action == "challenger"
    assert str(world.client.get_model_version_by_alias(NAME, "challenger").version) == version


def test_a_control_is_compared_with_the_others_and_may_become_champion(world: World) -> None:
    """On bars whose classes are easy to tell, under limits that so few windows can meet."""
    version = str(world.train("logreg").version)
    limits = replace(
        Thresholds.load(),
        margin_log_loss=0.5,
        max_credible_roc_auc=1.0,
        max_credible_entropy_share=1.0,
    )
    summary = evaluate(
        version=version,
        config=EvaluateConfig(seeds=(17,)),
        thresholds=limits,
        device="cpu",
        cache=Path("artifacts/gates"),
        project=world.folder,
    )
    reports = {report.gate: report for report in summary.reports}
    assert set(reports) == {0, 1, 2, 7}
    assert list(reports[2].figures["controls"]) == ["minirocket", "rf", "hgb"]
    assert reports[2].reasons[-1] == (
        "logreg is a control itself, and compared with the others: minirocket, rf, hgb"
    )
    assert summary.does_not_apply["4"] == "gate 4 asks about its encoder, and it has none"
    assert set(summary.does_not_apply) == {"3", "4", "5", "6"}
    assert summary.not_run == ()  # so it is signed
    page = Path(world.client.download_artifacts(summary.run_id, "report.html")).read_text()
    assert "gate 5 does not apply" in page
    promoted = promote(version=version, thresholds=limits, project=world.folder)
    assert promoted.decision.version == version
    source = make_source(ServeConfig(project=str(world.folder)))
    scorer = source.load(version).scorer
    wanted = WindowScorer.load(check_packaging(world.files("logreg")).checkpoint)
    assert (scorer.probabilities(world.windows()) == wanted.probabilities(world.windows())).all()
    with pytest.raises(ConfigError, match="gate 3 asks about its encoder, and version"):
        evaluate(version=version, config=EvaluateConfig(gates=(3,)), device="cpu")


@pytest.mark.parametrize("model", FITTED_MODELS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 3), ("freeze", "none"), ("batch_size", 8), ("preset", "compact"),
        ("use_temporal_aug", True), ("class_weight", "balanced"), ("hidden_size", 8),
        ("synthetic", "synthetic_cache/s"), ("pretrained_encoder", "e"),
    ],
)  # fmt: skip
def test_options_that_cannot_act_are_refused_by_name(
    model: str, option: str, value: object
) -> None:
    with pytest.raises(
        ConfigError, match=f"model {model} takes no .*{option.rsplit('_', maxsplit=1)[-1]}"
    ):
        FinetuneConfig(model=model, **{option: value})


def changed(name: str, change: Callable[[np.ndarray], object]) -> Hostile:
    """Change one array in place, or for another."""

    def of_all(arrays: Arrays) -> Arrays:
        array = arrays[name].copy()
        other = change(array)
        return {**arrays, name: array if other is None else np.asarray(other)}

    return tensors(of_all)


def at(row: object, value: object) -> Callable[[np.ndarray], object]:
    def change(array: np.ndarray) -> None:
        array[row] = value

    return change


def first_split(field: str, value: Callable[[int], int]) -> Hostile:
    def of_all(arrays: Arrays) -> Arrays:
        array = arrays[field].copy()
        row = int(np.flatnonzero(arrays["feature"] >= 0)[1])
        array[row] = value(row)
        return {**arrays, field: array}

    return tensors(of_all)


def leaf_with_child(arrays: Arrays) -> Arrays:
    row = int(np.flatnonzero(arrays["feature"] < 0)[0])
    left = arrays["left"].copy()
    left[row] = row + 1
    return {**arrays, "left": left}


def chain(arrays: Arrays) -> Arrays:
    """Trees of the same number of rows, the first of which is a chain of 600 levels."""
    num, roots = len(arrays["feature"]), arrays["roots"].copy()
    depth, rows = 600, np.arange(num)
    roots[1:] = 2 * depth + 1 + np.arange(len(roots) - 1)
    inner = (rows < 2 * depth) & (rows % 2 == 0)
    last = rows >= roots[-1]
    assert last.sum() % 2 == 1  # the last tree is a chain too, of what is left over
    inner |= last & ((rows - roots[-1]) % 2 == 0) & (rows < num - 1)
    return {
        **arrays,
        "roots": roots,
        "feature": np.where(inner, 0, -1),
        "left": np.where(inner, rows + 1, -1),
        "right": np.where(inner, rows + 2, -1),
    }


def swapped(name: str) -> Hostile:
    return changed(name, lambda array: array[::-1].copy())


def restated(**sizes: object) -> Hostile:
    return both(*(put(f"state.{name}", value) for name, value in sizes.items()))


def of_member(size: str, value: object) -> Hostile:
    """State a size whose name has a dot in it."""

    def change(folder: Path, canary: Path) -> None:
        put("state", {**read(folder)["state"], size: value})(folder, canary)

    return change


def larger_header(name: str, shape: list[int]) -> Hostile:
    return header(lambda entries: {**entries, name: {**entries[name], "shape": shape}})


def more(arrays: Arrays) -> Arrays:
    return {**arrays, "more": np.zeros(3)}


def without(name: str) -> Hostile:
    return tensors(lambda arrays: {k: v for k, v in arrays.items() if k != name})


ATTACKS: dict[str, dict[str, Hostile]] = {
    "rf": {
        "a node that is its own child": first_split("left", lambda row: row),
        "a child before its parent": first_split("right", lambda row: 0),
        "a child in another tree": first_split("left", lambda row: 10**4),
        "a child far outside": first_split("right", lambda row: 2**62),
        "a child below 0": first_split("left", lambda row: -5),
        "both children one": tensors(lambda a: {**a, "right": a["left"]}),
        "a leaf with a child": tensors(leaf_with_child),
        "feature 20": first_split("feature", lambda row: 20),
        "feature -2": first_split("feature", lambda row: -2),
        "a leaf of NaN": changed("value", at((3, 0), np.nan)),
        "a leaf of infinity": changed("value", at((3, 0), np.inf)),
        "shares that add up to 1/2": changed("value", lambda v: v / 2),
        "shares below 0": changed("value", at(3, [-1.0, 2.0])),
        "a threshold of infinity": changed("threshold", at(0, -np.inf)),
        "roots turned round": swapped("roots"),
        "a root below 0": changed("roots", at(0, -1)),
        "a root outside": changed("roots", at(-1, 2**40)),
        "two trees at one root": changed("roots", at(1, 0)),
        "a tree of 600 levels": tensors(chain),
        "float32 in the place of float64": changed("value", lambda v: v.astype(np.float32)),
        "32 bits in the place of 64": changed("left", lambda v: v.astype(np.int32)),
        "values of three classes": changed("value", lambda v: np.c_[v, np.zeros(len(v))]),
        "one array more": tensors(more),
        "no roots": without("roots"),
        "10^9 trees": restated(num_trees=10**9),
        "10^9 nodes": restated(num_nodes=10**9),
        "-1 trees": restated(num_trees=-1),
        "no tree": restated(num_trees=0),
        "trees true": restated(num_trees=True),
        "trees as a number with a point": restated(num_trees=300.0),
        "more nodes than there are": restated(num_nodes=1 << 22),
        "one tree less": both(
            changed("roots", lambda v: v[:-1].copy()), restated(num_trees=299)
        ),
        "a header of 2^40 rows": larger_header("feature", [2**40]),
        "a header of sides that multiply to less": larger_header("feature", [2**32, 2**32]),
        "21 features": restated(num_features=21),
        "windows of one bar": restated(window_bars=1),
        "a size that no model has": restated(num_leaves=3),
        "a state that is a list": put("state", []),
        "no state": drop("state"),
        "the scaler of a net": put("scaler", {"mean": [0.0] * 20, "scale": [1.0] * 20}),
        "classes swapped": put("classes", [1, 0]),
        "10^6 trees asked for": put("params.num_trees", 10**6),
        "another seed": put("params.seed", 3),
        "a parameter more": put("params.n_jobs", 64),
        "a number in the place of a text": put("trained_as.split", 3),
        "epochs of a model without": put("trained_as.epochs", 3),
        "another model": both(put("model", "quant"), put("trained_as.model", "quant")),
        "a net": both(put("model", "simple_lstm"), put("trained_as.model", "simple_lstm")),
        "a legacy model": put("trained_as.model", "moola.models.models_extras.tcn.TCNModel"),
        "class names of escapes": names("\x1b[2J", "expansion"),
    },
    "hgb": {
        "a cycle": first_split("left", lambda row: row - 1),
        "a leaf of 10^300": changed("value", at((1, 1), 1e300)),
        "a start of NaN": changed("start", at(0, np.nan)),
        "a start of 10^300": changed("start", at(0, 1e300)),
        "starts of three classes": changed("start", lambda v: np.zeros(3)),
        "a gap of 10^9 windows": put("params.gap_windows", 10**9),
        "a gap that is a text": put("params.gap_windows", "5"),
        "a gap below 0": put("params.gap_windows", -1),
    },
    "logreg": {
        "a scale of 0": changed("scale", at(0, 0.0)),
        "a scale below 0": changed("scale", at(0, -1.0)),
        "the smallest scale": changed("scale", at(0, 5e-324)),
        "a weight of 10^300": changed("weight", at((0, 1), 1e300)),
        "a weight of NaN": changed("weight", at((0, 1), np.nan)),
        "a bias in whole numbers": changed("bias", lambda v: v.astype(np.int64)),
        "folds below 0": changed("penalty", at(1, -3.0)),
        "19 columns": changed("mean", lambda v: v[:-1].copy()),
    },
    "minirocket": {
        "a channel that is not there": changed("channel_indices", at(0, 4)),
        "a channel below 0": changed("channel_indices", at(0, -1)),
        "five channels at once": changed("num_channels_per_combination", at(0, 5)),
        "no channel": changed("num_channels_per_combination", at(0, 0)),
        "counts that end elsewhere": changed("num_channels_per_combination", lambda v: v * 0 + 1),
        "a kernel longer than a window": changed("dilations", at(-1, 2)),
        "a dilation of 0": changed("dilations", at(0, 0)),
        "a dilation of 2^31": changed("dilations", at(0, 2**31 - 1)),
        "biases of other counts": changed("num_features_per_dilation", at(0, 10**6)),
        "a count below 0": changed("num_features_per_dilation", at(0, -1)),
        "a bias of NaN": changed("biases", at(0, np.nan)),
        "one bias less": changed("biases", lambda v: v[:-1].copy()),
        "10^9 dilations": restated(num_dilations=10**9),
        "10^9 kernels": put("params.num_kernels", 10**9),
        "series": put("params.input_kind", "series"),
        "features given": put("state.features_given", True),
        "a scaler of 0": put("state.scaler.scale.3", 0.0),
        "windows of 4 bars": restated(window_bars=4),
    },
    "quant": {
        "a column that is not there": first_split("feature", lambda row: 10**6),
        "a cycle": first_split("right", lambda row: row),
        "a depth of 60": put("params.depth", 60),
        "windows of 2 bars": restated(window_bars=2),
    },
    "stack": {
        "a member's cycle": changed("rf.left", at(0, 0)),
        "a member's scale of 0": changed("logreg.scale", at(0, 0.0)),
        "no member": without("rf.roots"),
        "three members": put("params.members", ["logreg", "rf", "xgb"]),
        "a member that is none": put("params.members", ["logreg", "os"]),
        "10^9 trees of a member": of_member("rf.num_trees", 10**9),
        "a head of other columns": changed("weight", lambda v: v[:-1].copy()),
    },
}  # fmt: skip


@pytest.mark.parametrize(("model", "name"), [(m, n) for m, some in ATTACKS.items() for n in some])
def test_the_border_refuses_arrays_that_training_does_not_write(
    world: World, model: str, name: str
) -> None:
    """In one sentence, in little time, before any of them is an index."""
    files, canary = world.attack(model, ATTACKS[model][name])
    before = time.process_time()
    with pytest.raises(PromotionRefused) as refusal:
        check_packaging(files)
    assert time.process_time() - before < MOST_SECONDS
    require_untouched(canary, str(refusal.value))
    assert len(str(refusal.value)) < 1000


def turned(arrays: Arrays) -> Arrays:
    """A head that answers with the other class's probability."""
    return {
        **arrays,
        "weight": arrays["weight"][:, ::-1].copy(),
        "bias": arrays["bias"][::-1].copy(),
    }


def test_arrays_that_answer_for_the_other_class_are_found_by_the_validation_windows(
    world: World,
) -> None:
    files, _ = world.attack("logreg", tensors(turned))
    check_packaging(files)  # nothing about the arrays by themselves shows it
    labeled, split = world.registry.load_set(SET), world.registry.load_split("fwd")
    assert labeled.y is not None
    windows = (np.asarray(labeled.X_ohlc[split.val]), labeled.y[split.val])
    with pytest.raises(PromotionRefused, match="states a conformal threshold"):
        inspect(files, windows=windows)
    inspect(world.files("logreg"), windows=windows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "hostile",
    [
        changed("competing_channels", at((0, 0, 0, 0), 4)),
        changed("competing_kernels", at((0, 0, 0, 0, 0), 9.0)),
        changed("column_scale", at(0, 0.0)),
        changed("channel_indices_1", at(0, -1)),
        changed("dilations_1", at(-1, 2)),
        changed("num_features_per_dilation_0", at(0, 10**6)),
        restated(num_dilations_1=10**9),
    ],
)
def test_the_border_refuses_kernels_that_training_does_not_draw(
    world: World, hostile: Hostile
) -> None:
    with pytest.raises(PromotionRefused):
        check_packaging(world.attack(COMPILED, hostile)[0])


def test_a_model_larger_than_what_is_read_back_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = np.random.default_rng(0).random((60, 3)), np.arange(60) % 2
    model = get_model("rf", num_trees=5).fit(X, y)
    monkeypatch.setattr(type(model), "most", {"num_nodes": 9, "num_trees": 9})
    with pytest.raises(CheckpointError, match=r"model rf has \d+ num_nodes; expected at most 9"):
        model.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_stored_model_states_its_sizes(world: World) -> None:
    state = read(world.files("stack"))["state"]
    assert set(state) == {"window_bars", "num_features", "rf.num_nodes", "rf.num_trees"}
    assert state["rf.num_trees"] == 300
