"""A guarded server with versions in every state, and what an attacker can send to it."""

from __future__ import annotations

import contextlib
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
from guard_state import frozen_rows
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from promotion_kit import (
    NAME,
    ask_promotion,
    evaluate,
    look_at,
    make_logged_version,
    make_version,
    trusting,
)

from moola.config.policy import Policy
from moola.config.promotion import (
    TAG_EVIDENCE,
    TAG_PROMOTION_EVIDENCE,
    TRUSTED_FOLDER,
    PromotionPolicy,
)
from moola.errors import TrackingError
from moola.hashing import sha256_file
from moola.promotion.decision import Decision
from moola.promotion.evidence.attestation import Evidence, SignedEvidence, sign, verify
from moola.promotion.evidence.keys import key_id
from moola.promotion.guard.core import Guard
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.ledger.remote import RemoteLedger

KEPT = "Kept"  # a second model with a version in Production, made from a logged model
Answer = tuple[int, str]
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
    """A guarded server with version 1 in Production, 2 evaluated, 3 bare, and other models."""

    def __init__(self, server: Server, *, location: str | None = None):
        self.server, self.folder = server, server.folder
        self.client: MlflowClient = server.client()
        self.ledger = RemoteLedger(server.url)
        self.engine = sa.create_engine(server.backend)
        self.client.create_experiment("work", location)
        for number in range(3):
            make_version(self.client, self.folder, weights=f"w{number}")
        for version in ("1", "2"):
            evaluate(self.client, server.key, version)
        make_version(self.client, self.folder, weights="other", name="Other")
        self.promote("1")
        make_logged_version(self.client, self.folder, name=KEPT)
        evaluate(self.client, server.key, "1", name=KEPT)
        self.promote("1", KEPT)
        source = str(self.client.get_model_version(KEPT, "1").source)
        self.logged = source.removeprefix("models:/")
        self.run_id = self.client.get_model_version(NAME, "1").run_id
        self.experiment_id = self.client.get_run(self.run_id).info.experiment_id
        self.root = self.place(self.client.get_run(self.run_id).info.artifact_uri)
        self.file = f"{self.root}/model/weights.safetensors"
        self.before = self.state()

    def promote(self, version: str, name: str = NAME) -> Decision:
        return honest(self.server, version, ledger=self.ledger, name=name, who="ann")

    def frozen(self) -> dict[str, Any]:
        """Return what no request may change by what it is, read past the server."""
        with self.engine.connect() as connection:
            rows = frozen_rows(
                connection, run=self.run_id, experiment=self.experiment_id, logged=self.logged
            )
        kept = self.place(self.client.get_logged_model(self.logged).artifact_location)
        files = {"files": self.files(self.root), "files of the logged model": self.files(kept)}
        return {**rows, **files}

    def state(self) -> dict[str, Any]:
        """Return that, and the versions and aliases of all models, which no attack changes."""
        questions = (
            "SELECT name, version, run_id, source FROM model_versions WHERE version = 1",
            "SELECT name, alias, version FROM registered_model_aliases",
        )
        with self.engine.connect() as connection:
            rows = {q: sorted(map(tuple, connection.execute(sa.text(q)))) for q in questions}
        return {**self.frozen(), **rows}

    def place(self, address: str) -> str:
        """Return the path of an artifact address below the server's artifact root."""
        inside = address.removeprefix("mlflow-artifacts:").removeprefix(self.server.artifacts)
        return inside.strip("/")

    def files(self, place: str) -> dict[str, str]:
        """Return the digest of every file below a place of the store, and its empty folders."""
        if self.server.artifacts.startswith("s3:"):
            return objects(self.server.artifacts, place, self.server.env)
        root = Path(self.server.artifacts) / place
        assert root.is_dir(), root
        return {
            str(path.relative_to(root)): sha256_file(path) if path.is_file() else ""
            for path in sorted(root.rglob("*"))
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
            "evaluated_at": self.evidence("2").created_at,
            "key_id": key_id(key.public_key()),
            **changes,
            **(subject or {}),
        }
        evidence = dataclasses.replace(self.evidence("2"), **values)
        if look:
            with contextlib.suppress(TrackingError):  # the server takes none that it cannot check
                carries = TAG_EVIDENCE in self.client.get_model_version(at, target).tags
                evaluation = self.evidence(target if carries and at == NAME else "2")
                split = str(evidence.data["split_sha256"])
                look_at(
                    self.ledger, self.server.key, target, evaluation, name=at, split_sha256=split
                )
        self.tag(target, sign(evidence, key).to_json(), name=at)

    def tag(self, version: str, text: str, *, name: str = NAME) -> None:
        self.client.set_model_version_tag(name, version, TAG_PROMOTION_EVIDENCE, text)


Attack = Callable[[World], Answer]


def objects(bucket: str, place: str, env: Mapping[str, str]) -> dict[str, str]:
    """Return the tag and size of every object below a place of an S3 store."""
    import boto3

    store = boto3.client(
        "s3",
        endpoint_url=env["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
    )
    name, _, prefix = bucket.removeprefix("s3://").partition("/")
    pages = store.get_paginator("list_objects_v2").paginate(
        Bucket=name, Prefix=f"{prefix}/{place}/"
    )
    return {o["Key"]: f"{o['ETag']} {o['Size']}" for p in pages for o in p.get("Contents", ())}


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
        policy=Policy.for_ohlc(PromotionPolicy(**policy)),
        trusted_folder=folder / TRUSTED_FOLDER,
        ledger=LocalLedger(f"sqlite:///{folder}/mlflow.db"),
        artifacts_destination=str(folder),
        artifact_root=str(folder),
        lock_file=folder / "lock",
    )
