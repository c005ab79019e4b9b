"""Flows of a user who logs, registers, loads and deletes models that nobody guards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from flows_kit import Flow, User

FLOWS: dict[str, Flow] = {}


def flow(function: Flow) -> Flow:
    """Enter a function as a flow under its name."""
    FLOWS[function.__name__.replace("_", " ")] = function
    return function


def version_of(user: User, name: str, experiment: str) -> str:
    """Register a small folder as a version of a model and return its source."""
    c, run = user.client, user.run(experiment)
    user.call(f"file of {run[:0]}{len(user.outcomes)}", c.log_text, run, "w", "model/weights.txt")
    source = f"{c.get_run(run).info.artifact_uri}/model"
    user.call(f"version {len(user.outcomes)}", c.create_model_version, name, source, run)
    return source


def small_model() -> Any:
    """Return a fitted estimator."""
    from sklearn.linear_model import LogisticRegression

    X = pd.DataFrame(np.arange(8.0).reshape(4, 2), columns=["a", "b"])
    return LogisticRegression().fit(X, [0, 0, 1, 1])


@flow
def the_life_of_a_registered_model(user: User) -> None:
    c = user.client
    user.call("create", c.create_registered_model, "free", {"a": "1"}, "words")
    user.fails("create again", c.create_registered_model, "free")
    user.call("describe", c.update_registered_model, "free", "other words")
    user.call("tag", c.set_registered_model_tag, "free", "team", "b")
    user.call("untag", c.delete_registered_model_tag, "free", "a")
    user.call("get", c.get_registered_model, "free")
    user.call("search", c.search_registered_models, "name LIKE 'fre%'")
    user.call("rename", c.rename_registered_model, "free", "free 2")
    user.fails("get by the old name", c.get_registered_model, "free")
    user.call("delete", c.delete_registered_model, "free 2")
    user.fails("delete again", c.delete_registered_model, "free 2")
    user.fails("get missing", c.get_registered_model, "never")


@flow
def the_life_of_a_version(user: User) -> None:
    c, experiment = user.client, user.experiment("versions")
    user.call("create", c.create_registered_model, "versions")
    for _ in range(3):
        version_of(user, "versions", experiment)
    user.call("describe", c.update_model_version, "versions", "1", "first")
    user.call("tag", c.set_model_version_tag, "versions", "1", "k", "v")
    user.call("untag", c.delete_model_version_tag, "versions", "1", "k")
    user.call("get", c.get_model_version, "versions", "1")
    user.call("download address", c.get_model_version_download_uri, "versions", "1")
    user.call("stages", c.get_model_version_stages, "versions", "1")
    user.call("search", c.search_model_versions, "name='versions'", order_by=["version_number ASC"])
    user.call("page", lambda: len(c.search_model_versions("name='versions'", max_results=2)))
    user.call("delete", c.delete_model_version, "versions", "2")
    user.fails("get deleted", c.get_model_version, "versions", "2")
    user.fails("delete missing", c.delete_model_version, "versions", "99")
    user.call("delete the model", c.delete_registered_model, "versions")


@flow
def free_stages(user: User) -> None:
    c, experiment = user.client, user.experiment("stages")
    user.call("create", c.create_registered_model, "staged")
    for _ in range(2):
        version_of(user, "staged", experiment)
    for stage in ("Staging", "Archived", "None"):
        user.call(stage, c.transition_model_version_stage, "staged", "1", stage)
    user.call("Staging of the other", c.transition_model_version_stage, "staged", "2", "staging")
    user.call("latest", c.get_latest_versions, "staged", ["Staging", "None"])
    user.fails("no stage", c.transition_model_version_stage, "staged", "1", "Somewhere")


@flow
def production_of_a_model_of_ones_own(user: User) -> None:
    c, experiment = user.client, user.experiment("own production")
    user.call("create", c.create_registered_model, "mine")
    for _ in range(2):
        version_of(user, "mine", experiment)
    user.call("Production", c.transition_model_version_stage, "mine", "1", "Production")
    user.call(
        "Production of the next",
        lambda: c.transition_model_version_stage(
            "mine", "2", "Production", archive_existing_versions=True
        ),
    )
    user.call("alias production", c.set_registered_model_alias, "mine", "production", "2")
    user.call("latest", lambda: c.get_latest_versions("mine", ["Production"])[0].version)
    user.call("delete alias production", c.delete_registered_model_alias, "mine", "production")
    user.call("Archived", c.transition_model_version_stage, "mine", "2", "Archived")
    user.call("delete the version", c.delete_model_version, "mine", "2")
    user.call("rename", c.rename_registered_model, "mine", "mine 2")
    user.call("delete the model", c.delete_registered_model, "mine 2")


@flow
def free_aliases(user: User) -> None:
    c, experiment = user.client, user.experiment("aliases")
    user.call("create", c.create_registered_model, "aliased")
    for _ in range(2):
        version_of(user, "aliased", experiment)
    for alias in ("champion", "prod", "production-2"):
        user.call(f"set {alias}", c.set_registered_model_alias, "aliased", alias, "1")
    user.call("move", c.set_registered_model_alias, "aliased", "champion", "2")
    user.call("get by alias", c.get_model_version_by_alias, "aliased", "champion")
    user.call("all", lambda: c.get_registered_model("aliased").aliases)
    user.call("delete", c.delete_registered_model_alias, "aliased", "champion")
    user.fails("get deleted", c.get_model_version_by_alias, "aliased", "champion")
    user.fails("of no version", c.set_registered_model_alias, "aliased", "x", "9")


@flow
def a_sklearn_model_from_log_to_load(user: User) -> None:
    c, experiment = user.client, user.experiment("sklearn")
    X = pd.DataFrame(np.arange(4.0).reshape(2, 2), columns=["a", "b"])

    def log() -> dict:
        with mlflow.start_run(experiment_id=experiment):
            info = mlflow.sklearn.log_model(
                small_model(), name="net", registered_model_name="sk", pip_requirements=[],
                input_example=X,
            )  # fmt: skip
            mlflow.log_metric("acc", 1.0, model_id=info.model_id)
        return {"version": info.registered_model_version, "id": info.model_id}

    made = user.call("log and register", log)
    user.call("version", c.get_model_version, "sk", "1")
    user.call("alias", c.set_registered_model_alias, "sk", "best", "1")
    for address in (
        f"models:/{made['id']}",
        "models:/sk/1",
        "models:/sk@best",
        "models:/sk/latest",
    ):
        name = normal_address(address)
        user.call(f"predict by {name}", lambda a=address: mlflow.pyfunc.load_model(a).predict(X))
    user.call("as sklearn", lambda: mlflow.sklearn.load_model("models:/sk/1").coef_.shape)
    user.call(
        "download",
        lambda: sorted(
            p.name
            for p in Path(
                mlflow.artifacts.download_artifacts(
                    "models:/sk/1", dst_path=str(user.folder / "sk")
                )
            ).iterdir()
        ),
    )
    user.call("logged model", lambda: c.get_logged_model(made["id"]).metrics)
    user.call("what MLflow knows", lambda: mlflow.models.get_model_info("models:/sk/1").flavors)
    user.call("copy", c.copy_model_version, "models:/sk/1", "sk copy")
    user.call("load the copy", lambda: mlflow.pyfunc.load_model("models:/sk copy/1").predict(X))
    user.call("delete the copy", c.delete_registered_model, "sk copy")
    user.call("delete the version", c.delete_model_version, "sk", "1")
    user.call("delete the model", c.delete_registered_model, "sk")


def normal_address(address: str) -> str:
    """Return an address without the id in it."""
    return "models:/<id>" if address.startswith("models:/m-") else address


@flow
def registering_by_address(user: User) -> None:
    c, experiment = user.client, user.experiment("register")

    def log() -> str:
        with mlflow.start_run(experiment_id=experiment) as run:
            info = mlflow.sklearn.log_model(small_model(), name="net", pip_requirements=[])
        run_ids.append(run.info.run_id)
        return str(info.model_id)

    run_ids: list[str] = []
    model_id = user.call("log", log)
    user.call("register a logged model", mlflow.register_model, f"models:/{model_id}", "reg")
    user.call(
        "register of a run",
        mlflow.register_model,
        f"runs:/{run_ids[0]}/net",
        "reg",
        tags={"a": "1"},
    )
    user.call("both", lambda: [v.source for v in c.search_model_versions("name='reg'")])
    user.call("tags of the logged model", lambda: sorted(c.get_logged_model(model_id).tags))


@flow
def the_life_of_a_logged_model(user: User) -> None:
    c, experiment = user.client, user.experiment("logged")
    run = user.run(experiment)
    made = user.call(
        "create", c.create_logged_model, experiment, "lm", run, {"a": "1"}, {"p": "2"}, "agent"
    )
    files = user.folder / "lm"
    files.mkdir()
    (files / "w.txt").write_text("w")
    user.call("files", c.log_model_artifacts, made.model_id, str(files))
    user.call("params", c.log_model_params, made.model_id, {"q": "3"})
    user.call("finalize", c.finalize_logged_model, made.model_id, "READY")
    user.call("tags", c.set_logged_model_tags, made.model_id, {"b": "2"})
    user.call("untag", c.delete_logged_model_tag, made.model_id, "a")
    user.call("metric", c.log_metric, run, "acc", 0.5, model_id=made.model_id)
    user.call("get", c.get_logged_model, made.model_id)
    user.call("search", c.search_logged_models, [experiment], "params.q = '3'")
    user.call("list files", c.list_logged_model_artifacts, made.model_id)
    user.ask(
        "the page's list",
        "GET",
        f"/ajax-api/2.0/mlflow/logged-models/{made.model_id}/artifacts/directories",
    )
    user.ask(
        "the page's file",
        "GET",
        f"/ajax-api/2.0/mlflow/logged-models/{made.model_id}/artifacts/files"
        "?artifact_file_path=w.txt",
    )
    user.call("delete", c.delete_logged_model, made.model_id)
    user.fails("get deleted", c.get_logged_model, made.model_id)


@flow
def models_that_a_run_reads_and_makes(user: User) -> None:
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    c, experiment = user.client, user.experiment("in and out")
    run, other = user.run(experiment), user.run(experiment)
    made = user.call("create", c.create_logged_model, experiment, "io", run)
    user.call("finalize", c.finalize_logged_model, made.model_id, "READY")
    user.call("output", c.log_outputs, run, [LoggedModelOutput(made.model_id, step=1)])
    user.call("input", c.log_inputs, other, models=[LoggedModelInput(made.model_id)])
    user.call("get outputs", lambda: c.get_run(run).outputs.model_outputs)
    user.call("get inputs", lambda: c.get_run(other).inputs.model_inputs)
    user.ask(
        "noted in the old way",
        "POST",
        "/api/2.0/mlflow/runs/log-model",
        {"run_id": run, "model_json": '{"artifact_path": "m", "flavors": {}, "run_id": "r", '
         '"utc_time_created": "2026-01-01 00:00:00"}'},
    )  # fmt: skip


@flow
def webhooks(user: User) -> None:
    c = user.client
    with listener() as (address, heard):
        made = user.call(
            "create", c.create_webhook, "hook", address, ["registered_model.created"],
            description="d", secret="not-a-secret-in-a-test",
        )  # fmt: skip
        user.call("get", c.get_webhook, made.webhook_id)
        user.call("list", c.list_webhooks)
        user.call("test", lambda: c.test_webhook(made.webhook_id).success)
        user.call("heard", lambda: sorted(heard))
        user.call("update", c.update_webhook, made.webhook_id, status="DISABLED")
        user.call("delete", c.delete_webhook, made.webhook_id)
        user.fails("get deleted", c.get_webhook, made.webhook_id)
        user.fails("no such event", c.create_webhook, "hook", address, ["nothing.happened"])


@contextmanager
def listener() -> Iterator[tuple[str, list[str]]]:
    """Listen for requests; yield the address and the list that fills with what each is about."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append("registered_model" if b"registered_model" in body else "?")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
