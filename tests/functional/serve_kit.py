"""A store with small real versions, their promotions, and the two servers over it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from job_kit import mlflow_process, server_process
from mlflow import MlflowClient
from numpy.typing import NDArray
from promotion_kit import ask_promotion, ask_rollback, evaluate

from moola.config import names
from moola.config.promotion import TRUSTED_FOLDER
from moola.config.training import FinetuneConfig
from moola.promotion.decision import Decision
from moola.promotion.evidence.keys import trust
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.local import LocalLedger
from moola.serving.pyfunc import log_model
from moola.training.finetune import build_model
from moola.training.stored_config import TRAINED_AS

NAME = names.REGISTERED_MODEL
CLASSES = ("consolidation", "expansion")
T = 105
TEMPERATURE = 1.3


def random_windows(num: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return windows of random walks that keep the rules of OHLC, shape (num, 105, 4)."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (num, T)), axis=1))
    open_ = np.roll(close, 1, axis=1)
    open_[:, 0] = close[:, 0]
    high = np.maximum(open_, close) * 1.001
    low = np.minimum(open_, close) * 0.999
    return np.stack([open_, high, low, close], axis=2).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server answered."""

    status: int
    body: bytes
    headers: dict[str, str]

    def rows(self) -> list[dict]:
        assert self.status == 200, (self.status, self.body[:300])
        return json.loads(self.body)["predictions"]

    def proba(self) -> NDArray[np.float64]:
        return np.array([[row[f"probability_{c}"] for c in CLASSES] for row in self.rows()])


class Caller:
    """Requests over one kept connection."""

    def __init__(self, url: str):
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def __call__(
        self,
        body: bytes | str = b"",
        content_type: str | None = "application/json",
        *,
        method: str = "POST",
        path: str = "/invocations",
        **headers: str,
    ) -> Reply:
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        if content_type is not None:
            named["content-type"] = content_type
        self._connection.request(method, path, body or None, named)
        answer = self._connection.getresponse()
        found = {k.lower(): v for k, v in answer.getheaders()}
        return Reply(status=answer.status, body=answer.read(), headers=found)

    def get(self, path: str, **headers: str) -> Reply:
        return self(b"", None, method="GET", path=path, **headers)

    def close(self) -> None:
        self._connection.close()


def as_json(X: NDArray, **more: object) -> bytes:
    """Return the JSON body of windows."""
    return json.dumps({"inputs": X.tolist(), **more}).encode()


def npz(X: NDArray) -> bytes:
    """Return the npz body of windows."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, X=X)
    return buffer.getvalue()


@dataclass(kw_only=True)
class Stand:
    """A store, its ledger, a gate runner's key, and versions made of estimators of their own."""

    folder: Path
    client: MlflowClient
    ledger: Ledger
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    models: dict[str, object] = field(default_factory=dict)

    def make_version(self, *, seed: int) -> str:
        """Fit a small classifier, log and register it, and sign a passed evaluation."""
        config = FinetuneConfig(preset="compact", epochs=1, patience=0, seed=seed, device="cpu")
        model = build_model(config, "cpu").fit(random_windows(32, seed=seed), np.arange(32) % 2)
        checkpoint = self.folder / f"made-{seed}" / "checkpoint"
        extra = {
            "temperature": TEMPERATURE,
            "class_names": list(CLASSES),
            "conformal": {"threshold": 0.4, "level": 0.9, "num_windows": 32},
            TRAINED_AS: config.to_dict(),
        }
        model.save(checkpoint, extra=extra)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.uri)
        try:
            mlflow.set_experiment("work")
            with mlflow.start_run() as run:
                info = log_model(checkpoint, window_bars=T, class_names=CLASSES)
            version = mlflow.register_model(
                f"models:/{info.model_id}", NAME, await_registration_for=None
            )
        finally:
            mlflow.set_tracking_uri(before)
            os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # set_experiment leaves it behind
        assert version.run_id == run.info.run_id
        evaluate(self.client, self.key, str(version.version))
        self.models[str(version.version)] = model
        return str(version.version)

    def promote(self, version: str) -> Decision:
        return ask_promotion(self.client, self.ledger, self.key, version, signing_key=self.key)

    def rollback(self, to: str) -> Decision:
        return ask_rollback(self.client, self.ledger, self.key, to=to, signing_key=self.key)

    def weights_of(self, version: str) -> Path:
        """Return the weights file of a version in the store."""
        uri = self.client.get_model_version_download_uri(NAME, version)
        folder = Path(uri.removeprefix("file://"))
        return folder / "artifacts" / "checkpoint" / "model.safetensors"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"


def expected_proba(stand: Stand, X: NDArray, version: str) -> NDArray[np.float64]:
    """Return the calibrated probabilities of the estimator that was fitted in this process."""
    odds = np.exp(stand.models[version].decision_function(X) / TEMPERATURE)
    return odds / odds.sum(axis=1, keepdims=True)


def make_stand(folder: Path, template_db: Path) -> Stand:
    """Return a stand with two versions, the first of them in Production."""
    shutil.copy(template_db, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(uri)
    client.create_experiment("work", artifact_location=(folder / "mlartifacts").as_uri())
    stand = Stand(folder=folder, client=client, ledger=LocalLedger(uri))
    trust(folder / TRUSTED_FOLDER, stand.key.public_key())
    for seed in (1, 2):
        stand.make_version(seed=seed)
    stand.promote("1")
    return stand


def copy_of(stand: Stand, folder: Path) -> Stand:
    """Return a stand whose Production and ledger go their own way; the files are the same."""
    shutil.copy(stand.folder / "mlflow.db", folder / "mlflow.db")
    shutil.copytree(stand.folder / TRUSTED_FOLDER, folder / TRUSTED_FOLDER)
    uri = f"sqlite:///{folder}/mlflow.db"
    return Stand(
        folder=folder,
        client=MlflowClient(uri),
        ledger=LocalLedger(uri),
        key=stand.key,
        models=dict(stand.models),
    )


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def moola_serve(stand: Stand, *options: str, **env: str) -> Iterator[tuple[str, int]]:
    """Run `moola serve` over a stand; yields its address and process id."""
    with (
        in_folder(stand.folder),
        server_process(
            "moola", "serve", "--port", "{port}", "--poll", "0.2", *options,
            ready="/ping", log=stand.folder / "serve.log", MLFLOW_TRACKING_URI=stand.uri, **env,
        ) as server,
    ):  # fmt: skip
        yield server


@contextmanager
def mlflow_serve(stand: Stand, model: str, *options: str) -> Iterator[str]:
    """Run `mlflow models serve` over a stand; yields its address."""
    with mlflow_process(
        "models", "serve", "-m", f"models:/{NAME}{model}", "--env-manager", "local",
        "-h", "127.0.0.1", "-p", "{port}", *options,
        ready="/ping", MLFLOW_TRACKING_URI=stand.uri,
        MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    ) as url:  # fmt: skip
        yield url


@contextlib.contextmanager
def calling(url: str) -> Iterator[Caller]:
    caller = Caller(url)
    try:
        yield caller
    finally:
        caller.close()
