"""The parts of every decision about Production: registry, ledger, keys, policy, and who asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Self

from moola.config.policy import Policy
from moola.config.promotion import TRUSTED_FOLDER, PromotionPolicy
from moola.errors import ConfigError
from moola.promotion.evidence.keys import TrustedKeys, key_id, load_trusted_keys
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.entry import plain_name, plain_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from mlflow import MlflowClient


@dataclass(frozen=True, kw_only=True)
class ProductionParts:
    """Everything that a promotion, a rollback or a look at the history of one model needs.

    Parameters
    ----------
    client
        Client of the registry.
    ledger
        The ledger, usually in the registry's database.
    name
        The registered model.
    keys
        Keys whose signature counts.
    policy
        What the profile ``ohlc`` requires.
    given_rules
        The rules in force; None: those that ask for that profile of every model.
    who
        Who asks; goes into the ledger.
    signing_key
        The gate runner's key, which signs looks, evidence and, on a plain store, the lines of the
        ledger. Only reading and dry runs do without.
    project
        Folder whose ``.moola`` is read again at the moment of a move; None reads the keys' own
        folder again and keeps the policy.
    data_root
        Root of the data store, which knows the classes of a labelled set; None: there is none.

    Raises
    ------
    BadInput
        If name or `who` are no such things.
    """

    client: MlflowClient
    ledger: Ledger
    name: str
    keys: TrustedKeys
    policy: PromotionPolicy
    who: str
    signing_key: Ed25519PrivateKey | None = None
    project: Path | None = None
    data_root: Path | None = None
    given_rules: Policy | None = None

    def __post_init__(self) -> None:
        plain_name(self.name)
        plain_text("who", self.who)

    @property
    def rules(self) -> Policy:
        """The rules in force."""
        return self.given_rules or Policy.for_ohlc(self.policy)

    def rules_now(self) -> tuple[TrustedKeys, PromotionPolicy]:
        """Return keys and policy as they are now, which may differ from when the checks began."""
        keys, policy = self.policy_now()
        return keys, policy.ohlc

    def policy_now(self) -> tuple[TrustedKeys, Policy]:
        """Return keys and all rules as they are now."""
        if self.project is None:
            return self.keys.now(), self.rules
        return load_trusted_keys(self.project / TRUSTED_FOLDER), Policy.in_force(self.project)

    def signing(self) -> Self:
        """Return the same with a ledger whose lines are signed.

        Raises
        ------
        ConfigError
            If there is no signing key, or it would not count.
        """
        return replace(self, ledger=self.ledger.signing(self.require_signing_key()))

    def require_signing_key(self) -> Ed25519PrivateKey:
        """Return the gate runner's key; raises ConfigError if there is none that counts."""
        key = self.signing_key
        if key is None:
            raise ConfigError(
                "there is no signing key",
                limit="a gate runner's: it signs what is written into the ledger",
                remedy="Run `moola keys --make` where the gates run",
            )
        identity = key_id(key.public_key())
        counts = identity in self.keys.keys and identity not in self.keys.revoked
        if not counts and not self.ledger.moves_by_server:  # a server asks its own trusted keys
            raise ConfigError(
                f"key {identity}, which signs here, is not trusted",
                limit="a key that counts, or the line it signs would not",
                remedy="Put its public half into .moola/trusted",
            )
        return key

    def now(self) -> str:
        """Return the ledger's time, in UTC and ISO form."""
        return self.ledger.clock().astimezone(UTC).isoformat()
