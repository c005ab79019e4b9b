"""What else is asked of the registry: rollback, challenger, history, verify, keys."""

from __future__ import annotations

import copy
import getpass
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from moola.config.promotion import TRUSTED_FOLDER
from moola.promotion.decision import Decision
from moola.promotion.evidence.keys import ensure_signing_key, key_id, load_trusted_keys, revoke
from moola.promotion.ledger.checkpoint import CheckpointFile
from moola.promotion.ledger.key_changes import REVOKED, TRUSTED, note_key_change
from moola.promotion.production import Production, ledger_of, signing_key
from moola.promotion.rollback import History
from moola.promotion.verify import Verification
from moola.tracking.store import connect


def rollback(
    *,
    name: str,
    to: str | None,
    reason: str,
    ledger_url: str | None = None,
    project: Path = Path(),
    dry_run: bool = False,
) -> Decision:
    """Put back a version that held Production before; see `moola.promotion.rollback`."""
    production = Production.of_project(connect(), name, ledger_url=ledger_url, project=project)
    production.require_model()
    return production.rollback(to=to, reason=reason, dry_run=dry_run)


def challenge(
    *, name: str, version: str, ledger_url: str | None = None, project: Path = Path()
) -> Decision:
    """Give alias ``challenger`` and stage ``Staging`` to a version."""
    production = Production.of_project(connect(), name, ledger_url=ledger_url, project=project)
    production.require_model()
    return production.challenger(version)


def read_history(
    name: str,
    *,
    at: datetime | None,
    ledger_url: str | None = None,
    project: Path = Path(),
    checkpoint: Path | None = None,
) -> History:
    """Return a model's decisions up to a time (UTC), after checking the ledger's chain.

    Parameters
    ----------
    name
        The registered model.
    at
        The time; None: now.
    ledger_url
        Database or guarded server that keeps the ledger; None takes the registry's own.
    project
        Folder that holds ``.moola``: trusted keys and checkpoints.
    checkpoint
        A checkpoint kept elsewhere, as auditors do: the ledger must still contain what it says, and
        it then says how far the ledger goes now. A file that is not there is made.
    """
    production = Production.of_project(connect(), name, ledger_url=ledger_url, project=project)
    moment = at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at
    history = production.history(moment)
    if checkpoint is not None:
        elsewhere = copy.copy(production.ledger)
        elsewhere.checkpoint = CheckpointFile(checkpoint, elsewhere.address)
        elsewhere.verify_chain()
    return history


def verify(name: str, *, ledger_url: str | None = None, project: Path = Path()) -> Verification:
    """Check the ledger's chain, what each promotion rests on, and who holds Production."""
    production = Production.of_project(connect(), name, ledger_url=ledger_url, project=project)
    if not production.ledger.entries(name):  # a model that only the ledger knows is a finding
        production.require_model()
    return production.verify()


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Ids of the keys whose signature counts, and of the one that signs here, if there is one.

    `names` has the name of each key, by which rules call it.
    """

    trusted: tuple[str, ...]
    signing: str | None
    names: Mapping[str, str] = field(default_factory=dict)


def list_keys(project: Path = Path()) -> Keys:
    """Return the keys that count and the one that signs here; makes nothing."""
    key = signing_key(project)
    keys = load_trusted_keys(project / TRUSTED_FOLDER)
    return Keys(
        trusted=tuple(sorted(set(keys.attesters) - keys.revoked)),
        signing=key_id(key.public_key()) if key else None,
        names=dict(keys.names),
    )


def make_key(*, ledger_url: str | None = None, project: Path = Path()) -> Keys:
    """Make, trust and note the gate runner's key if there is none, and return the keys."""
    if signing_key(project) is None:
        connect(makes=True)
        trusted = project / TRUSTED_FOLDER
        before = set(load_trusted_keys(trusted).keys)
        ensure_signing_key(project)
        for identity in sorted(set(load_trusted_keys(trusted).keys) - before):
            ledger = ledger_of(ledger_url, project).signing(signing_key(project))
            note_key_change(ledger, who=getpass.getuser(), key_id=identity, change=TRUSTED)
    return list_keys(project)


def revoke_key(identity: str, *, ledger_url: str | None = None, project: Path = Path()) -> Keys:
    """Revoke a trusted key, so that nothing it ever signed counts; return the keys left."""
    connect()
    trusted = project / TRUSTED_FOLDER
    revoke(trusted, identity)
    ledger = ledger_of(ledger_url, project).signing(signing_key(project))
    note_key_change(ledger, who=getpass.getuser(), key_id=identity, change=REVOKED)
    return list_keys(project)
