"""Runs read back from the store: found wherever they stand, and a failure is said first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from job_kit import TINY
from mlflow import MlflowClient

from moola.cli.app import _run
from moola.config import names
from moola.errors import ConfigError, TrackingError
from moola.steps.finetune import finetune
from moola.steps.pages import gate_pages
from moola.steps.runs import list_runs, read_run
from moola.tracking.mlflow_run import child_run, tracked_run


def test_runs_are_found_in_any_experiment_and_by_the_beginning_of_their_id(
    project: Path,
) -> None:
    with tracked_run(step="study", experiment="my-study", name="first", params={}) as run:
        pass
    for k in range(3):
        with tracked_run(step="drift", experiment="e", name=f"later-{k}", params={}):
            pass
    assert [r.name for r in list_runs()] == ["later-2", "later-1", "later-0", "first"]
    assert read_run(run.run_id[:8]).name == "first"
    assert read_run("first").run_id == run.run_id
    for nobody in ("nobody's", "f" * 31, "4%"):
        with pytest.raises(ConfigError, match=f"no run answers to .{nobody}"):
            read_run(nobody)
    with tracked_run(step="study", experiment="e", name="first", params={}):
        pass
    with pytest.raises(ConfigError, match="2 runs answer"):
        read_run("first")


def test_the_gates_of_an_evaluation_that_joined_a_run_elsewhere_are_found(project: Path) -> None:
    with pytest.raises(ConfigError, match="no finished evaluation"):
        gate_pages()
    opened = tracked_run(step="evaluate", experiment="Default", name="gates", params={})
    with opened as run, child_run(run, "gate-0", tags={names.TAG_GATE: 0}, metrics={}) as child:
        run.set_tags({names.TAG_CANDIDATE: "EnhancedSimpleLSTM/1"})
    pages = dict(gate_pages())
    assert "/experiments/0/" in pages["verdict table"]
    assert child.run_id in pages["gates of EnhancedSimpleLSTM/1"]


@pytest.mark.medium
def test_a_training_that_failed_says_so_first(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object) -> None:
        raise TrackingError("the registry is away")

    monkeypatch.setattr("moola.steps.finetune.register", away)
    with pytest.raises(TrackingError):
        finetune(replace(TINY, epochs=1, unfreeze_after=0))
    (failed,) = MlflowClient().search_runs(
        [e.experiment_id for e in mlflow.search_experiments()], "attributes.status = 'FAILED'"
    )
    assert _run(["show", failed.info.run_id]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("FAILED: the registry is away")
    assert "MOOLA TRAINING RUN" in shown
