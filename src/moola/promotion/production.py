"""A project's side of promotion: its ledger, keys and policy, and whether a model exists."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from mlflow.exceptions import MlflowException

from moola.config.promotion import KEY_FILE, KEY_FOLDER, TRUSTED_FOLDER, PromotionPolicy
from moola.errors import ConfigError
from moola.promotion.evidence.keys import (
    TrustedKeys,
    ensure_signing_key,
    key_is_given,
    load_signing_key,
    load_trusted_keys,
)
from moola.promotion.ledger.local import Ledger
from moola.promotion.ledger.remote import open_ledger

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from mlflow import MlflowClient


def ledger_of(url: str | None = None, project: Path = Path()) -> Ledger:
    """Open the ledger: the one given, else the registry's own (a database or a guarded server).

    How far it goes is kept in the project's ``.moola/checkpoints`` and compared at the next call.
    """
    return open_ledger(url or mlflow.get_registry_uri(), project=project)


def rules_now(project: Path) -> tuple[TrustedKeys, PromotionPolicy]:
    """Read trusted keys and policy as they are now."""
    return load_trusted_keys(project / TRUSTED_FOLDER), PromotionPolicy.in_force(project)


def signing_key(project: Path) -> Ed25519PrivateKey | None:
    """Return the gate runner's key, or None where this project has none."""
    if not key_is_given(os.environ) and not (project / KEY_FOLDER / KEY_FILE).exists():
        return None
    return load_signing_key(project, env=os.environ)


def runner_key(project: Path) -> Ed25519PrivateKey:
    """Return the gate runner's key; where this project has none, one is made and trusted."""
    key = signing_key(project)
    if key is None:
        ensure_signing_key(project)
        key = load_signing_key(project, env=os.environ)
    return key


def require_model(client: MlflowClient, name: str) -> None:
    """Raise ConfigError if there is no registered model of that name."""
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = ", ".join(m.name for m in client.search_registered_models(max_results=20))
        raise ConfigError(
            f"registered model {name!r} does not exist",
            limit=f"one of {known}" if known else None,
            remedy=None if known else "Train a candidate first: `moola train`",
        ) from None
