"""Flows of a user of MLflow's tools for language models: traces, prompts, data sets, scorers."""

from __future__ import annotations

import mlflow
import mlflow.genai
from flows_kit import Flow, User
from mlflow.entities import AssessmentSource

FLOWS: dict[str, Flow] = {}
_HUMAN = AssessmentSource(source_type="HUMAN", source_id="ann")


def flow(function: Flow) -> Flow:
    """Enter a function as a flow under its name."""
    FLOWS[function.__name__.replace("_", " ")] = function
    return function


def trace(user: User, experiment: str, name: str = "root") -> str:
    """Make a trace of two spans and return its id."""

    def make() -> str:
        mlflow.set_experiment(experiment_id=experiment)
        with mlflow.start_span(name) as root:
            root.set_inputs({"question": "?"})
            with mlflow.start_span("inner", span_type="TOOL") as inner:
                inner.set_attributes({"k": 1})
            root.set_outputs({"answer": "!"})
        return str(root.trace_id)

    return str(user.call(f"trace {len(user.outcomes)}", make))


@flow
def the_life_of_a_trace(user: User) -> None:
    c, experiment = user.client, user.experiment("traces")
    made = trace(user, experiment)
    user.call("get", lambda: [s.name for s in c.get_trace(made).data.spans])
    user.call("tag", c.set_trace_tag, made, "team", "a")
    user.call("tags", lambda: c.get_trace(made).info.tags["team"])
    user.call("untag", c.delete_trace_tag, made, "team")
    user.call("search", lambda: len(c.search_traces(locations=[experiment])))
    user.call(
        "search by name",
        lambda: len(c.search_traces(locations=[experiment], filter_string="trace.name = 'root'")),
    )
    user.call("delete", c.delete_traces, experiment, trace_ids=[made])
    user.fails("get deleted", c.get_trace, made)


@flow
def a_trace_made_step_by_step(user: User) -> None:
    c, experiment = user.client, user.experiment("steps")
    root = user.call(
        "start", lambda: c.start_trace("slow", inputs={"a": 1}, experiment_id=experiment)
    )
    child = c.start_span("child", root.trace_id, root.span_id)
    user.call("end span", lambda: c.end_span(root.trace_id, child.span_id, outputs={"b": 2}))
    user.call("end", lambda: c.end_trace(root.trace_id, outputs={"c": 3}))
    user.call("get", lambda: [s.outputs for s in c.get_trace(root.trace_id).data.spans])


@flow
def assessments_of_a_trace(user: User) -> None:
    made = trace(user, user.experiment("assessments"))
    given = user.call(
        "feedback", mlflow.log_feedback,
        trace_id=made, name="good", value=True, source=_HUMAN, rationale="because",
    )  # fmt: skip
    user.call(
        "expectation", mlflow.log_expectation,
        trace_id=made, name="answer", value="42", source=_HUMAN,
    )  # fmt: skip
    user.call(
        "change", mlflow.update_assessment, made, given.assessment_id,
        mlflow.entities.Feedback(name="good", value=False, source=_HUMAN),
    )  # fmt: skip
    user.call("get", mlflow.get_assessment, made, given.assessment_id)
    user.call("delete", mlflow.delete_assessment, made, given.assessment_id)
    user.fails("get deleted", mlflow.get_assessment, made, given.assessment_id)


@flow
def traces_of_a_run(user: User) -> None:
    c, experiment = user.client, user.experiment("trace and run")
    made, run = trace(user, experiment), user.run(experiment)
    user.call("link", c.link_traces_to_run, [made], run)
    user.call("search by run", lambda: len(c.search_traces(locations=[experiment], run_id=run)))
    user.call("delete by time", lambda: c.delete_traces(experiment, 2 * 10**12, max_traces=10))


