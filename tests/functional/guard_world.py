"""A guarded server with versions in every state, and what an attacker can send to it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guard_server import Server, running
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from promotion_kit import NAME, ask_promotion, evaluate, make_version, trusting

from moola.config.promotion import (
    TAG_EVIDENCE,
    TAG_PROMOTION_EVIDENCE,
    TRUSTED_FOLDER,
    PromotionPolicy,
)
from moola.promotion.decision import Decision
from moola.promotion.digest import model_files_digest
from moola.promotion.evidence import Evidence, SignedEvidence, sign, verify
from moola.promotion.guard_core import Guard
from moola.promotion.keys import key_id
from moola.promotion.ledger import Draft, Ledger
from moola.promotion.remote import RemoteLedger

Answer = tuple[int, str]
S3_PREFIX = "artifacts"  # of the guarded server's files in the bucket of `services.s3_store`
THRESHOLDS = "7" * 64
POLICY = (
    f"thresholds_sha256: ['{THRESHOLDS}']\nmax_body_mib: 1\nprotected_aliases: [production, live]\n"
)


def honest(
    server: Server, version: str, *, ledger: Ledger, name: str = NAME, **changes: Any
) -> Decision:
    """Ask a server for Production as `moola promote` does."""
    changes = {"name": name, "who": version, "signing_key": server.key, **changes}
    return ask_promotion(server.client(), ledger, server.key, version, **changes)


class World:
    """A guarded server with version 1 in Production, 2 evaluated, 3 bare, and a second model."""

    def __init__(self, server: Server, *, s3: Mapping[str, str] | None = None):
        self.server, self.folder = server, server.folder
        self.bucket = None if s3 is None else s3_bucket(s3)
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

    def promote(self, version: str, name: str = NAME) -> Decision:
        return honest(self.server, version, ledger=self.ledger, name=name, who="ann")

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
        return (*rows, self.files())

    def files(self) -> object:
        """Return digests of the champion's files, read past the server."""
        if self.bucket is None:
            return model_files_digest(self.folder / "mlartifacts" / self.root / "model")
        prefix = f"{S3_PREFIX}/{self.root}/model/"
        return {
            item.key: item.get()["Body"].read()
            for item in self.bucket.objects.filter(Prefix=prefix)
        }

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
            "test_looks": 1 + len(self.ledger.entries(events=("test_look",))),
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


def s3_bucket(env: Mapping[str, str]) -> Any:
    """Return boto3's view of the bucket of `services.s3_store`."""
    import boto3

    found = boto3.resource(
        "s3",
        endpoint_url=env["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
    )
    return found.Bucket("moola")


def change_on_disk(world: World) -> Path:
    """Change a file of the champion past the server, as its operator could."""
    path = world.folder / "mlartifacts" / world.file
    path.write_text("changed on disk")
    return path


@contextmanager
def guarded_world(folder: Path, template: Path) -> Iterator[World]:
    """Start a guarded server on a copy of an empty store."""
    shutil.copy(template, folder / "mlflow.db")
    with running(folder, policy=POLICY) as server:
        world = World(server)
        yield world
        world.engine.dispose()


def local_guard(folder: Path, **policy: object) -> Guard:
    """Return the guard of a store on SQLite, without a server."""
    return Guard(
        policy=PromotionPolicy(**policy),
        trusted_folder=folder / TRUSTED_FOLDER,
        ledger=Ledger(f"sqlite:///{folder}/mlflow.db"),
        artifacts_destination=str(folder),
        artifact_root=str(folder),
        lock_file=folder / "lock",
    )
