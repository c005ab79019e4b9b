"""The ablation and the forensics command on real data, in a real store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
from job_kit import SHORT, short_project
from mlflow import MlflowClient

from moola.cli import main
from moola.config import names
from moola.config.data import SplitRecipe, WindowRecipe
from moola.config.pretraining import PretrainConfig
from moola.config.training import FinetuneConfig
from moola.data.store.data_store import DataStore
from moola.errors import AuditError, CheckpointNotFound, ConfigError
from moola.steps.ablate import AblationSummary, ablate, spread
from moola.steps.finetune import finetune
from moola.steps.forensics import compare_answers, forensics
from moola.steps.pretrain import pretrain
from moola.training.ablation import experiments, judge_ablation, same_schedules
from moola.training.crossval import WalkForwardPredictions

TRAIN = {"batch_size": 64, "epochs": 3, "unfreeze_after": 2, "patience": 0, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Path:
    """A project with short windows, two folds and a little encoder."""
    root: Path = tmp_path_factory.mktemp("ablation")
    registry = short_project(root, template_db)
    corpus = WindowRecipe(**SHORT, step_bars=6, label="none", end="2017-05-01")
    registry.build_set("unlabeled_windows/v1", corpus)
    registry.build_split("fwd_chain_v3", SplitRecipe(labeled="labeled_windows/v1"))
    return root


@pytest.fixture(autouse=True)
def _inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    mlflow.set_tracking_uri(f"sqlite:///{place}/mlflow.db")


@pytest.fixture(scope="module")
def encoder(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        mlflow.set_tracking_uri(f"sqlite:///{place}/mlflow.db")
        config = PretrainConfig(hidden_dim=32, num_layers=1, epochs=2, batch_size=64, device="cpu")
        pretrain(config, data_root=place / "data", output=place / "encoder")
    return place / "encoder"


def base(encoder: Path, **changes: Any) -> FinetuneConfig:
    values = {"preset": "compact", "pretrained_encoder": str(encoder), "device": "cpu", **TRAIN}
    return FinetuneConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def summary(place: Path, encoder: Path) -> AblationSummary:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        mlflow.set_tracking_uri(f"sqlite:///{place}/mlflow.db")
        return ablate(base(encoder), seeds=(1, 2), gradual_after=1, data_root=place / "data")


def test_one_parent_run_with_a_child_an_arm(summary: AblationSummary) -> None:
    client = MlflowClient()
    parent = client.get_run(summary.run_id)
    assert parent.info.status == "FINISHED"
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{summary.run_id}'"
    )
    found = sorted(run.info.run_name for run in children)
    assert found == ["A-none", "B-frozen", "C-none", "D-two_phase", "E-gradual"]
    assert all(run.info.status == "FINISHED" for run in children)
    frozen = next(run for run in children if run.info.run_name == "B-frozen")
    assert frozen.data.metrics["delta_log_loss_low"] <= frozen.data.metrics["delta_log_loss"]
    assert frozen.data.params["freeze"] == "frozen"
    paths = {f.path for f in client.list_artifacts(summary.run_id)}
    assert {"ablation.json", "ablation.png", "ablation_report.json", "audit", "split"} <= paths
    assert any("ablation" in f.path for f in client.list_artifacts(summary.run_id, "images"))
    table = json.loads(mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/ablation.json"))
    assert "against_a" in table["columns"]
    assert len(table["data"]) == 5
    assert names.TAG_VERDICT in parent.data.tags


def test_every_arm_is_compared_with_a_on_the_same_windows(summary: AblationSummary) -> None:
    assert [str(row["experiment"])[0] for row in summary.rows] == list("ABCDE")
    for letter, comparison in summary.finding.comparisons.items():
        row = next(r for r in summary.rows if str(r["experiment"])[0] == letter)
        delta = comparison.deltas["log_loss"]
        assert comparison.num_windows == summary.num_windows
        assert row["delta_log_loss"] == delta.estimate
        assert row["delta_log_loss"] == pytest.approx(row["log_loss"] - summary.rows[0]["log_loss"])
        assert row["against_a"]
    assert summary.finding.identical == ()
    assert all(row["log_loss_seed_std"] > 0 for row in summary.rows)


def test_one_seed_has_no_spread() -> None:
    y, proba = np.array([0, 1]), np.array([[0.6, 0.4], [0.4, 0.6]])
    alone = SimpleNamespace(y=y, proba_by_seed=[proba])
    assert spread(alone) == {"log_loss": None, "brier": None, "accuracy": None}


def test_finished_trainings_are_reused(
    place: Path, encoder: Path, summary: AblationSummary
) -> None:
    steps: list[tuple[str, int, int]] = []
    again = ablate(
        base(encoder),
        seeds=(1, 2),
        gradual_after=1,
        only="AB",
        data_root=place / "data",
        progress=lambda task, done, total, note="": steps.append((task, done, total)),
    )
    assert steps == [("A baseline, no encoder", 4, 4), ("B frozen all along", 4, 4)]
    assert again.rows[1]["log_loss"] == summary.rows[1]["log_loss"]


def predictions(proba: np.ndarray) -> WalkForwardPredictions:
    y = np.arange(len(proba)) % 2
    return WalkForwardPredictions(
        rows=np.arange(len(proba)),
        y=y,
        proba=proba,
        proba_by_seed=proba[None],
        prior=np.full_like(proba, 0.5),
        load_report=None,
        proof=None,
    )


def test_identical_predictions_are_a_red_flag() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.2, 0.8, 60)
    first = np.column_stack([p, 1 - p])
    close = np.column_stack([0.9 * p + 0.05, 0.95 - 0.9 * p])
    close = np.where(first > 0.5, np.maximum(close, 0.51), np.minimum(close, 0.49))
    other = first[::-1]
    arms = {"A": first, "B": first + 1e-8 * np.array([1, -1]), "C": close, "D": other}
    found = judge_ablation({k: predictions(v) for k, v in arms.items()}, block_length=2)
    assert found.identical == (("A", "B"),)
    assert found.same_answers == (("A", "C"), ("B", "C"))
    assert found.flags()[0] == "A and B give identical predictions: no effect"
    assert found.conclusion("B").startswith("no effect: predictions identical")
    assert "log-loss" in found.conclusion("D")


def test_arms_of_one_schedule_are_no_red_flag(encoder: Path) -> None:
    """An encoder of one layer that is unfrozen layer by layer is unfrozen at once."""
    assert same_schedules(experiments(base(encoder, unfreeze_after=0), gradual_after=1)) == (
        ("C", "D"),
    )
    arms = experiments(base(encoder), gradual_after=base(encoder).unfreeze_after)
    alike = same_schedules(arms)
    assert alike == (("D", "E"),)
    assert same_schedules(arms[:4]) == ()
    p = np.random.default_rng(0).uniform(0.2, 0.8, 60)
    proba, other = np.column_stack([p, 1 - p]), np.column_stack([1 - p, p])
    of = {k: predictions(proba if k in "DE" else other) for k in "ADE"}
    assert judge_ablation(of, block_length=2).identical == (("D", "E"),)
    found = judge_ablation(of, block_length=2, same_schedule=alike)
    assert (found.identical, found.flags()) == ((), [])
    assert found.notes() == [
        "D and E freeze the same tensors at the same epochs: one arm under two names"
    ]


def test_what_cannot_be_ablated_is_refused(place: Path, encoder: Path) -> None:
    made = base(encoder)
    with pytest.raises(ConfigError, match="needs an encoder"):
        experiments(base(encoder, pretrained_encoder=None), gradual_after=1)
    for only in ("BCD", "A", "AX", "a"):
        with pytest.raises(ConfigError, match="A and at least one of B, C, D, E"):
            experiments(made, gradual_after=1, only=only)
    late = base(encoder, epochs=3, unfreeze_after=3)
    with pytest.raises(ConfigError, match=r"experiment D unfreezes after epoch 3, .* at most 2"):
        experiments(late, gradual_after=1)
    with pytest.raises(ConfigError, match=r"experiment E unfreezes after epoch 3, but .* epoch 3"):
        experiments(made, gradual_after=3)
    assert [e.letter for e in experiments(late, gradual_after=3, only="ABC")] == ["A", "B", "C"]
    for seeds in ((), (1, 1)):
        with pytest.raises(ConfigError, match="seeds is"):
            ablate(made, seeds=seeds, data_root=place / "data")


def test_an_encoder_that_saw_the_validation_bars_is_refused(place: Path, encoder: Path) -> None:
    leaky = place / "leaky"
    shutil.copytree(encoder, leaky)
    config = json.loads((leaky / "config.json").read_text())
    config["corpus"] |= {"last_bar": "2017-12-01T00:00:00.000000", "name": "unlabeled_windows/x"}
    (leaky / "config.json").write_text(json.dumps(config))
    with pytest.raises(AuditError, match="corpus"):
        ablate(base(leaky), seeds=(1,), gradual_after=1, data_root=place / "data")


def test_forensics_of_an_encoder_and_a_run_that_froze_it(place: Path, encoder: Path) -> None:
    frozen = finetune(base(encoder, freeze="frozen"), data_root=place / "data", register_as=None)
    trained = finetune(base(encoder), data_root=place / "data", register_as=None)
    found = forensics(str(encoder), frozen.run_id)
    assert found.findings()[0].startswith("all 8 encoder tensors are equal to the bit")
    assert "frozen all along" in found.findings()[0]
    moved = forensics(str(encoder), trained.run_id)
    assert moved.findings()[0].startswith("8 of 8 encoder tensors differ, by")
    assert moved.answers is None
    same = forensics(frozen.run_id, frozen.run_id)
    assert same.answers is not None
    assert same.answers.identical
    assert same.findings()[0].startswith("red flag: identical predictions on the")
    both = forensics(frozen.run_id[:12], f"runs:/{trained.run_id}")
    assert both.answers is not None
    assert not both.answers.identical
    with pytest.raises(CheckpointNotFound, match="cannot be read"):
        forensics("0" * 32, str(encoder))
    with pytest.raises(ConfigError, match="no run answers to 'abadcafe'"):
        forensics("abadcafe", str(encoder))
    with pytest.raises(CheckpointNotFound, match="does not exist"):
        forensics(str(encoder), "nowhere")
    other = DataStore(place / "data")
    other.build_set("labeled_windows/v9", WindowRecipe(**SHORT, step_bars=12, start="2017-05-01"))
    other.build_split("fwd_v9", SplitRecipe(labeled="labeled_windows/v9"))
    elsewhere = base(encoder, labeled="v9", split="fwd_v9")
    elsewhere_run = finetune(elsewhere, data_root=place / "data", register_as=None).run_id
    assert forensics(frozen.run_id, elsewhere_run).answers is None  # row 700 is another window
    (run,) = mlflow.search_runs(experiment_names=[names.EXPERIMENT_PRETRAIN], output_format="list")
    assert forensics(run.info.run_id, str(encoder)).findings()[0] == (
        "all 13 common tensors are equal to the bit"
    )


def test_answers_are_compared_on_common_windows_of_one_set() -> None:
    a = {("s", 1): np.array([0.4, 0.6]), ("s", 2): np.array([0.7, 0.3]), ("s", 9): np.ones(2)}
    b = {("s", 1): np.array([0.45, 0.55]), ("s", 2): np.array([0.9, 0.1])}
    found = compare_answers(a, b)
    assert found is not None
    assert (found.num_windows, found.identical, found.same_labels) == (2, False, True)
    assert found.largest_difference == pytest.approx(0.2)
    assert compare_answers(a, {}) is None
    assert compare_answers(a, {("s", 1): np.array([0.2, 0.3, 0.5])}) is None
    assert compare_answers(a, {("other", window): row for (_, window), row in a.items()}) is None


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def test_the_commands(
    encoder: Path, summary: AblationSummary, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("forensics", str(encoder), str(encoder), "--tensors") == 0
    out = capsys.readouterr().out
    assert "CHECKPOINT FORENSICS" in out
    assert "weight_hh_l0_reverse" in out
    assert command("forensics", str(encoder), str(encoder), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][0] == "all 13 common tensors are equal to the bit"
    options = ["--batch-size", "64", "--epochs", "3", "--unfreeze-after", "2", "--patience", "0"]
    options += ["--learning-rate", "0.003", "--gradual-after", "1", "--seeds", "1,2"]
    options += ["--pretrained-encoder", str(encoder), "--preset", "compact", "--device", "cpu"]
    assert command("ablate", *options) == 0
    assert "A baseline, no" in capsys.readouterr().out
    assert command("ablate", "--pretrained-encoder", "nowhere", "--epochs", "11") == 2
    assert "checkpoint nowhere does not exist" in capsys.readouterr().err
    assert command("ablate", "--seeds", "one") == 2
    assert "seeds is 'one'; expected whole numbers" in capsys.readouterr().err