@flow
def the_life_of_a_prompt(user: User) -> None:
    g, c = mlflow.genai, user.client
    user.call("register", g.register_prompt, "greet", "Hello {{name}}", "first", {"a": "1"})
    user.call("register again", g.register_prompt, "greet", "Hi {{name}}")
    user.call("load", lambda: g.load_prompt("greet", 1).format(name="Ann"))
    user.call("alias", g.set_prompt_alias, "greet", "best", 2)
    user.call("load by alias", lambda: g.load_prompt("prompts:/greet@best").template)
    user.call("search", g.search_prompts, "name = 'greet'")
    user.call("tag", c.set_prompt_tag, "greet", "team", "b")
    user.call("tag a version", c.set_prompt_version_tag, "greet", "1", "k", "v")
    user.call("untag a version", c.delete_prompt_version_tag, "greet", "1", "k")
    user.call("get", c.get_prompt, "greet")
    user.call("delete alias", g.delete_prompt_alias, "greet", "best")
    for version in ("1", "2"):
        user.call(f"delete version {version}", c.delete_prompt_version, "greet", version)
    user.call("delete", c.delete_prompt, "greet")
    user.call("load deleted", g.load_prompt, "greet", 1, allow_missing=True)


@flow
def production_of_a_prompt(user: User) -> None:
    g = mlflow.genai
    user.call("register", g.register_prompt, "served", "Hello {{name}}")
    user.call("alias production", g.set_prompt_alias, "served", "production", 1)
    user.call("load", lambda: g.load_prompt("prompts:/served@production").template)
    user.call("delete alias production", g.delete_prompt_alias, "served", "production")


@flow
def prompts_of_a_trace(user: User) -> None:
    user.call("register", mlflow.genai.register_prompt, "linked", "Hello")
    made = trace(user, user.experiment("linked"))
    prompt = mlflow.genai.load_prompt("linked", 1)
    user.call("link", user.client.link_prompt_versions_to_trace, [prompt], made)


@flow
def evaluation_data_sets(user: User) -> None:
    g, experiment = mlflow.genai, user.experiment("evaluation")
    other = user.experiment("evaluation 2")
    made = user.call("create", g.create_dataset, "questions", experiment, {"a": "1"})
    rows = [{"inputs": {"q": f"{k}"}, "expectations": {"a": k}} for k in range(3)]
    user.call("merge", lambda: len(made.merge_records(rows).to_df()))
    user.call("merge again", lambda: len(made.merge_records(rows[:1]).to_df()))
    user.call("get", lambda: g.get_dataset(dataset_id=made.dataset_id).name)
    user.call("search", lambda: [d.name for d in g.search_datasets(experiment_ids=[experiment])])
    user.call("tags", g.datasets.set_dataset_tags, dataset_id=made.dataset_id, tags={"b": "2"})
    user.call("untag", g.datasets.delete_dataset_tag, dataset_id=made.dataset_id, key="a")
    for name, change in {
        "add": g.datasets.add_dataset_to_experiments,
        "remove": g.datasets.remove_dataset_from_experiments,
    }.items():
        user.call(name, lambda c=change: len(c(made.dataset_id, [other]).experiment_ids))
    user.call("delete", g.delete_dataset, dataset_id=made.dataset_id)
    user.fails("get deleted", g.get_dataset, dataset_id=made.dataset_id)


@flow
def scorers(user: User) -> None:
    experiment = user.experiment("scorers")
    base, body = "/api/3.0/mlflow/scorers", {"experiment_id": experiment, "name": "short"}
    scorer = '{"name": "short", "instructions_judge_pydantic_data": null}'
    user.ask("register", "POST", f"{base}/register", body | {"serialized_scorer": scorer})
    user.ask("register again", "POST", f"{base}/register", body | {"serialized_scorer": scorer})
    user.ask("list", "GET", f"{base}/list", params={"experiment_id": experiment})
    user.ask("versions", "GET", f"{base}/versions", params=body)
    user.ask("get", "GET", f"{base}/get", params=body)
    user.ask("delete one", "DELETE", f"{base}/delete", body | {"version": 1})
    user.ask("delete all", "DELETE", f"{base}/delete", body)
    user.denied("get deleted", "GET", f"{base}/get", params=body)


