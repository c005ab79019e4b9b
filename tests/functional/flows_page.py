"""Flows of a user of MLflow's web page, and of one who asks for what a server does not have."""

from __future__ import annotations

from flows_kit import Flow, User

FLOWS: dict[str, Flow] = {}
AJAX = "/ajax-api/2.0/mlflow"


def flow(function: Flow) -> Flow:
    """Enter a function as a flow under its name."""
    FLOWS[function.__name__.replace("_", " ")] = function
    return function


@flow
def the_pages_of_the_server(user: User) -> None:
    user.call("page", lambda: "<title>MLflow</title>" in user._request("GET", "/", None))
    user.ask("health", "GET", "/health")
    user.ask("version", "GET", "/version")
    user.ask("server", "GET", "/ajax-api/3.0/mlflow/server-info")
    user.denied("a static file that is not there", "GET", "/static-files/no.js")
    user.denied("a route that is not there", "GET", "/api/2.0/mlflow/nothing/at-all")
    user.denied("a method that is not there", "PUT", "/api/2.0/mlflow/runs/create", {})


@flow
def the_page_of_an_experiment(user: User) -> None:
    c, experiment = user.client, user.experiment("page")
    run = user.run(experiment)
    user.call("metric", c.log_metric, run, "m", 1.0)
    body = {"experiment_ids": [experiment], "max_results": 10}
    user.ask("experiments", "POST", f"{AJAX}/experiments/search", {"max_results": 2})
    user.ask("experiments by GET", "GET", f"{AJAX}/experiments/search?max_results=2")
    user.ask("runs", "POST", f"{AJAX}/runs/search", body)
    user.ask("logged models", "POST", f"{AJAX}/logged-models/search", body)
    user.ask("data sets", "POST", f"{AJAX}/experiments/search-datasets", body)
    user.ask("get", "GET", f"{AJAX}/experiments/get?experiment_id={experiment}")
    user.ask("by name", "GET", f"{AJAX}/experiments/get-by-name?experiment_name=page")
    user.ask("note", "POST", f"{AJAX}/experiments/set-experiment-tag",
             {"experiment_id": experiment, "key": "mlflow.note.content", "value": "n"})  # fmt: skip


@flow
def the_page_of_a_run(user: User) -> None:
    c, run = user.client, user.run(user.experiment("page of a run"))
    for step in range(5):
        user.call(f"metric {step}", c.log_metric, run, "loss", 1 / (1 + step), step=step)
    user.ask("get", "GET", f"{AJAX}/runs/get?run_id={run}")
    history = f"{AJAX}/metrics/get-history"
    user.ask("history", "GET", f"{history}?run_id={run}&metric_key=loss")
    user.ask("history in bulk", "GET", f"{history}-bulk?run_id={run}&metric_key=loss")
    user.ask(
        "history by intervals",
        "GET",
        f"{history}-bulk-interval?run_ids={run}&metric_key=loss&max_results=3",
    )
    user.ask("upload", "POST", f"{AJAX}/upload-artifact?run_uuid={run}&path=a/b.txt", b"words")
    user.ask("list", "GET", f"{AJAX}/artifacts/list?run_id={run}")
    user.ask("list below", "GET", f"{AJAX}/artifacts/list?run_id={run}&path=a")
    user.ask("read", "GET", f"/get-artifact?run_uuid={run}&path=a/b.txt")
    user.denied("read missing", "GET", f"/get-artifact?run_uuid={run}&path=no.txt")
    user.denied("read outside", "GET", f"/get-artifact?run_uuid={run}&path=../../x")
    user.ask("rename", "POST", f"{AJAX}/runs/update", {"run_id": run, "run_name": "new"})
    user.ask("delete", "POST", f"{AJAX}/runs/delete", {"run_id": run})
    user.ask("restore", "POST", f"{AJAX}/runs/restore", {"run_id": run})


@flow
def the_pages_of_the_registry(user: User) -> None:
    c, run = user.client, user.run(user.experiment("registry page"))
    user.call("file", c.log_text, run, "w", "m/w.txt")
    source = f"{c.get_run(run).info.artifact_uri}/m"
    user.ask("create", "POST", f"{AJAX}/registered-models/create", {"name": "paged"})
    user.ask("version", "POST", f"{AJAX}/model-versions/create",
             {"name": "paged", "source": source, "run_id": run})  # fmt: skip
    user.ask("search", "GET", f"{AJAX}/registered-models/search?filter=name='paged'")
    user.ask("versions", "GET", f"{AJAX}/model-versions/search?filter=name='paged'")
    user.ask("get", "GET", f"{AJAX}/registered-models/get?name=paged")
    user.ask("get version", "GET", f"{AJAX}/model-versions/get?name=paged&version=1")
    user.ask("read", "GET", "/model-versions/get-artifact?name=paged&version=1&path=w.txt")
    user.ask("alias", "POST", f"{AJAX}/registered-models/alias",
             {"name": "paged", "alias": "a", "version": "1"})  # fmt: skip
    user.ask("describe", "PATCH", f"{AJAX}/model-versions/update",
             {"name": "paged", "version": "1", "description": "d"})  # fmt: skip
    user.ask("latest", "POST", f"{AJAX}/registered-models/get-latest-versions", {"name": "paged"})
    user.ask("delete", "DELETE", f"{AJAX}/registered-models/delete", {"name": "paged"})


