"""What every test shares: quiet threads, a template store, the default sets built once."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported anywhere
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "RUNPOD_POD_ID"):
    os.environ.pop(name, None)

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

# `pytest --hypothesis-profile thorough` looks for longer
settings.register_profile("moola", deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=3000)
settings.load_profile("moola")


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What MLflow downloads for a test, and leaves there, pytest clears up."""
    tempfile.tempdir = str(tmp_path_factory.mktemp("temporary"))
    yield
    tempfile.tempdir = None


@pytest.fixture(scope="module", autouse=True)
def no_experiment_is_left() -> Iterator[None]:
    """MLflow keeps the last `set_experiment`, and the next module would log there."""
    yield
    if (fluent := sys.modules.get("mlflow.tracking.fluent")) is not None:
        fluent._active_experiment_id = None
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default window sets and splits, built once from the bars that ship."""
    from moola.data.store.data_store import DataStore

    root = tmp_path_factory.mktemp("registry") / "data"
    shutil.copytree(REPOSITORY / "data" / "bars", root / "bars")
    DataStore(root).build()
    return root


@pytest.fixture(scope="session")
def template_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; a copy of it is a fresh store at no cost."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def project(
    tmp_path: Path, template_db: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty project folder as working directory, with a store and the default sets."""
    import mlflow

    shutil.copy(template_db, tmp_path / "mlflow.db")
    (tmp_path / "data").symlink_to(data_root)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


@pytest.fixture
def gates_as_before() -> Iterator[None]:
    """Take out again what a test adds to the gates."""
    from moola.config.gates import GATES, KNOWN
    from moola.judging.gate_inputs import RUNS

    before = dict(GATES), dict(RUNS), list(KNOWN)
    yield
    for known, kept in zip((GATES, RUNS), before, strict=False):
        known.clear()
        known.update(kept)
    KNOWN[:] = before[2]
