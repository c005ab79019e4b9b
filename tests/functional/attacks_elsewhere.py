"""Other doors: artifact locations, GraphQL, the ledger, jobs, bodies too large, foreign sources."""

from __future__ import annotations

import json

from guard_world import Answer, Attack, World
from promotion_kit import NAME

ATTACKS: dict[str, Attack] = {}
# What the refusal has to say, where an attack could be refused for another reason as well.
SAYS = {
    "artifact_location s3://elsewhere/x": "outside this server's artifact root",
    "a body over the limit": "larger than 1 MiB",
}


def experiment_at(location: str) -> Attack:
    def act(world: World) -> Answer:
        where = location.format(folder=world.folder, run=world.root)
        body = {"name": f"x {location}", "artifact_location": where}
        return world.post("experiments/create", body)

    return act


for _location in (
    "file:///etc",
    "/etc",
    "file://{folder}",
    "{folder}/mlartifacts/../.moola",
    "mlflow-artifacts:/../x",
    "mlflow-artifacts:/%2e%2e/x",
    "mlflow-artifacts://elsewhere/x",
    "s3://elsewhere/x",
    "file:///etc?x=1",
):
    ATTACKS[f"artifact_location {_location}"] = experiment_at(_location)


def graphql(query: str) -> Attack:
    def act(world: World) -> Answer:
        status, text = world.server.send("POST", "/graphql", {"query": query})
        return (400 if json.loads(text).get("errors") else status), text

    return act


def ledger_post(event: str) -> Attack:
    body = {"event": event, "who": "eve", "name": NAME, "reason": "r", "version_to": "3"}
    return lambda world: world.server.send("POST", "/moola/api/ledger", body)


ATTACKS |= {
    "GraphQL transition": graphql(
        f'mutation {{ mlflowTransitionModelVersionStage(input: {{name: "{NAME}", version: "3", '
        'stage: "Production"}) { apiError { code } } }'
    ),
    "GraphQL alias": graphql(
        f'mutation {{ mlflowSetRegisteredModelAlias(input: {{name: "{NAME}", version: "3", '
        'alias: "production"}) { apiError { code } } }'
    ),
    "ledger: a promotion": ledger_post("promotion"),
    "ledger: a rollback": ledger_post("rollback"),
    "ledger: an intent": ledger_post("intent"),
    "ledger: a key change": ledger_post("key_change"),
    "ledger: PUT": lambda w: w.server.send("PUT", "/moola/api/ledger", {}),
    "ledger: DELETE": lambda w: w.server.send("DELETE", "/moola/api/ledger"),
    "the assistant": lambda w: w.server.send(
        "PUT", "/ajax-api/3.0/mlflow/assistant/config", {"providers": {}}
    ),
    "the assistant by a path that looks like an upload": lambda w: w.server.send(
        "PUT", "/ajax-api/3.0/mlflow/assistant/config/mlflow-artifacts/artifacts/x", {}
    ),
    "a job": lambda w: w.server.send(
        "POST", "/ajax-api/3.0/jobs/", {"job_name": "invoke_scorer", "params": {}}
    ),
    "a body over the limit in chunks": lambda w: w.chunked(
        "runs/set-tag",
        json.dumps({"run_id": w.run_id, "key": "k", "value": "x" * (2 << 20)}).encode(),
    ),
    "a body over the limit": lambda w: w.post(
        "runs/set-tag", {"run_id": w.run_id, "key": "k", "value": "x" * (1 << 20)}
    ),
}


def foreign_source(world: World) -> Answer:
    source = f"mlflow-artifacts://elsewhere/{world.root}/model"
    body = {"name": NAME, "source": source, "run_id": world.run_id}
    status, text = world.post("model-versions/create", body)
    if status != 200:
        return status, text
    version = json.loads(text)["model_version"]["version"]
    first = world.evidence("1")
    world.prepare(version, version=version, run_id=first.run_id, model_sha256=first.model_sha256)
    return world.stage(version, "Production")


ATTACKS |= {
    "source on another host": foreign_source,
}