@flow
def questions_in_graphql(user: User) -> None:
    experiment = user.experiment("graphql")
    run = user.run(experiment)
    user.call("metric", user.client.log_metric, run, "m", 1.0)
    user.ask("experiment", "POST", "/graphql", {
        "operationName": "MlflowGetExperimentQuery",
        "query": "query MlflowGetExperimentQuery($input: MlflowGetExperimentInput!) "
                 "{ mlflowGetExperiment(input: $input) { apiError { code message } "
                 "experiment { artifactLocation experimentId lifecycleStage name "
                 "tags { key value } } } }",
        "variables": {"input": {"experimentId": experiment}},
    })  # fmt: skip
    user.ask("run", "POST", "/graphql", {
        "query": "query GetRun($data: MlflowGetRunInput!) { mlflowGetRun(input: $data) "
                 "{ apiError { code } run { info { runName status } data { metrics "
                 "{ key value } } modelVersions { name } } } }",
        "variables": {"data": {"runId": run}},
    })  # fmt: skip
    user.ask("runs", "POST", "/graphql", {
        "query": "mutation SearchRuns($data: MlflowSearchRunsInput!) { mlflowSearchRuns"
                 "(input: $data) { apiError { code } runs { info { status } } } }",
        "variables": {"data": {"experimentIds": [experiment]}},
    })  # fmt: skip
    user.ask("what is wrong", "POST", "/graphql", {"query": "{ nothing }"})


@flow
def traces_on_the_page(user: User) -> None:
    experiment = user.experiment("page of traces")
    base = "/ajax-api/3.0/mlflow/traces"
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    user.ask("search", "POST", f"{base}/search", {"locations": [place], "max_results": 5})
    user.ask("metrics", "POST", f"{base}/metrics", {
        "experiment_ids": [experiment], "view_type": "TRACES", "metric_name": "trace_count",
        "aggregations": [{"aggregation_type": "COUNT"}],
    })  # fmt: skip
    user.denied("missing", "GET", f"{base}/get?trace_id=tr-{'0' * 32}")


@flow
def what_is_off_on_both(user: User) -> None:
    user.denied("job", "POST", "/ajax-api/3.0/jobs/", {"job_name": "x", "params": {}})
    user.ask("old gateway", "POST", f"{AJAX}/gateway-proxy", {"gateway_path": "x"})
    user.denied("scorer", "POST", "/ajax-api/3.0/mlflow/scorer/invoke", {"experiment_id": "0"})
    user.denied("workspace", "POST", "/api/3.0/mlflow/workspaces", {"name": "w"})
    user.denied("presigned", "POST", f"{AJAX}/artifacts/presigned-upload-url", {"path": "x"})


@flow
def what_runs_commands_of_the_host(user: User) -> None:
    user.ask("assistant", "GET", "/ajax-api/3.0/mlflow/assistant/config")


@flow
def the_demo(user: User) -> None:
    user.ask("generate", "POST", "/ajax-api/3.0/mlflow/demo/generate", {"features": ["prompts"]})
    user.ask("delete", "POST", "/ajax-api/3.0/mlflow/demo/delete", {})


@flow
def bodies_that_are_no_requests(user: User) -> None:
    path = "/api/2.0/mlflow/runs/create"
    for name, body in {
        "no JSON": b"{",
        "a list": b"[1]",
        "a number": b"7",
        "not UTF-8": b'{"experiment_id": "\xff"}',
    }.items():
        user.denied(name, "POST", path, body, headers={"Content-Type": "application/json"})
    user.denied("a wrong type", "POST", path, {"experiment_id": {"a": 1}})
    user.denied("nothing", "POST", "/api/2.0/mlflow/runs/log-metric", {})
    user.denied("a page token that is none", "POST", "/api/2.0/mlflow/runs/search",
                {"experiment_ids": ["0"], "page_token": "x"})  # fmt: skip
