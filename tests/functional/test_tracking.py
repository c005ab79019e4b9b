"""Runs end with a status and a reason, whatever happens; lineage can be read back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from moola.config import names
from moola.errors import ConfigError, DataError, TrackingError
from moola.tracking.context import MoolaContext
from moola.tracking.lineage import GitState, dataset_input, git_state, run_name
from moola.tracking.mlflow_run import child_run, tracked_run
from moola.tracking.spool import left_spools
from moola.tracking.store import artifact_location, connect, experiment_id

OPEN = {"step": "test", "experiment": "moola-test", "params": {"a": 1}}


def only_run() -> object:
    client = MlflowClient()
    experiment = client.get_experiment_by_name("moola-test")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1
    return runs[0]


def test_a_finished_run_holds_everything_logged(project: Path) -> None:
    with tracked_run(name="whole", **OPEN) as run:
        run.log_metrics({"accuracy": 0.5, "roc_auc": None})
        run.log_history([{"epoch": e, "loss": 1.0 / (e + 1)} for e in range(1500)])
        run.log_json("a/b.json", {"x": [1, 2]})
        run.log_image("picture", np.zeros((4, 5, 3), dtype=np.uint8))
        run.set_tags({"moola.x": "y"})
    found = only_run()
    assert found.info.status == "FINISHED"
    assert found.data.params["a"] == "1"
    assert found.data.metrics["accuracy"] == 0.5
    assert "roc_auc" not in found.data.metrics  # undefined is left out, not written as 0
    client = MlflowClient()
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(e, 1.0 / (e + 1)) for e in range(1500)]
    paths = {f.path for f in client.list_artifacts(found.info.run_id)}
    assert {"a", "environment.json", "images"} <= paths


def test_a_failed_run_says_why(project: Path) -> None:
    def work() -> None:
        with tracked_run(name="bad", **OPEN) as run:
            run.log_json("partial.json", {})
            raise DataError("bars are missing", remedy="Bring them")

    with pytest.raises(DataError):
        work()
    found = only_run()
    assert found.info.status == "FAILED"
    assert found.data.tags[names.TAG_REASON] == "bars are missing. Bring them."
    paths = {f.path for f in MlflowClient().list_artifacts(found.info.run_id)}
    assert "partial.json" in paths  # what was made before the failure is kept
    assert "traceback.txt" not in paths  # a deliberate error needs none


def test_a_bug_leaves_its_traceback(project: Path) -> None:
    with pytest.raises(ZeroDivisionError), tracked_run(name="bug", **OPEN):
        1 / 0  # noqa: B018
    found = only_run()
    assert found.info.status == "FAILED"
    path = MlflowClient().download_artifacts(found.info.run_id, "traceback.txt")
    assert "ZeroDivisionError" in Path(path).read_text()


def test_ctrl_c_ends_the_run_killed(project: Path) -> None:
    with pytest.raises(KeyboardInterrupt), tracked_run(name="stop", **OPEN):
        raise KeyboardInterrupt
    assert only_run().info.status == "KILLED"
    assert mlflow.active_run() is None


def test_sigterm_ends_the_run_killed(project: Path) -> None:
    code = textwrap.dedent(
        """
        import signal
        from moola.tracking.mlflow_run import tracked_run
        with tracked_run(step="test", experiment="moola-test", name="term", params={}):
            print("open", flush=True)
            signal.pause()
        """
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environment, cwd=project,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "open"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) != 0
    found = only_run()
    assert found.info.status == "KILLED"
    assert found.data.tags[names.TAG_REASON] == "stopped by Terminated"


def test_a_child_run_hangs_below_its_parent(project: Path) -> None:
    with (
        tracked_run(name="parent", **OPEN) as parent,
        child_run(
            parent, "gate-1", tags={names.TAG_GATE: 1}, metrics={"delta": -0.1, "odd": None}
        ) as child,
    ):
        child.log_json("x.json", {})
    client = MlflowClient()
    below = client.get_run(child.run_id)
    assert below.data.tags["mlflow.parentRunId"] == parent.run_id
    assert below.info.experiment_id == client.get_run(parent.run_id).info.experiment_id
    assert below.info.status == "FINISHED"
    assert below.data.metrics == {"delta": -0.1}


def test_our_digest_sees_every_byte(project: Path) -> None:
    data = dataset_input(
        name="labeled_windows/v1", sha256="ab" * 32, source="bars/x", context="train",
        shape=(10, 105, 4),
    )  # fmt: skip
    with tracked_run(name="inputs", **OPEN) as run:
        run.log_inputs([data])
    found = only_run().inputs.dataset_inputs[0]
    assert found.dataset.digest == ("ab" * 32)[:36]
    tags = {t.key: t.value for t in found.tags}
    assert tags == {"mlflow.data.context": "train", "moola.sha256": "ab" * 32}


def test_a_dirty_tree_is_recorded(tmp_path: Path) -> None:
    def git(*args: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", *who, *args], cwd=tmp_path, check=True, capture_output=True)

    assert git_state(tmp_path).commit is None
    git("init", "-q")
    (tmp_path / "a.txt").write_text("1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = git_state(tmp_path)
    assert not clean.dirty
    assert clean.short == clean.commit[:7]
    (tmp_path / "a.txt").write_text("2\n")
    dirty = git_state(tmp_path)
    assert dirty.dirty
    assert dirty.short.endswith("+")
    assert "+2" in dirty.diff
    name = run_name("m", "labeled_windows/v1", "splits/fwd_chain_v3.json", 3, dirty)
    assert name == f"m-v1-fwd_chain_v3-s3-{dirty.commit[:7]}+"
    (tmp_path / "a.txt").write_bytes(b"\xff\n")  # no UTF-8
    assert "+\ufffd" in git_state(tmp_path).diff
    (tmp_path / ".git" / "index").write_bytes(b"damaged")
    unknown = git_state(tmp_path)
    assert unknown.dirty
    assert "what was changed is not known" in unknown.diff
    assert GitState(commit=None, branch=None, dirty=False, diff="").short == "nogit"


def test_experiments_keep_their_files_in_the_project(project: Path) -> None:
    client = connect()
    location = artifact_location(mlflow.get_tracking_uri(), "moola-x")
    first, again = (experiment_id(client, "moola-x", location) for _ in range(2))
    assert first == again
    location = client.get_experiment(first).artifact_location
    assert location == (project / names.ARTIFACT_ROOT / "moola-x").as_uri()


@pytest.mark.parametrize(
    "uri",
    ["http://127.0.0.1:9", "http://me:s3cret@127.0.0.1:9", "file:///nowhere/runs", "nonsense://x"],
)
def test_an_unusable_store_is_one_error(project: Path, uri: str) -> None:
    with pytest.raises(TrackingError) as caught:
        connect(uri)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")


def test_what_does_not_speak_http_is_one_error(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"220 mail.example ESMTP\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(TrackingError, match=r"cannot be reached: 220 mail\.example"):
            connect(f"http://127.0.0.1:{server.getsockname()[1]}")
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")


def test_a_killed_process_leaves_a_run_that_the_next_one_ends(project: Path) -> None:
    code = textwrap.dedent(
        """
        import os
        from moola.tracking.mlflow_run import tracked_run
        with tracked_run(step="test", experiment="moola-test", name="gone", params={}) as run:
            run.log_metrics({"loss": 0.5})
            os.kill(os.getpid(), 9)
        """
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db"}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=project, check=False)
    with tracked_run(name="next", **OPEN):
        pass
    client = MlflowClient()
    experiment = client.get_experiment_by_name("moola-test")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert runs["gone"].info.status == "FAILED"
    assert runs["gone"].data.tags[names.TAG_REASON] == "the process ended without a word"
    assert runs["gone"].data.metrics == {"loss": 0.5}
    assert runs["next"].info.status == "FINISHED"


def test_what_the_store_refuses_fails_the_run_with_the_reason(project: Path) -> None:
    def work() -> None:
        with tracked_run(name="refused", **OPEN) as run:
            run.set_tags({"what?": 1})
            run.log_metrics({"loss": 0.5})

    with pytest.raises(TrackingError, match="Invalid value"):
        work()
    found = only_run()
    assert found.info.status == "FAILED"
    assert "Invalid value" in found.data.tags[names.TAG_REASON]


def test_a_training_goes_on_without_its_server(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from job_kit import TINY

    from moola.cli.app import _run
    from moola.steps.finetune import finetune

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="registering the model needs the tracking store"):
        finetune(TINY)
    assert len(left_spools()) == 1
    assert _run(["sync"]) == 1
    assert "entries wait" in capsys.readouterr().err
    # the server's address was wrong, say: the same spool, sent to the right one
    (folder,) = left_spools()
    (folder / "store.json").write_text(f'{{"store": "sqlite:///{project}/mlflow.db"}}')
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    assert _run(["sync"]) == 0
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name(names.EXPERIMENT_FINETUNE)
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FAILED"
    assert len(client.get_metric_history(found.info.run_id, "train_loss")) == TINY.epochs
    paths = {f.path for f in client.list_artifacts(found.info.run_id)}
    assert {"audit", "split", "freeze", "calibration", "manifest.json"} <= paths
    with pytest.raises(ConfigError, match="is the state of another run"):
        finetune(replace(TINY, seed=18), resume=True)
    summary = finetune(TINY, resume=True)  # registers, and trains nothing again
    assert summary.version == "1"
    assert summary.result.resumed_at == TINY.epochs


def test_a_run_is_active_whatever_experiment_a_notebook_has_set(project: Path) -> None:
    elsewhere = mlflow.set_experiment("my own").experiment_id
    try:
        with tracked_run(name="active", **OPEN) as run, run.active():
            assert mlflow.active_run().info.run_id == run.run_id
        with mlflow.start_run() as own:
            assert own.info.experiment_id == elsewhere
    finally:
        mlflow.set_experiment(experiment_id="0")
    assert only_run().info.status == "FINISHED"


def test_a_plain_run_in_a_project_says_what_data_is_there(project: Path, data_root: Path) -> None:
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0)
    tags = MlflowClient().get_run(run.info.run_id).data.tags
    manifest = json.loads((data_root / "labeled_windows/v1/manifest.json").read_text())
    assert f"labeled_windows/v1@{manifest['sha256'][:12]}" in tags[names.TAG_SETS]
    assert "fwd_chain_v3@" in tags[names.TAG_SPLITS]
    assert tags[names.TAG_GIT_DIRTY] in ("true", "false")


def test_outside_a_project_a_plain_run_gets_no_such_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not MoolaContext().in_context()
    (tmp_path / ".moola").mkdir()
    assert MoolaContext().in_context()


def test_the_newest_run_is_found_behind_its_children(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search has a child run a configuration, all younger than itself."""
    from moola.steps import runs

    monkeypatch.setattr(runs, "_PAGE_RUNS", 5)
    tags = {names.TAG_STEP: "sweep"}
    for step, experiment in (("drift", "MONITORING"), ("sweep", "FINETUNE")):
        opened = tracked_run(
            step=step, experiment=getattr(names, f"EXPERIMENT_{experiment}"), name=step, params={}
        )
        with opened as run:
            for k in range(12 if step == "sweep" else 0):
                with child_run(run, f"trial-{k}", tags=tags, metrics={}):
                    pass
    assert [run.name for run in runs.list_runs(num=5)] == ["sweep", "drift"]
    assert runs.read_run("newest").name == "sweep"
    assert len(runs.read_run("newest").children) == 12
    assert [run.name for run in runs.list_runs(step="drift")] == ["drift"]
