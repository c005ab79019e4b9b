"""What else is asked of the registry: rollback, challenger, history, verify, keys."""

from __future__ import annotations

import copy
import getpass
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import moola.promotion.rollback
from moola.config.promotion import (
    TRUSTED_FOLDER,
    PromotionPolicy,
)
from moola.errors import PromotionRefused
from moola.promotion.decision import Decision
from moola.promotion.evidence.keys import (
    TrustedKeys,
    ensure_signing_key,
    key_id,
    load_trusted_keys,
    revoke,
)
from moola.promotion.evidence.proof import evidence_in, last_promotion, own_file_findings
from moola.promotion.ledger.belief import Belief
from moola.promotion.ledger.checkpoint import CheckpointFile
from moola.promotion.ledger.entry import Entry
from moola.promotion.ledger.key_changes import REVOKED, TRUSTED, note_key_change
from moola.promotion.production import ledger_of, require_model, rules_now, signing_key
from moola.promotion.rollback import History, history, set_challenger
from moola.promotion.verify import Audit, audit_registry
from moola.tracking.store import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
    client = connect()
    require_model(client, name)
    return moola.promotion.rollback.rollback(
        client=client,
        ledger=ledger_of(ledger_url, project),
        name=name,
        trusted_keys=load_trusted_keys(project / TRUSTED_FOLDER),
        policy=PromotionPolicy.in_force(project),
        who=getpass.getuser(),
        reason=reason,
        to=to,
        signing_key=signing_key(project),
        dry_run=dry_run,
        rules=lambda: rules_now(project),
        data_root=project / "data",
    )


def challenge(
    *, name: str, version: str, ledger_url: str | None = None, project: Path = Path()
) -> Decision:
    """Give alias ``challenger`` and stage ``Staging`` to a version."""
    client = connect()
    require_model(client, name)
    return set_challenger(
        client=client,
        ledger=ledger_of(ledger_url, project).signing(signing_key(project)),
        name=name,
        version=version,
        who=getpass.getuser(),
    )


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
    connect()
    moment = at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at
    ledger = ledger_of(ledger_url, project)
    found = history(ledger, name, moment, keys=load_trusted_keys(project / TRUSTED_FOLDER))
    if checkpoint is not None:
        elsewhere = copy.copy(ledger)
        elsewhere.checkpoint = CheckpointFile(checkpoint, ledger.address)
        elsewhere.verify_chain()
    return found


def verify(name: str, *, ledger_url: str | None = None, project: Path = Path()) -> Audit:
    """Check the ledger's chain, what each promotion rests on, and who holds Production.

    Versions of Moola's own models must also be Moola's own packaging, with the classes of the set
    they were judged on; sets below ``data`` in the project are asked where evidence names none.
    """
    client = connect()
    ledger = ledger_of(ledger_url, project)
    if not ledger.entries(name):  # a model that is gone, but not from the ledger, is a finding
        require_model(client, name)
    trusted = load_trusted_keys(project / TRUSTED_FOLDER)
    audit = audit_registry(client, ledger, name, trusted)
    belief = ledger.belief(trusted)
    moves = ledger.moves(name, keys=trusted)
    more = []
    for version in dict.fromkeys(str(entry.version_to) for entry in moves):
        found = _file_findings(client, moves, version, trusted, belief, data_root=project / "data")
        more += [f"version {version}: {finding}" for finding in found]
    return replace(audit, findings=(*audit.findings, *more))


def _file_findings(
    client: MlflowClient,
    moves: list[Entry],
    version: str,
    trusted: TrustedKeys,
    belief: Belief,
    *,
    data_root: Path,
) -> list[str]:
    """Return what is wrong with the files of a promoted version of Moola's own models."""
    try:
        entry = last_promotion(moves, version, belief)
        evidence = evidence_in(entry, trusted)
    except PromotionRefused as refusal:
        return [str(refusal).rstrip(".")]
    return own_file_findings(client, entry.name, version, evidence, data_root=data_root)


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Ids of the keys whose signature counts, and of the one that signs here, if there is one."""

    trusted: tuple[str, ...]
    signing: str | None


def list_keys(project: Path = Path()) -> Keys:
    """Return the keys that count and the one that signs here; makes nothing."""
    key = signing_key(project)
    return Keys(
        trusted=_counting(project / TRUSTED_FOLDER),
        signing=key_id(key.public_key()) if key else None,
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


def _counting(folder: Path) -> tuple[str, ...]:
    found = load_trusted_keys(folder)
    return tuple(sorted(set(found.keys) - found.revoked))
