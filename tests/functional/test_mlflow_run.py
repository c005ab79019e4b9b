"""``mlflow run``: one run in the store each, joined, ended with a status and a reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from job_kit import SHORT, short_project
from mlflow import MlflowClient

from moola.config import names
from moola.config.data import SplitRecipe, WindowRecipe

PROJECT_FILES = ("MLproject", "conda", "python_env.yaml", "conda.yaml", "constraints.txt", "src")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, repository: Path, template_db: Path) -> Path:
    """A copy of the project with sets of short windows and an empty store."""
    folder: Path = tmp_path_factory.mktemp("checkout")
    for name in PROJECT_FILES:
        copy = shutil.copytree if (repository / name).is_dir() else shutil.copy
        copy(repository / name, folder / name)
    registry = short_project(folder, template_db)
    corpus = WindowRecipe(**SHORT, step_bars=6, label="none", end="2017-05-01")
    registry.build_set("unlabeled_windows/v1", corpus)
    registry.build_split("fwd_chain_v3", SplitRecipe(labeled="labeled_windows/v1"))
    return folder


def mlflow_run(
    checkout: Path, entry: str, *, project: str = ".", **parameters: str
) -> subprocess.CompletedProcess[str]:
    words = [f"-P{k}={v}" for k, v in parameters.items()]
    binaries = Path(sys.executable).parent
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mlflow",
            "run",
            project,
            "-e",
            entry,
            "--env-manager",
            "local",
            *words,
        ],
        cwd=checkout,
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{checkout}/mlflow.db",
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def newest(checkout: Path) -> tuple[object, int]:
    client = MlflowClient(f"sqlite:///{checkout}/mlflow.db")
    runs = client.search_runs(["0"], order_by=["attributes.start_time DESC"])
    top = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    return top[0], len(top)


def test_pretrain_finetune_evaluate_join_their_runs(checkout: Path) -> None:
    small = {"device": "cpu", "epochs": "1", "hidden_dim": "32", "num_layers": "1"}
    done = mlflow_run(checkout, "pretrain", **small, windows_per_epoch="64", batch_size="64")
    assert done.returncode == 0, done.stderr
    run, before = newest(checkout)
    assert run.info.status == "FINISHED"
    assert run.data.tags[names.TAG_STEP] == "pretrain"
    assert run.data.params["epochs"] == "1"

    tiny = {"device": "cpu", "preset": "compact", "epochs": "2", "unfreeze_after": "1"}
    done = mlflow_run(checkout, "finetune", **tiny, patience="0")
    assert done.returncode == 0, done.stderr
    run, after = newest(checkout)
    assert after == before + 1
    assert run.info.status == "FINISHED"
    assert run.data.tags[names.TAG_CANDIDATE] == f"{names.REGISTERED_MODEL}/1"

    done = mlflow_run(checkout, "evaluate", device="cpu", seeds="17")
    assert done.returncode == 0, done.stderr
    run, last = newest(checkout)
    assert last == after + 1
    assert run.info.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{checkout}/mlflow.db")
    children = client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert len(children) == 8

    done = mlflow_run(checkout, "promote")
    assert done.returncode == 1
    run, _ = newest(checkout)
    assert run.info.status == "FAILED"
    assert "not promoted" in run.data.tags[names.TAG_REASON]


@pytest.mark.parametrize(
    ("entry", "parameters", "reason"),
    [
        ("pretrain", {"x": "1"}, "No such option: --x. The nearest is --"),
        ("pretrain", {"epochs": "abc"}, "--epochs is 'abc'"),
        ("pretrain", {"learning_rate": "fast"}, "--learning-rate is 'fast'"),
        ("finetune", {"split": "random"}, "split is 'random'"),
        pytest.param(
            "pretrain", {"device": "cuda"}, "no GPU",
            marks=pytest.mark.skipif(
                "__import__('torch').cuda.is_available()", reason="this machine has a GPU"
            ),
        ),
    ],
)  # fmt: skip
def test_a_refused_run_ends_failed_with_the_reason(
    checkout: Path, entry: str, parameters: dict[str, str], reason: str
) -> None:
    # One of them through the project of conda, whose commands are the same.
    project = "conda" if entry == "finetune" else "."
    done = mlflow_run(checkout, entry, project=project, **parameters)
    assert done.returncode != 0
    run, _ = newest(checkout)
    assert run.info.status == "FAILED"
    assert reason in run.data.tags[names.TAG_REASON]
    assert run.data.tags[names.TAG_STEP] == entry
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
