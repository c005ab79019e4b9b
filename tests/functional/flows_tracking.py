"""Flows of a user who tracks: experiments, runs, metrics, data sets, artifacts, autologging."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from flows_kit import Flow, User
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType

FLOWS: dict[str, Flow] = {}


def flow(function: Flow) -> Flow:
    """Enter a function as a flow under its name."""
    FLOWS[function.__name__.replace("_", " ")] = function
    return function


@flow
def the_life_of_an_experiment(user: User) -> None:
    c = user.client
    made = user.experiment("life")
    user.call("tag first", c.set_experiment_tag, made, "a", "1")
    user.call("get", c.get_experiment, made)
    user.call("get by name", c.get_experiment_by_name, "life")
    user.fails("create again", c.create_experiment, "life")
    user.call("tag", c.set_experiment_tag, made, "mlflow.note.content", "a note")
    user.call("rename", c.rename_experiment, made, "life, renamed")
    user.call("untag", c.delete_experiment_tag, made, "a")
    user.call("search", c.search_experiments, filter_string="name LIKE 'life%'")
    user.call("delete", c.delete_experiment, made)
    user.call("get deleted", c.get_experiment, made)
    user.fails("run in deleted", c.create_run, made)
    user.call(
        "search deleted",
        lambda: [e.name for e in c.search_experiments(view_type=ViewType.DELETED_ONLY)],
    )
    user.call("restore", c.restore_experiment, made)
    user.call("get restored", c.get_experiment, made)
    user.fails("get missing", c.get_experiment, "999999")
    user.fails("delete missing", c.delete_experiment, "999999")


@flow
def pages_of_experiments(user: User) -> None:
    for number in range(5):
        user.experiment(f"page {number}")
    token = None
    for page in range(3):
        found = user.call(
            f"page {page}",
            user.client.search_experiments,
            filter_string="name LIKE 'page%'",
            order_by=["name ASC"],
            max_results=2,
            page_token=token,
        )
        token = found.token


@flow
def experiments_with_a_place_of_their_own(user: User) -> None:
    c = user.client
    user.call("inside", lambda: c.create_experiment("inside", "mlflow-artifacts:/own-place") and 1)
    inside = c.get_experiment_by_name("inside").experiment_id
    run = user.run(inside)
    user.call("log inside", c.log_text, run, "t", "t.txt")
    user.call("list inside", c.list_artifacts, run)
    elsewhere = Path(tempfile.gettempdir()) / "elsewhere"
    user.call("a folder elsewhere", lambda: c.create_experiment("f", elsewhere.as_uri()) and 1)
    user.call("a bucket", lambda: c.create_experiment("b", "s3://bucket/path") and 1)


@flow
def the_life_of_a_run(user: User) -> None:
    c = user.client
    experiment = user.experiment("runs")
    run = user.run(experiment)
    user.call("get", c.get_run, run)
    user.call("update", c.update_run, run, status="RUNNING", name="renamed")
    user.call("terminate", c.set_terminated, run, "FAILED")
    user.call("delete", c.delete_run, run)
    user.call("search deleted", c.search_runs, [experiment], run_view_type=ViewType.DELETED_ONLY)
    user.fails("log to deleted", c.log_metric, run, "m", 1)
    user.call("restore", c.restore_run, run)
    user.call("get restored", c.get_run, run)
    user.fails("get missing", c.get_run, "0" * 32)
    user.fails("delete missing", c.delete_run, "0" * 32)


@flow
def metrics_of_a_run(user: User) -> None:
    c, run = user.client, user.run(user.experiment("metrics"))
    for step in range(3):
        user.call(f"log {step}", c.log_metric, run, "loss", 1 / (step + 1), step=step)
    for value in (float("nan"), float("inf"), -0.0):
        user.call(f"log {value}", c.log_metric, run, "odd", value)
    user.call("history", c.get_metric_history, run, "loss")
    user.fails("bad name", c.log_metric, run, "../loss", 1)
    user.call("get", lambda: c.get_run(run).data.metrics["loss"])


@flow
def parameters_of_a_run(user: User) -> None:
    c, run = user.client, user.run(user.experiment("parameters"))
    user.call("log", c.log_param, run, "depth", 3)
    user.call("log again", c.log_param, run, "depth", 3)
    user.fails("log another value", c.log_param, run, "depth", 4)
    user.call("a long one", c.log_param, run, "long", "x" * 5000)
    user.call("get", lambda: c.get_run(run).data.params)


@flow
def tags_of_a_run(user: User) -> None:
    c, run = user.client, user.run(user.experiment("tags"))
    user.call("set", c.set_tag, run, "team", "a")
    user.call("set a note", c.set_tag, run, "mlflow.note.content", "# note")
    user.call("delete", c.delete_tag, run, "team")
    user.fails("delete again", c.delete_tag, run, "team")
    user.call("get", lambda: c.get_run(run).data.tags)


@flow
def batches(user: User) -> None:
    c, run = user.client, user.run(user.experiment("batches"))
    now = int(time.time() * 1000)
    metrics = [Metric(f"m{k % 7}", k / 3, now, k) for k in range(500)]
    params = [Param(f"p{k}", str(k)) for k in range(90)]
    tags = [RunTag(f"t{k}", str(k)) for k in range(90)]
    user.call("log", c.log_batch, run, metrics=metrics, params=params, tags=tags)
    user.call("get", c.get_run, run)
    user.fails("one value too many", c.log_batch, run, params=[Param("p1", "another")])
    many = [{"key": f"t{k}", "value": "v"} for k in range(1001)]
    user.denied("too many", "POST", "/api/2.0/mlflow/runs/log-batch", {"run_id": run, "tags": many})


@flow
def nested_runs(user: User) -> None:
    experiment = user.experiment("nested")

    def nest() -> list[str]:
        with mlflow.start_run(experiment_id=experiment, run_name="outer"):
            mlflow.log_params({"a": 1})
            for number in range(2):
                with mlflow.start_run(
                    experiment_id=experiment, run_name=f"inner {number}", nested=True
                ):
                    mlflow.log_metrics({"m": number}, step=1)
                    mlflow.set_tags({"k": number})
        return [r.info.run_name for r in user.client.search_runs([experiment])]

    user.call("nest", nest)
    found = user.client.search_runs([experiment], filter_string="attributes.run_name = 'outer'")
    user.call(
        "children",
        lambda: [
            r.data.metrics
            for r in user.client.search_runs(
                [experiment],
                filter_string=f"tags.`mlflow.parentRunId` = '{found[0].info.run_id}'",
                order_by=["metrics.m ASC"],
            )
        ],
    )


@flow
def searching_runs(user: User) -> None:
    c, experiment = user.client, user.experiment("search")
    for number in range(5):
        run = user.run(experiment)
        user.call(f"metric {number}", c.log_metric, run, "acc", number / 5)
        user.call(f"param {number}", c.log_param, run, "kind", "even" if number % 2 == 0 else "odd")
    order = ["metrics.acc DESC"]
    first = user.call("first page", c.search_runs, [experiment], order_by=order, max_results=2)
    user.call("second page", c.search_runs, [experiment], "", ViewType.ALL, 2, order, first.token)
    for text in ("metrics.acc > 0.3", "params.kind = 'even'", "attributes.status = 'RUNNING'"):
        user.call(f"by {text}", c.search_runs, [experiment], text, order_by=order)
    user.fails("a wrong filter", c.search_runs, [experiment], "metric acc > ")
    user.call("as a table", lambda: len(mlflow.search_runs([experiment])))


@flow
def data_sets_of_a_run(user: User) -> None:
    c, run = user.client, user.run(user.experiment("inputs"))
    one = DatasetInput(
        Dataset("bars", "d1g357", "local", "{}", schema="{}", profile="{}"),
        [InputTag("mlflow.data.context", "training")],
    )
    user.call("log", c.log_inputs, run, [one])
    user.call("log again", c.log_inputs, run, [one])
    user.call("get", lambda: c.get_run(run).inputs)
    user.ask(
        "the page's list",
        "POST",
        "/ajax-api/2.0/mlflow/experiments/search-datasets",
        {"experiment_ids": [c.get_run(run).info.experiment_id]},
    )


@flow
def data_sets_of_mlflow_data(user: User) -> None:
    experiment = user.experiment("mlflow.data")
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [0, 1]})

    def log() -> dict:
        with mlflow.start_run(experiment_id=experiment) as run:
            data = mlflow.data.from_pandas(frame, name="frame", targets="y")
            mlflow.log_input(data, context="training", tags={"a": "b"})
            mlflow.log_input(mlflow.data.from_numpy(np.eye(2), name="array"), context="test")
        return user.client.get_run(run.info.run_id).inputs.dataset_inputs

    user.call("log", log)
    user.call(
        "search",
        lambda: user.client.search_runs([experiment], "dataset.name = 'frame'")[0].inputs,
    )


@flow
def small_artifacts(user: User) -> None:
    c, run = user.client, user.run(user.experiment("artifacts"))
    user.call("text", c.log_text, run, "hello", "a/b/hello.txt")
    user.call("dict", c.log_dict, run, {"k": [1, 2]}, "d.json")
    file = user.folder / "ünï cödé & more.txt"
    file.write_text("u")
    user.call("file", c.log_artifact, run, str(file), "files")
    user.call("list", c.list_artifacts, run)
    user.call("list below", c.list_artifacts, run, "a")
    user.call("list files", c.list_artifacts, run, "files")
    user.call("overwrite", c.log_text, run, "hello again", "a/b/hello.txt")
    uri = f"runs:/{run}/a/b/hello.txt"
    user.call("load text", mlflow.artifacts.load_text, uri)
    user.call("load dict", mlflow.artifacts.load_dict, f"runs:/{run}/d.json")
    user.fails("load missing", mlflow.artifacts.load_text, f"runs:/{run}/no.txt")
    user.fails("outside", c.log_text, run, "x", "../../x.txt")


@flow
def folders_of_artifacts(user: User) -> None:
    c, run = user.client, user.run(user.experiment("folders"))
    tree = user.folder / "tree"
    for place in ("a/b/c", "a/d", "e"):
        (tree / place).mkdir(parents=True)
        (tree / place / "f.txt").write_text(place)
    user.call("log", c.log_artifacts, run, str(tree), "tree")
    user.call(
        "download",
        lambda: sorted(
            str(p.relative_to(user.folder / "back"))
            for p in Path(
                mlflow.artifacts.download_artifacts(
                    run_id=run, artifact_path="tree", dst_path=str(user.folder / "back")
                )
            ).rglob("*.txt")
        ),
    )
    root = c.get_run(run).info.artifact_uri.removeprefix("mlflow-artifacts:/")
    place = f"/api/2.0/mlflow-artifacts/artifacts/{root}/tree"
    user.ask("delete a file", "DELETE", f"{place}/a/d/f.txt")
    user.ask("delete a folder", "DELETE", f"{place}/a")
    user.call("list", c.list_artifacts, run, "tree")
    user.denied("get what was deleted", "GET", f"{place}/a/d/f.txt")


@flow
def a_large_artifact(user: User) -> None:
    c, run = user.client, user.run(user.experiment("large"))
    file = user.folder / "large.bin"
    file.write_bytes(os.urandom(1 << 20) * 24)
    user.call("log", c.log_artifact, run, str(file))
    user.call("list", c.list_artifacts, run)
    back = user.call(
        "download", mlflow.artifacts.download_artifacts, run_id=run, artifact_path="large.bin"
    )
    user.call("the same", lambda: Path(back).read_bytes() == file.read_bytes())
    root = c.get_run(run).info.artifact_uri.removeprefix("mlflow-artifacts:/")
    user.denied(
        "in parts, which a folder cannot",
        "POST",
        f"/api/2.0/mlflow-artifacts/mpu/create/{root}",
        {"path": "parts.bin", "num_parts": 2},
    )


@flow
def images_tables_and_figures(user: User) -> None:
    import matplotlib.figure

    c, experiment = user.client, user.experiment("pictures")
    run = user.run(experiment)
    picture = np.linspace(0, 255, 12 * 12 * 3).reshape(12, 12, 3).astype(np.uint8)
    user.call("image", c.log_image, run, picture, artifact_file="i.png")
    user.call("image at a step", c.log_image, run, picture, key="dog", step=1, synchronous=True)
    user.call("table", c.log_table, run, {"a": [1, 2], "b": ["x", "y"]}, "t.json")
    user.call("more of the table", c.log_table, run, {"a": [3], "b": ["z"]}, "t.json")
    user.call("load table", c.load_table, experiment, "t.json", run_ids=[run])
    figure = matplotlib.figure.Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    user.call("figure", c.log_figure, run, figure, "f.png")
    user.call("list", lambda: [a.path for a in c.list_artifacts(run)])
    image = user.call("load image", mlflow.artifacts.load_image, f"runs:/{run}/i.png")
    user.call("its size", lambda: image.size)


@flow
def logging_in_the_background(user: User) -> None:
    c, run = user.client, user.run(user.experiment("background"))
    waiting = [c.log_metric(run, "m", k, step=k, synchronous=False) for k in range(20)]
    user.call("wait", lambda: [w.wait() for w in waiting] and None)
    user.call("values", lambda: sorted(m.value for m in c.get_metric_history(run, "m")))


@flow
def autologging_sklearn(user: User) -> None:
    from sklearn.linear_model import LogisticRegression

    user.experiment("autolog")
    X, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2

    def train() -> dict:
        mlflow.set_experiment("autolog")
        mlflow.sklearn.autolog(log_models=False, log_datasets=True, silent=True)
        try:
            LogisticRegression(max_iter=50).fit(X, y)
        finally:
            mlflow.sklearn.autolog(disable=True, silent=True)
        run = mlflow.last_active_run()
        return {
            "params": sorted(run.data.params),
            "metrics": sorted(run.data.metrics),
            "status": run.info.status,
            "files": sorted(a.path for a in user.client.list_artifacts(run.info.run_id)),
        }

    user.call("train", train)


@flow
def collecting_rubbish(user: User) -> None:
    from click.testing import CliRunner
    from mlflow.cli import gc

    c, experiment = user.client, user.experiment("rubbish")
    kept, gone = user.run(experiment), user.run(experiment)
    user.call("file of one", c.log_text, gone, "x", "x.txt")
    user.call("file of the other", c.log_text, kept, "x", "x.txt")
    user.call("delete one", c.delete_run, gone)
    root = user.artifacts / c.get_run(gone).info.artifact_uri.removeprefix("mlflow-artifacts:/")

    def collect() -> tuple:
        words = ["--backend-store-uri", user.backend, "--tracking-uri", user.url]
        done = CliRunner().invoke(gc, [*words, "--run-ids", gone], catch_exceptions=False)
        return done.exit_code, root.exists(), [r.info.status for r in c.search_runs([experiment])]

    user.call("mlflow gc", collect)
    user.fails("what was deleted", c.get_run, gone)
    user.call("what was kept", c.list_artifacts, kept)
