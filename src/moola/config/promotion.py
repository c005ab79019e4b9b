"""The policy in force for promotion, and the tags that carry signed evidence."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from moola.config.base import Config, check_count, check_list, check_range
from moola.config.gates import check_gates
from moola.config.names import ALIAS_PRODUCTION
from moola.errors import ConfigError

TAG_EVIDENCE = "moola.evidence"
TAG_PROMOTION_EVIDENCE = "moola.promotion.evidence"
ARTIFACT_EVIDENCE = "evidence.json"

KEY_FOLDER = ".moola/keys"
KEY_FILE = "gate-runner.pem"
SERVER_KEY_FILE = "server.pem"
TRUSTED_FOLDER = ".moola/trusted"
SERVERS_FOLDER = "servers"  # below the trusted folder: keys that sign ledger lines only
CHECKPOINT_FOLDER = ".moola/checkpoints"
REVOKED_FILE = "revoked"
POLICY_FILE = ".moola/policy.yaml"
ENV_SIGNING_KEY = "MOOLA_SIGNING_KEY"
ENV_SIGNING_KEY_COMMAND = "MOOLA_SIGNING_KEY_COMMAND"

ENV_SERVER_KEY = "MOOLA_SERVER_KEY"

ENV_TRUSTED = "MOOLA_TRUSTED_KEYS"
ENV_POLICY = "MOOLA_POLICY"
ENV_SERVER_AUTH = "MOOLA_SERVER_AUTH"
ENV_WEBHOOK_SECRET = "MOOLA_WEBHOOK_SECRET"
GUARD_LOCK = "guard.lock"

_HEX_64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class PromotionPolicy(Config):
    """What a version must show before it may hold Production.

    Parameters
    ----------
    required_gates
        Gates every candidate must have passed.
    encoder_gates
        Gates a candidate with a pretrained encoder must have passed as well.
    synthetic_gates
        Gates a candidate trained with synthetic windows must have passed as well.
    thresholds_sha256
        Digests of the gate thresholds that are in force; evidence made under others is refused.
        Empty accepts any thresholds the gate runner signed.
    protected_aliases
        Aliases that stand for Production; compared without regard to letter case.
    models
        Registered models under guard; empty means every one.
    promoters
        Users who may move Production on a guarded server with log-in; empty: whoever MLflow lets.
    max_evidence_age_days
        A promotion whose evaluation is older than this is refused; None sets no limit. What is in
        Production stays there, and a rollback is not held to it. 30 days by default: markets move
        on, and whoever holds older evidence can evaluate again in minutes.
    fresh_windows_only
        A promotion counts only if nobody looked at its test windows before, under whatever name.
    max_body_mib
        Largest request body the guarded server accepts outside artifact uploads.
    webhooks
        Addresses that are told of every promotion, refusal and rollback on a guarded server; signed
        with the secret in ``MOOLA_WEBHOOK_SECRET``.
    referee_data
        Data store on the server (``labeled_windows/``, ``splits/``) on which it scores every
        version itself before it lets it into Production; None: no referee.
    referee_tolerance
        Largest difference between a signed metric and the referee's.
    referee_seconds, referee_memory_mib
        Limits of the referee's process: time, and memory beyond what the libraries take, in MiB.
    """

    required_gates: tuple[int, ...] = (0, 1, 2)
    encoder_gates: tuple[int, ...] = (3, 4)
    synthetic_gates: tuple[int, ...] = (5,)
    thresholds_sha256: tuple[str, ...] = ()
    protected_aliases: tuple[str, ...] = (ALIAS_PRODUCTION,)
    models: tuple[str, ...] = ()
    promoters: tuple[str, ...] = ()
    max_evidence_age_days: float | None = 30.0
    fresh_windows_only: bool = False
    max_body_mib: int = 64
    webhooks: tuple[str, ...] = ()
    referee_data: str | None = None
    referee_tolerance: float = 1e-3
    referee_seconds: int = 120
    referee_memory_mib: int = 4096

    def __post_init__(self) -> None:
        for field in ("required_gates", "encoder_gates", "synthetic_gates"):
            gates = check_list(field, getattr(self, field))
            check_gates(field, gates)
            object.__setattr__(self, field, gates)
        if not self.required_gates:
            raise ConfigError("required_gates is empty", limit="at least one gate")
        for field in ("thresholds_sha256", "protected_aliases", "models", "promoters", "webhooks"):
            values = check_list(field, getattr(self, field))
            object.__setattr__(self, field, tuple(str(value) for value in values))
        for digest in self.thresholds_sha256:
            if not _HEX_64.fullmatch(digest):
                raise ConfigError(f"thresholds_sha256 holds {digest!r}", limit="64 hex digits each")
        if ALIAS_PRODUCTION not in self.protected_aliases:
            raise ConfigError(
                f"protected_aliases is {list(self.protected_aliases)}",
                limit=f"a list that contains {ALIAS_PRODUCTION!r}",
            )
        if self.max_evidence_age_days is not None:
            check_range("max_evidence_age_days", self.max_evidence_age_days, low=0, open_low=True)
        for field in ("max_body_mib", "referee_seconds", "referee_memory_mib"):
            check_count(field, getattr(self, field))
        if not isinstance(self.fresh_windows_only, bool):
            raise ConfigError(
                f"fresh_windows_only is {self.fresh_windows_only!r}", limit="true or false"
            )
        check_range("referee_tolerance", self.referee_tolerance, low=0)
        for address in self.webhooks:
            if not address.startswith(("http://", "https://")):
                raise ConfigError(f"webhooks holds {address!r}", limit="http or https addresses")

    def gates_for(self, *, uses_encoder: bool, uses_synthetic: bool) -> tuple[int, ...]:
        """Return the gates a candidate of this make must have passed, in order."""
        gates = set(self.required_gates)
        gates.update(self.encoder_gates if uses_encoder else ())
        gates.update(self.synthetic_gates if uses_synthetic else ())
        return tuple(sorted(gates))


def folded(word: str) -> str:
    """Return one spelling for all words that look the same: width, letter case, invisible signs."""
    visible = (c for c in unicodedata.normalize("NFKC", word) if c.isprintable())
    return "".join(visible).strip().casefold()
