"""The guarded server on PostgreSQL, and every attack on every database and way of log-in."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import mlflow
import pytest
from guard_attacks import ATTACKS, attempt, must_be_refused
from guard_server import PASSWORD, USER, running
from guard_world import POLICY, World
from mlflow.entities import Dataset, DatasetInput
from mlflow.exceptions import MlflowException
from promotion_kit import NAME
from services import s3_store

import moola
from moola.promotion.ledger.local import LocalLedger

pytestmark = pytest.mark.usefixtures("quick_client")


# Attacks that every database and every way of log-in has to withstand.
ESSENTIAL = (
    "stage Production by api",
    "alias PRODUCTION by ajax-api",
    "alias by client",
    "evidence of another version",
    "evidence by a stranger",
    "verdict changed after signing",
    "compared with no champion",
    "files changed after signing",
    "champion spelled 01 to Archived",
    "rename",
    "delete the model",
    "PUT file with %252f by api",
    "DELETE file by ajax-api",
    "batch on the run",
    "artifact_location file:///etc",
    "ledger: a promotion",
)


@pytest.mark.slow
@pytest.mark.parametrize("auth", [False, True], ids=["open", "log-in"])
@pytest.mark.parametrize("files", ["local", "s3"])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_every_attack_everywhere(
    database: str,
    files: str,
    auth: bool,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    backend = request.getfixturevalue("postgres") if database == "postgresql" else None
    with ExitStack() as stack:
        env = stack.enter_context(s3_store(tmp_path / "s3")) if files == "s3" else None
        where = {"artifacts": env["MOOLA_BUCKET"], "more_env": env} if env else {}
        how = {"backend": backend, "policy": POLICY, "auth": auth, **where}
        world = World(stack.enter_context(running(tmp_path, **how)))
        stack.callback(world.engine.dispose)
        for name in ATTACKS:
            must_be_refused(world, name)
        assert world.promote("2").champion_before == "1"
        world.ledger.verify_chain()


def test_on_postgresql(tmp_path: Path, postgres: str) -> None:
    with running(tmp_path, backend=postgres, policy=POLICY) as server:
        world = World(server)
        for name in ESSENTIAL:
            attempt(world, name)
        assert world.state() == world.before
        assert world.promote("2").champion_before == "1"
        ledger = LocalLedger(postgres)
        ledger.verify_chain()
        assert ledger.champion_at(NAME) == "2"
        import sqlalchemy as sa

        for change in ("UPDATE moola_ledger SET who='x'", "TRUNCATE moola_ledger"):
            direct = world.engine.connect()
            with direct, pytest.raises(sa.exc.DBAPIError, match="append"):
                direct.execute(sa.text(change))
        world.engine.dispose()


@pytest.mark.slow
def test_a_newer_mlflow_is_closed_where_it_is_new(template_db: Path, tmp_path: Path) -> None:
    """The newest MLflow that pip finds, over the dependencies of the installed one."""
    newer = tmp_path / "newer"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(newer)]
    done = subprocess.run(
        [*pip, "--upgrade", "mlflow"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no newer MLflow can be installed: {done.stderr[-200:]}")
    version = next(newer.glob("mlflow-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    if version == mlflow.__version__:
        pytest.skip(f"MLflow {version} is the newest")
    path = os.pathsep.join(
        [str(newer), str(tmp_path / "site"), str(Path(moola.__file__).parents[1])]
    )
    backend = f"sqlite:///{tmp_path}/mlflow.db"  # its own schema, so no copy of the template
    with running(tmp_path, backend=backend, policy=POLICY, more_env={"PYTHONPATH": path}) as server:
        said = server.send("GET", "/version")[1]
        assert said == version
        world = World(server)
        for name in ESSENTIAL:
            attempt(world, name)
        assert world.state() == world.before
        assert world.promote("2").champion_before == "1"
        log = (tmp_path / "server.log").read_text()
        assert "does not know; they stay closed" in log
        unknown = log.split("they stay closed: ")[1].splitlines()[0].split(", ")
        routes = [name.split(" ") for name in unknown if " /" in name]
        for method, route in routes:
            path = route.replace("{}", "x")
            both = (path, path.replace("/api/", "/ajax-api/", 1))  # it may be there under one only
            answers = [server.send(method, spelled, {}) for spelled in both]
            assert {status for status, _ in answers} <= {403, 404}, (method, route, answers)
            assert any("so it is closed" in text for _, text in answers), (method, route, answers)
        world.engine.dispose()


def test_clients_that_log_a_new_data_set_in_the_same_moment_all_succeed(
    tmp_path: Path, postgres: str
) -> None:
    with running(tmp_path, backend=postgres) as server:
        client = server.client()
        experiment = client.create_experiment("race")

        def log(number: int) -> str:
            run_id = client.create_run(experiment).info.run_id
            for digest in range(40):
                ready.wait()
                dataset = Dataset(f"d{digest}", "0" * 36, "local", "{}")
                try:
                    client.log_inputs(run_id, [DatasetInput(dataset)])
                except MlflowException:
                    ready.abort()
                    raise
            return run_id

        ready = threading.Barrier(4, timeout=60)
        with ThreadPoolExecutor(4) as pool:
            run_ids = list(pool.map(log, range(4)))
        for run_id in run_ids:
            logged = {i.dataset.name for i in client.get_run(run_id).inputs.dataset_inputs}
            assert logged == {f"d{digest}" for digest in range(40)}
