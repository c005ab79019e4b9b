"""Attempts to get something unproven into Production, or to change what is there.

Each attempt gets the `World` and returns what the server answered, as (status, text); a refusal by
the Python client comes back as (403, message). `test_guard.py` runs them and checks after each that
registry, files and ledger are as before.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import requests
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guard_server import Server
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from promotion_kit import NAME, PASSED, evaluate, make_version, trusting

from moola.config.promotion import TAG_EVIDENCE, TAG_PROMOTION_EVIDENCE, PromotionPolicy
from moola.promotion.digest import model_files_digest
from moola.promotion.evidence import Evidence, SignedEvidence, sign, verify
from moola.promotion.keys import key_id
from moola.promotion.ledger import Draft
from moola.promotion.promote import promote
from moola.promotion.remote import RemoteLedger

Answer = tuple[int, str]
THRESHOLDS = "7" * 64
POLICY = (
    f"thresholds_sha256: ['{THRESHOLDS}']\nmax_body_mib: 1\nprotected_aliases: [production, live]\n"
)


class World:
    """A guarded server with version 1 in Production, 2 evaluated, 3 bare, and a second model."""

    def __init__(self, server: Server):
        self.server, self.folder = server, server.folder
        self.client: MlflowClient = server.client()
        self.ledger = RemoteLedger(server.url)
        self.engine = sa.create_engine(server.backend)
        self.client.create_experiment("work")
        for number in range(3):
            make_version(self.client, self.folder, weights=f"w{number}")
        for version in ("1", "2"):
            evaluate(self.client, server.key, version)
        make_version(self.client, self.folder, weights="other", name="Other")
        self.promote("1")
        self.run_id = self.client.get_model_version(NAME, "1").run_id
        self.experiment_id = self.client.get_run(self.run_id).info.experiment_id
        self.root = f"{self.experiment_id}/{self.run_id}/artifacts"
        self.file = f"{self.root}/model/weights.safetensors"
        self.before = self.state()

    def promote(self, version: str, name: str = NAME):
        return promote(
            client=self.client,
            ledger=self.ledger,
            name=name,
            version=version,
            trusted_keys=trusting(self.server.key),
            policy=PromotionPolicy(),
            promotion_gate=lambda _champion: dict(PASSED),
            who="ann",
            signing_key=self.server.key,
        )

    def state(self) -> tuple:
        """Return all that no attack may change, read past the server."""
        questions = (
            "SELECT name, version FROM model_versions WHERE current_stage = 'Production'",
            "SELECT name, version, run_id, source FROM model_versions WHERE version = 1",
            "SELECT name, alias, version FROM registered_model_aliases",
            "SELECT event, version_to FROM moola_ledger WHERE event IN ('promotion', 'rollback')",
            f"SELECT status, lifecycle_stage, name FROM runs WHERE run_uuid = '{self.run_id}'",
            f"SELECT key, value FROM tags WHERE run_uuid = '{self.run_id}'",
            f"SELECT key, value FROM metrics WHERE run_uuid = '{self.run_id}'",
            "SELECT lifecycle_stage FROM experiments WHERE name = 'work'",
        )
        with self.engine.connect() as connection:
            rows = [sorted(map(tuple, connection.execute(sa.text(q)))) for q in questions]
        return (*rows, model_files_digest(self.folder / "mlartifacts" / self.root / "model"))

    def post(self, path: str, body: object, *, prefix: str = "api", method: str = "POST") -> Answer:
        return self.server.send(method, f"/{prefix}/2.0/mlflow/{path}", body)

    def stage(self, version: str, stage: str, *, name: str = NAME, **more: object) -> Answer:
        prefix = str(more.pop("prefix", "api"))
        body = {"name": name, "version": version, "stage": stage, **more}
        return self.post("model-versions/transition-stage", body, prefix=prefix)

    def alias(self, version: str, alias: str, *, name: str = NAME, prefix: str = "api") -> Answer:
        body = {"name": name, "alias": alias, "version": version}
        return self.post("registered-models/alias", body, prefix=prefix)

    def put(self, path: str, *, prefix: str = "api", method: str = "PUT") -> Answer:
        route = f"/{prefix}/2.0/mlflow-artifacts/artifacts/{path}"
        return self.server.send(method, route, b"evil" if method == "PUT" else None)

    def followed(self, path: str, body: object) -> Answer:
        """Send a request and go where the server sends us."""
        answer = requests.post(
            self.server.url + path, json=body, auth=self.server.credentials, timeout=30
        )
        return answer.status_code, answer.text

    def chunked(self, path: str, body: bytes) -> Answer:
        """Send a body in pieces, without saying how long it is."""
        pieces = (body[at : at + 4096] for at in range(0, len(body), 4096))
        answer = requests.post(
            f"{self.server.url}/api/2.0/mlflow/{path}",
            data=pieces,
            headers={"Content-Type": "application/json"},
            auth=self.server.credentials,
            timeout=30,
        )
        return answer.status_code, answer.text

    def by_client(self, call: Callable[[MlflowClient], object]) -> Answer:
        try:
            call(self.client)
        except MlflowException as error:
            return error.get_http_status_code(), str(error)
        except requests.HTTPError as error:
            return error.response.status_code, error.response.text
        return 200, "done"

    def evidence(self, version: str) -> Evidence:
        tag = self.client.get_model_version(NAME, version).tags[TAG_EVIDENCE]
        return verify(SignedEvidence.from_json(tag), trusting(self.server.key))

    def prepare(
        self,
        target: str,
        /,
        *,
        look: bool = True,
        at: str = NAME,
        subject: dict | None = None,
        **changes,
    ) -> None:
        """Store promotion evidence as `moola promote` would, with some fields changed.

        It is stored at version `target` of model `at`; `subject` is what it says it is about.
        """
        key: Ed25519PrivateKey = changes.pop("key", self.server.key)
        values = {
            "purpose": "promotion",
            "champion": "1",
            "promotion_verdict": "passed",
            "test_looks": 2,
            "created_at": datetime.now(UTC).isoformat(),
            "key_id": key_id(key.public_key()),
            **changes,
            **(subject or {}),
        }
        evidence = dataclasses.replace(self.evidence("2"), **values)
        if look:
            self.ledger.append(
                Draft(
                    event="test_look",
                    who="eve",
                    name=at,
                    reason="look",
                    version_to=target,
                    payload={"split_sha256": evidence.data["split_sha256"]},
                )
            )
        self.tag(target, sign(evidence, key).to_json(), name=at)

    def tag(self, version: str, text: str, *, name: str = NAME) -> None:
        self.client.set_model_version_tag(name, version, TAG_PROMOTION_EVIDENCE, text)


Attack = Callable[[World], Answer]
ATTACKS: dict[str, Attack] = {}
# What the refusal has to say, where an attack could be refused for another reason as well.
SAYS = {
    "an evaluated version, test set not looked at": "carries no evidence",
    "evidence of another version": "the evidence is about version 2",
    "evidence renamed to this version": "the evidence is about run",
    "evidence by a stranger": "unknown key",
    "evidence by a revoked key": "revoked key",
    "verdict failed": "gate 1 is failed",
    "verdict absent": "gate 1 is absent",
    "verdict changed after signing": "changed after signing",
    "encoder without its gates": "gate 3 is absent, not passed; gate 4 is absent",
    "synthetic data without its gate": "gate 5 is absent",
    "promotion gate inconclusive": "promotion gate on the locked test set is inconclusive",
    "promotion gate not asked": "promotion gate on the locked test set is absent",
    "compared with no champion": "compared with version None, in Production is 1",
    "compared with an old champion": "compared with version 3, in Production is 1",
    "old thresholds": "judged by thresholds 888888888888",
    "another run": "the evidence is about run 0000",
    "other files": "files were changed after the evaluation",
    "files changed after signing": "files were changed after the evaluation",
    "a file added after signing": "files were changed after the evaluation",
    "look not in the ledger": "no look at the test set stands in this server's ledger",
    "rollback to what never held Production": "only to a version that held Production",
    "evidence of the champion replayed on another version": "the evidence is about version 1",
    "evaluation evidence in the place of promotion evidence": "set is absent",
    "words instead of evidence": "not readable",
    "a model deleted and made again, with the evidence of before": "the evidence is about run",
    "parameter on the run": "it is frozen",
    "data set on the run": "it is frozen",
    "model output on the run": "it is frozen",
    "copy of the champion as a new version": "the evidence is about version 1",
    "copy of the champion into another model": "the evidence is about version 1",
    "rename": "versions in Production's history",
    "delete the model": "versions in Production's history",
    "delete the version": "has held Production",
    "delete the version spelled 01": "has held Production",
    "champion spelled 01 to Archived": "holds Production",
    "delete the alias": "stands for Production",
    "tag on the run": "it is frozen",
    "batch on the run": "it is frozen",
    "upload-artifact": "they are frozen",
    "log_artifact by client": "they are frozen",
    "PUT file by api": "they are frozen",
    "DELETE file by ajax-api": "they are frozen",
    "DELETE run folder": "they are frozen",
    "DELETE experiment folder": "they are frozen",
    "artifact_location s3://elsewhere/x": "outside this server's artifact root",
    "a body over the limit": "larger than 1 MiB",
}


def attack(name: str) -> Callable[[Attack], Attack]:
    def keep(function: Attack) -> Attack:
        assert name not in ATTACKS
        ATTACKS[name] = function
        return function

    return keep


# Production without evidence, in every spelling.

for _prefix in ("api", "ajax-api"):
    for _stage in ("Production", "production", "PRODUCTION"):
        ATTACKS[f"stage {_stage} by {_prefix}"] = lambda w, s=_stage, p=_prefix: w.stage(
            "3", s, prefix=p
        )
    for _alias in ("production", "Production", "PRODUCTION", "live"):
        ATTACKS[f"alias {_alias} by {_prefix}"] = lambda w, a=_alias, p=_prefix: w.alias(
            "3", a, prefix=p
        )
for _alias in (" production", "production ", "\u00a0Production"):
    ATTACKS[f"alias {_alias!r}"] = lambda w, a=_alias: w.alias("3", a)
for _version in ("03", "+3", " 3", "\u0663"):
    ATTACKS[f"version spelled {_version!r}"] = lambda w, v=_version: w.stage(v, "Production")
ATTACKS |= {
    "stage with archive": lambda w: w.stage("3", "Production", archive_existing_versions=True),
    "stage as double-encoded JSON": lambda w: w.post(
        "model-versions/transition-stage",
        json.dumps({"name": NAME, "version": "3", "stage": "Production"}),
    ),
    "stage as text/plain": lambda w: w.server.send(
        "POST",
        "/api/2.0/mlflow/model-versions/transition-stage",
        {"name": NAME, "version": "3", "stage": "Production"},
        headers={"Content-Type": "text/plain"},
    ),
    "stage in chunks": lambda w: w.chunked(
        "model-versions/transition-stage",
        json.dumps({"name": NAME, "version": "3", "stage": "Production"}).encode(),
    ),
    "stage by a doubled slash": lambda w: w.followed(
        "//api/2.0//mlflow/model-versions/transition-stage",
        {"name": NAME, "version": "3", "stage": "Production"},
    ),
    "stage by another method": lambda w: w.server.send(
        "GET",
        f"/api/2.0/mlflow/model-versions/transition-stage?name={NAME}&version=3&stage=Production",
        headers={"X-HTTP-Method-Override": "POST"},
    ),
    "stage by client": lambda w: w.by_client(
        lambda c: c.transition_model_version_stage(NAME, "3", "production")
    ),
    "alias by client": lambda w: w.by_client(
        lambda c: c.set_registered_model_alias(NAME, "production", "3")
    ),
    "an evaluated version, test set not looked at": lambda w: w.stage("2", "Production"),
    "another model": lambda w: w.stage("1", "Production", name="Other"),
    "alias on another model": lambda w: w.alias("1", "production", name="Other"),
    "alias and stage in one request": lambda w: (
        w.post(
            "model-versions/create",
            {"name": NAME, "source": "s3://x/y", "stage": "Production", "aliases": ["production"]},
        )
        and w.stage("4", "Production")
    ),
}


# Evidence that is not what it should be. Version 2 is honestly evaluated, version 3 is not.


def prepared(version: str = "2", **changes) -> Attack:
    def act(world: World) -> Answer:
        world.prepare(version, **changes)
        return world.stage(version, "Production")

    return act


ATTACKS |= {
    "evidence of another version": prepared("3"),
    "evidence renamed to this version": lambda w: (
        w.prepare("3", version="3") or w.stage("3", "Production")
    ),
    "evidence by a stranger": prepared(key=Ed25519PrivateKey.generate()),
    "verdict failed": prepared(verdicts={"0": "passed", "1": "failed", "2": "passed"}),
    "verdict absent": prepared(verdicts={"0": "passed", "2": "passed"}),
    "encoder without its gates": prepared(uses_encoder=True),
    "synthetic data without its gate": prepared(uses_synthetic=True),
    "promotion gate inconclusive": prepared(promotion_verdict="inconclusive"),
    "promotion gate not asked": prepared(promotion_verdict=None),
    "compared with no champion": prepared(champion=None),
    "compared with an old champion": prepared(champion="3"),
    "old thresholds": prepared(thresholds_sha256="8" * 64),
    "another run": prepared(run_id="0" * 32),
    "other files": prepared(model_sha256="0" * 64),
    "look not in the ledger": prepared(look=False, data={"split_sha256": "9" * 64}),
    "rollback to what never held Production": prepared(purpose="rollback"),
}


@attack("evidence by a revoked key")
def _revoked(world: World) -> Answer:
    world.prepare("2", key=world.server.revoked_key)
    return world.stage("2", "Production")


@attack("verdict changed after signing")
def _changed_verdict(world: World) -> Answer:
    world.prepare("2", verdicts={"0": "passed", "1": "failed", "2": "passed"})
    text = world.client.get_model_version(NAME, "2").tags[TAG_PROMOTION_EVIDENCE]
    world.tag("2", text.replace("failed", "passed"))
    return world.stage("2", "Production")


@attack("evidence of the champion replayed on another version")
def _replay(world: World) -> Answer:
    text = world.client.get_model_version(NAME, "1").tags[TAG_PROMOTION_EVIDENCE]
    world.tag("3", text)
    return world.stage("3", "Production")


@attack("evaluation evidence in the place of promotion evidence")
def _evaluation(world: World) -> Answer:
    world.tag("2", world.client.get_model_version(NAME, "2").tags[TAG_EVIDENCE])
    return world.alias("2", "production")


@attack("words instead of evidence")
def _words(world: World) -> Answer:
    world.tag("2", "all gates passed, trust me")
    return world.stage("2", "Production")


@attack("tags, metrics and run tags that say passed")
def _tags(world: World) -> Answer:
    run_id = world.client.get_model_version(NAME, "3").run_id
    world.client.set_model_version_tag(NAME, "3", "moola.verdict", "passed")
    world.client.set_tag(run_id, "moola.verdict", "passed")
    world.client.log_metric(run_id, "log_loss", 0.0)
    return world.stage("3", "Production")


@attack("files changed after signing")
def _changed_files(world: World) -> Answer:
    version = make_version(world.client, world.folder, weights="good")
    evaluate(world.client, world.server.key, version)
    evidence = world.evidence(version)
    world.prepare(
        version, version=version, run_id=evidence.run_id, model_sha256=evidence.model_sha256
    )
    changed = f"{world.experiment_id}/{evidence.run_id}/artifacts/model/weights.safetensors"
    assert world.put(changed)[0] == 200
    return world.stage(version, "Production")


@attack("a file added after signing")
def _added_file(world: World) -> Answer:
    version = make_version(world.client, world.folder, weights="good")
    evaluate(world.client, world.server.key, version)
    evidence = world.evidence(version)
    world.prepare(
        version, version=version, run_id=evidence.run_id, model_sha256=evidence.model_sha256
    )
    added = f"{world.experiment_id}/{evidence.run_id}/artifacts/model/code/__pycache__/x.pyc"
    assert world.put(added)[0] == 200
    return world.stage(version, "Production")


@attack("a model deleted and made again, with the evidence of before")
def _made_again(world: World) -> Answer:
    name = "Again"
    make_version(world.client, world.folder, weights="proven", name=name)
    evaluate(world.client, world.server.key, "1", name=name)
    tag = world.client.get_model_version(name, "1").tags[TAG_EVIDENCE]
    proven = verify(SignedEvidence.from_json(tag), trusting(world.server.key))
    world.client.delete_registered_model(name)
    make_version(world.client, world.folder, weights="unproven", name=name)
    subject = {"name": name, "version": "1", "run_id": proven.run_id, "champion": None}
    world.prepare("1", subject=subject | {"model_sha256": proven.model_sha256}, at=name)
    answer = world.stage("1", "Production", name=name)
    world.client.delete_registered_model(name)
    return answer


@attack("copy of the champion as a new version")
def _copy(world: World) -> Answer:
    copy = world.client.copy_model_version(f"models:/{NAME}/1", NAME)
    return world.stage(str(copy.version), "Production")


@attack("copy of the champion into another model")
def _copy_out(world: World) -> Answer:
    copy = world.client.copy_model_version(f"models:/{NAME}/1", "Other")
    text = world.client.get_model_version(NAME, "1").tags[TAG_PROMOTION_EVIDENCE]
    world.tag(str(copy.version), text, name="Other")
    return world.alias(str(copy.version), "production", name="Other")


# Taking the champion away, or its history.

_MODEL = {"name": NAME}
_ONE = {"name": NAME, "version": "1"}
for _stage in ("Archived", "None", "Staging"):
    ATTACKS[f"champion to {_stage}"] = lambda w, s=_stage: w.stage("1", s)
ATTACKS |= {
    "champion spelled 01 to Archived": lambda w: w.stage("01", "Archived"),
    "rename": lambda w: w.post("registered-models/rename", {**_MODEL, "new_name": "Else"}),
    "rename by client": lambda w: w.by_client(lambda c: c.rename_registered_model(NAME, "Else")),
    "delete the model": lambda w: w.post("registered-models/delete", _MODEL, method="DELETE"),
    "delete and recreate": lambda w: w.by_client(lambda c: c.delete_registered_model(NAME)),
    "delete the version": lambda w: w.post("model-versions/delete", _ONE, method="DELETE"),
    "delete the version spelled 01": lambda w: w.post(
        "model-versions/delete", {"name": NAME, "version": "01"}, method="DELETE"
    ),
    "delete the alias": lambda w: w.post(
        "registered-models/alias", {"name": NAME, "alias": "production"}, method="DELETE"
    ),
    "rename another model onto it": lambda w: w.post(
        "registered-models/rename", {"name": "Other", "new_name": NAME}
    ),
}


# The champion's files and run.


def spelled(name: str, spell: Callable[[World], str]) -> None:
    for prefix in ("api", "ajax-api"):
        for method in ("PUT", "DELETE"):
            ATTACKS[f"{method} {name} by {prefix}"] = lambda w, p=prefix, m=method: w.put(
                spell(w), prefix=p, method=m
            )


spelled("file", lambda w: w.file)
spelled("file with %2f", lambda w: w.file.replace("/", "%2f"))
spelled("file with %252f", lambda w: w.file.replace("/", "%252f"))
spelled("file with //", lambda w: w.file.replace("/", "//"))
spelled("file with /./", lambda w: w.file.replace("/", "/./"))
spelled("file with ..", lambda w: f"{w.experiment_id}/x/../{w.run_id}/artifacts/model/MLmodel")
spelled("file with %2e%2e", lambda w: f"{w.experiment_id}/x/%2e%2e/{w.run_id}/artifacts/model/x")
spelled("a new file beside it", lambda w: f"{w.root}/model/code/sitecustomize.py")
for _name, _spell in {
    "run folder": lambda w: w.root,
    "experiment folder": lambda w: w.experiment_id,
    "everything": lambda w: ".",
}.items():
    ATTACKS[f"DELETE {_name}"] = lambda w, s=_spell: w.put(s(w), method="DELETE")

ATTACKS |= {
    "upload-artifact": lambda w: w.server.send(
        "POST",
        f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={w.run_id}&path=model/weights.safetensors",
        b"evil",
    ),
    "log_artifact by client": lambda w: w.by_client(
        lambda c: c.log_text(w.run_id, "evil", "model/weights.safetensors")
    ),
    "multipart create": lambda w: w.server.send(
        "POST",
        f"/api/2.0/mlflow-artifacts/mpu/create/{w.root}/model",
        {"path": "weights.safetensors", "num_parts": 1},
    ),
    "multipart complete": lambda w: w.server.send(
        "POST",
        f"/api/2.0/mlflow-artifacts/mpu/complete/{w.root}/model",
        {"path": "weights.safetensors", "upload_id": "1", "parts": [{"part_number": 1}]},
    ),
    "delete the run": lambda w: w.post("runs/delete", {"run_id": w.run_id}),
    "delete the experiment": lambda w: w.post(
        "experiments/delete", {"experiment_id": w.experiment_id}
    ),
    "tag on the run": lambda w: w.post(
        "runs/set-tag", {"run_id": w.run_id, "key": "mlflow.note.content", "value": "evil"}
    ),
    "metric on the run": lambda w: w.post(
        "runs/log-metric", {"run_id": w.run_id, "key": "log_loss", "value": 0, "timestamp": 1}
    ),
    "batch on the run": lambda w: w.post(
        "runs/log-batch",
        {"run_id": w.run_id, "metrics": [{"key": "log_loss", "value": 0, "timestamp": 1}]},
    ),
    "metric on the run by its old name": lambda w: w.post(
        "runs/log-metric", {"run_uuid": w.run_id, "key": "log_loss", "value": 0, "timestamp": 1}
    ),
    "parameter on the run": lambda w: w.post(
        "runs/log-parameter", {"run_id": w.run_id, "key": "split", "value": "none"}
    ),
    "data set on the run": lambda w: w.post(
        "runs/log-inputs",
        {
            "run_id": w.run_id,
            "datasets": [
                {"dataset": {"name": "d", "digest": "0", "source_type": "x", "source": "y"}}
            ],
        },
    ),
    "model output on the run": lambda w: w.post(
        "runs/outputs", {"run_id": w.run_id, "models": [{"model_id": "m-1", "step": 0}]}
    ),
    "tag taken off the run": lambda w: w.post(
        "runs/delete-tag", {"run_id": w.run_id, "key": "mlflow.runName"}
    ),
    "reopen the run": lambda w: w.post("runs/update", {"run_id": w.run_id, "status": "RUNNING"}),
}


# Other doors.


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


@attack("source on another host")
def _foreign_source(world: World) -> Answer:
    source = f"mlflow-artifacts://elsewhere/{world.root}/model"
    body = {"name": NAME, "source": source, "run_id": world.run_id}
    status, text = world.post("model-versions/create", body)
    if status != 200:
        return status, text
    version = json.loads(text)["model_version"]["version"]
    first = world.evidence("1")
    world.prepare(version, version=version, run_id=first.run_id, model_sha256=first.model_sha256)
    return world.stage(version, "Production")


def change_on_disk(world: World) -> Path:
    """Change a file of the champion past the server, as its operator could."""
    path = world.folder / "mlartifacts" / world.file
    path.write_text("changed on disk")
    return path