@flow
def labels_queues_and_issues(user: User) -> None:
    experiment = user.experiment("labels")
    made = trace(user, experiment)
    base = "/api/3.0/mlflow"
    schema = user.ask(
        "schema", "POST", f"{base}/label-schemas/create",
        {"experiment_id": experiment, "name": "tone", "type": "FEEDBACK", "instruction": "?",
         "input": {"categorical": {"options": ["good", "bad"]}}},
    )  # fmt: skip
    user.ask("schemas", "GET", f"{base}/label-schemas/list", params={"experiment_id": experiment})
    queue = user.ask(
        "queue", "POST", f"{base}/review-queues/create",
        {"experiment_id": experiment, "name": "q", "queue_type": "CUSTOM", "users": ["ann"],
         "schema_ids": [schema["label_schema"]["schema_id"]]},
    )  # fmt: skip
    queue_id = queue["review_queue"]["queue_id"]
    user.ask(
        "item", "POST", f"{base}/review-queues/items/add",
        {"queue_id": queue_id, "item_type": "TRACE", "item_ids": [made]},
    )  # fmt: skip
    user.ask("queues", "GET", f"{base}/review-queues/list", params={"experiment_id": experiment})
    user.ask("delete the queue", "POST", f"{base}/review-queues/delete", {"queue_id": queue_id})
    issue = user.ask(
        "issue", "POST", f"{base}/issues",
        {"experiment_id": experiment, "name": "slow", "description": "d", "status": "pending"},
    )  # fmt: skip
    user.ask("get the issue", "GET", f"{base}/issues/{issue['issue']['issue_id']}")
    user.ask("issues", "POST", f"{base}/issues/search", {"experiment_id": experiment})


@flow
def spans_by_open_telemetry(user: User) -> None:
    experiment = user.experiment("otlp")
    span = {
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": "b7ad6b7169203331",
        "name": "remote",
        "kind": 1,
        "startTimeUnixNano": "1700000000000000000",
        "endTimeUnixNano": "1700000001000000000",
        "status": {},
    }
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    user.ask("send", "POST", "/v1/traces", body, headers={"x-mlflow-experiment-id": experiment})
    user.denied("without an experiment", "POST", "/v1/traces", body)
    user.call("search", lambda: len(user.client.search_traces(locations=[experiment])))


@flow
def the_gateway(user: User) -> None:
    base = "/api/3.0/mlflow/gateway"
    secret = user.ask(
        "secret", "POST", f"{base}/secrets/create",
        {"secret_name": "s", "provider": "openai",
         "secret_value": [{"key": "api_key", "value": "not-a-secret-in-a-test"}]},
    )  # fmt: skip
    secret_id = secret["secret"]["secret_id"]
    user.ask("secrets", "GET", f"{base}/secrets/list")
    definition = user.ask(
        "definition", "POST", f"{base}/model-definitions/create",
        {"name": "d", "provider": "openai", "model_name": "gpt-4o", "secret_id": secret_id},
    )["model_definition"]  # fmt: skip
    user.ask(
        "endpoint", "POST", f"{base}/endpoints/create",
        {"name": "e", "model_configs": [
            {"model_definition_id": definition["model_definition_id"], "linkage_type": "PRIMARY"}
        ]},
    )  # fmt: skip
    user.ask("endpoints", "GET", f"{base}/endpoints/list")
    user.denied("delete a secret that is used", "DELETE", f"{base}/model-definitions/delete", {})
    user.ask("providers", "GET", "/ajax-api/3.0/mlflow/gateway/supported-providers")
    user.denied("no such endpoint", "POST", "/gateway/none/mlflow/invocations", {"messages": []})


@flow
def servers_of_the_model_context_protocol(user: User) -> None:
    base = "/ajax-api/3.0/mlflow/mcp-servers"
    user.ask("create", "POST", base, {"name": "org.example/tools", "description": "d"})
    user.ask("search", "GET", base)
    user.ask("get", "GET", f"{base}/org.example/tools")
    user.ask("tag", "POST", f"{base}/org.example/tools/tags", {"key": "k", "value": "v"})
    user.ask("delete", "DELETE", f"{base}/org.example/tools")
