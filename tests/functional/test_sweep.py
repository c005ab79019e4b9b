"""A search on real data, in a real store: resumed, and honest about what it chose from."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from job_kit import short_project
from mlflow import MlflowClient

from moola.cli import main
from moola.config import names
from moola.config.sweep import parse_space
from moola.config.training import FinetuneConfig
from moola.steps.sweep import STUDIES, SweepSummary, sweep
from moola.training.launchers import Done, LocalLauncher

BASE = FinetuneConfig(
    preset="compact", epochs=2, batch_size=64, patience=0, learning_rate=3e-3, device="cpu"
)
SPACE = parse_space(["learning_rate=1e-4:1e-2:log", "dropout=0:0.5"], BASE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Path:
    """A project with short windows and two folds."""
    root: Path = tmp_path_factory.mktemp("sweep")
    short_project(root, template_db)
    return root


@pytest.fixture(autouse=True)
def _inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="the extra sweep is not installed")
    monkeypatch.chdir(place)
    mlflow.set_tracking_uri(f"sqlite:///{place}/mlflow.db")


def run_sweep(trials: int, **more: object) -> SweepSummary:
    return sweep(BASE, SPACE, trials=trials, seeds=(1,), **more)


def test_a_search_starts_from_its_base_goes_on_and_logs_every_trial() -> None:
    first = run_sweep(2)
    assert first.study.parent == STUDIES
    again = run_sweep(4)
    assert again.study == first.study
    assert {row["trial"] for row in first.rows} == {0, 1}
    assert [row for row in again.rows if row["trial"] < 2] == list(first.rows)
    assert len(again.rows) == 4
    losses = [row["log_loss"] for row in again.rows]
    assert losses == sorted(losses)
    start = next(row for row in again.rows if row["trial"] == 0)
    assert (start["learning_rate"], start["dropout"]) == (BASE.learning_rate, BASE.dropout)
    assert again.against_start["estimate"] == pytest.approx(losses[0] - start["log_loss"])
    assert again.best.learning_rate == again.rows[0]["learning_rate"]
    assert "4 configurations were tried" in again.warning

    client = MlflowClient()
    parent = client.get_run(again.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags[names.TAG_REASON] == again.warning
    assert parent.data.metrics["log_loss"] == pytest.approx(losses[0])
    course = client.get_metric_history(again.run_id, "best_so_far")
    assert [round(m.value, 9) for m in course][-1] == round(losses[0], 9)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{again.run_id}'"
    )
    assert len(children) == 4
    assert all(run.data.params["learning_rate"] for run in children)


finished: list[Done] = []


class DiesInTheSecondTrial(LocalLauncher):
    """Kills its process after three trainings: both folds of the first trial, one of the next."""

    def map(self, *work: Any) -> Iterator[Done]:
        for done in super().map(*work):
            yield done
            finished.append(done)
            if len(finished) == 3:
                os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_search_goes_on_with_the_configuration_it_was_at(place: Path) -> None:
    import optuna

    def begin() -> None:
        os.chdir(place)
        launcher = DiesInTheSecondTrial()
        run_sweep(9, studies=place / "killed", cache=place / "killed-cache", launcher=launcher)

    process = multiprocessing.get_context("fork").Process(target=begin)
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL
    storage = f"sqlite:///{next((place / 'killed').glob('*.db'))}"
    before = optuna.load_study(study_name=None, storage=storage).trials
    (left,) = [t.params for t in before if t.state == optuna.trial.TrialState.RUNNING]
    summary = run_sweep(4, studies=place / "killed", cache=place / "killed-cache")
    assert len(summary.rows) == 4
    assert any({k: row[k] for k in left} == left for row in summary.rows)


def test_the_command_prints_how_to_train_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "sweep", "--space", "learning_rate=1e-3,3e-3", "--set", "preset=compact", "--set",
        "epochs=1", "--set", "patience=0", "--trials", "2", "--seeds", "1", "--device", "cpu",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main([*words, "--json"])
    assert stop.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 2
    assert found["train"].startswith("moola train --preset compact --epochs 1 --learning-rate 0.00")
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "Best less start" in shown
    assert "moola train --preset compact" in shown
    with pytest.raises(SystemExit) as stop:
        main([*words[:2], "seed=1,2"])
    assert stop.value.code == 2
