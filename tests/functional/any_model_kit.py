"""Models of five makes, registered on a guarded server, and what is attested about them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guard_server import Server
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from moola.config.promotion import TRUSTED_FOLDER
from moola.promotion.evidence.keys import trust
from moola.promotion.evidence.predicates import About, Compared, Content, SuiteRun, attest
from moola.promotion.versions.digest import model_file_digests

MAKES = ("sklearn", "lightgbm", "torch", "code", "pyfunc")
PASSED = SuiteRun(passed=True, command=("pytest",), exit_code=0, seconds=1.0)
POLICY = """
version: 2
mode: {mode}
rules:
  - name: churn
    models: ["churn*"]
    aliases: [champion, production]
    signed_by: [ci]
    require: [tests]
max_body_mib: 4
break_glass: {{by: [ann], hours: 1}}
"""
CODE = """
import mlflow
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [{answer}] * len(model_input)
mlflow.models.set_model(Model())
"""


class Constant(mlflow.pyfunc.PythonModel):
    """Answers one number."""

    def __init__(self, answer: float):
        self.answer = answer

    def predict(self, context: Any, model_input: Any, params: Any = None) -> list[float]:
        return [self.answer] * len(model_input)


def log(make: str, folder: Path, *, seed: int = 0) -> str:
    """Log a fitted model of a make and return its address."""
    draw = np.random.default_rng(seed)
    X = pd.DataFrame(draw.normal(size=(80, 3)), columns=["a", "b", "c"])
    y = (X["a"] + draw.normal(size=80) > 0).astype(int)
    needs: dict[str, Any] = {"name": "model", "pip_requirements": ["mlflow"]}
    if make == "sklearn":
        from sklearn.linear_model import LogisticRegression

        return str(mlflow.sklearn.log_model(LogisticRegression().fit(X, y), **needs).model_uri)
    if make == "lightgbm":
        from lightgbm import LGBMClassifier

        fitted = LGBMClassifier(n_estimators=3, verbose=-1).fit(X, y)
        return str(mlflow.lightgbm.log_model(fitted, **needs).model_uri)
    if make == "torch":
        import torch

        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Linear(3, 2))
        example = X.to_numpy("float32")[:4]
        logged = mlflow.pytorch.log_model(net, input_example=example, **needs)
        return str(logged.model_uri)
    if make == "code":
        path = folder / f"model_{seed}.py"
        path.write_text(CODE.format(answer=seed))
        return str(mlflow.pyfunc.log_model(python_model=str(path), **needs).model_uri)
    return str(mlflow.pyfunc.log_model(python_model=Constant(float(seed)), **needs).model_uri)


def register(server: Server, make: str, name: str, folder: Path, *, seed: int = 0) -> str:
    """Log and register a model on a server; return the version."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server.url)
    try:
        with mlflow.start_run(experiment_id="0"):  # whatever another test has set
            address = log(make, folder, seed=seed)
        made = mlflow.register_model(address, name, await_registration_for=None)
    finally:
        mlflow.set_tracking_uri(before)
    return str(made.version)


def signer(folder: Path, name: str) -> Ed25519PrivateKey:
    """Make a key that a server trusts under a name."""
    key = Ed25519PrivateKey.generate()
    trust(folder / TRUSTED_FOLDER, key.public_key(), name=name)
    return key


def files_of(client: MlflowClient, name: str, version: str, folder: Path) -> Mapping[str, str]:
    """Return the digests of a version's files."""
    address = client.get_model_version_download_uri(name, version)
    folder.mkdir(parents=True, exist_ok=True)
    repository = get_artifact_repository(address, tracking_uri=client.tracking_uri)
    return model_file_digests(Path(repository.download_artifacts("", str(folder))))


def envelope(
    client: MlflowClient,
    key: Ed25519PrivateKey,
    name: str,
    version: str,
    folder: Path,
    content: Content = PASSED,
    *,
    about: Mapping[str, Any] | None = None,
) -> str:
    """Return an attestation about a version as it is now."""
    told: dict[str, Any] = {
        "model": name,
        "version": version,
        "run_id": client.get_model_version(name, version).run_id,
        "created_at": datetime.now(UTC).isoformat(),
        **(about or {}),
    }
    files = files_of(client, name, version, folder)
    return attest(About(**told), content, files, key).to_json()


def better(other: str, *, high: float = -0.01) -> Compared:
    """Return a comparison that ends at `high`."""
    return Compared(
        other=other, metric="log_loss", difference=high - 0.01, low=high - 0.02, high=high,
        level=0.95, rows=500, method="rows", identical=False, look=1,
    )  # fmt: skip
