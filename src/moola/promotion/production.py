"""Production of one registered model: who holds it, who held it, and moving it."""

from __future__ import annotations

import getpass
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import mlflow
from mlflow.exceptions import MlflowException

from moola.config.policy import Policy
from moola.config.promotion import KEY_FILE, KEY_FOLDER, TRUSTED_FOLDER
from moola.errors import ConfigError
from moola.promotion import promote, rollback, verify
from moola.promotion.decision import Decision, PromotionGate
from moola.promotion.evidence.attestation import SignedEvidence
from moola.promotion.evidence.keys import (
    ensure_signing_key,
    key_is_given,
    load_signing_key,
    load_trusted_keys,
)
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.remote import open_ledger
from moola.promotion.parts import ProductionParts
from moola.promotion.rollback import History
from moola.promotion.verify import Verification

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from mlflow import MlflowClient


class Production(ProductionParts):
    """Production of one registered model; see `ProductionParts` for what it is made of."""

    @classmethod
    def of_project(
        cls,
        client: MlflowClient,
        name: str,
        *,
        ledger_url: str | None = None,
        project: Path = Path(),
        who: str | None = None,
    ) -> Self:
        """Return a model's Production by the keys and the policy of a project.

        Parameters
        ----------
        client
            Client of the registry.
        name
            The registered model.
        ledger_url
            Database or guarded server that keeps the ledger; None takes the registry's own.
        project
            Folder that holds ``.moola`` (policy, trusted keys, signing key) and ``data``.
        who
            Who asks; None: the user of this process.
        """
        rules = Policy.in_force(project)
        return cls(
            client=client,
            ledger=ledger_of(ledger_url, project),
            name=name,
            keys=load_trusted_keys(project / TRUSTED_FOLDER),
            policy=rules.ohlc,
            given_rules=rules,
            who=who or getpass.getuser(),
            signing_key=signing_key(project),
            project=project,
            data_root=project / "data",
        )

    def promote(
        self,
        version: str,
        gate: PromotionGate,
        *,
        evidence: SignedEvidence | None = None,
        dry_run: bool = False,
    ) -> Decision:
        """Move Production to a version; see `moola.promotion.promote.promote`."""
        return promote.promote(self, version, gate, evidence=evidence, dry_run=dry_run)

    def rollback(self, *, reason: str, to: str | None = None, dry_run: bool = False) -> Decision:
        """Put back a version that held Production; see `moola.promotion.rollback.rollback`."""
        return rollback.rollback(self, reason=reason, to=to, dry_run=dry_run)

    def challenger(self, version: str) -> Decision:
        """Name a challenger; see `moola.promotion.rollback.set_challenger`."""
        return rollback.set_challenger(self, version)

    def history(self, at: datetime | None = None) -> History:
        """Return all decisions up to a time; see `moola.promotion.rollback.history`."""
        return rollback.history(self, at)

    def verify(self) -> Verification:
        """Read the whole history again; see `moola.promotion.verify.verify`."""
        return verify.verify(self)

    def require_model(self) -> None:
        """Raise ConfigError if there is no registered model of that name."""
        try:
            self.client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            names = ", ".join(m.name for m in self.client.search_registered_models(max_results=20))
            raise ConfigError(
                f"registered model {self.name!r} does not exist",
                limit=f"one of {names}" if names else None,
                remedy=None if names else "Train a candidate first: `moola train`",
            ) from None


def ledger_of(url: str | None = None, project: Path = Path()) -> Ledger:
    """Open the ledger: the one given, else the registry's own (a database or a guarded server).

    How far it goes is kept in the project's ``.moola/checkpoints`` and compared at the next call.
    """
    return open_ledger(url or mlflow.get_registry_uri(), project=project)


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
