"""Moves of Production that survive a crash, where registry and ledger are not one database.

The intent goes into the ledger only after every check has passed. Whoever finds it open later, with
its author gone, checks it again and carries it through; if it no longer holds (the version has
vanished, its files changed, the key was revoked), Production goes back to the ledger's champion.
"""

from __future__ import annotations

import os
import socket
import threading
from datetime import datetime
from typing import TYPE_CHECKING

from moola.config.promotion import PromotionPolicy
from moola.errors import PromotionRefused
from moola.promotion.evidence.attestation import SignedEvidence, verify
from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.evidence.proof import (
    does_not_count,
    last_promotion,
    require_carries,
    require_promotion,
    require_proof,
)
from moola.promotion.ledger.content import Intent
from moola.promotion.ledger.entry import MOVES, Entry
from moola.promotion.ledger.lines import open_intent
from moola.promotion.ledger.local import Ledger
from moola.promotion.moving import finish, undo

if TYPE_CHECKING:
    from mlflow import MlflowClient


def recover(
    client: MlflowClient,
    ledger: Ledger,
    name: str,
    *,
    trusted_keys: TrustedKeys,
    policy: PromotionPolicy,
) -> Entry | None:
    """Finish a move of Production that was interrupted, or undo it if it is no longer proven.

    Parameters
    ----------
    client
        Client of the registry.
    ledger
        The ledger, with the key that signs its lines (`Ledger.signing`).
    name
        The registered model.
    trusted_keys
        Keys whose signature counts.
    policy
        The policy in force.

    Returns
    -------
    Entry or None
        The entry that closes the interrupted move; None if there was none.

    Raises
    ------
    PromotionRefused
        If the move is still under way.
    """
    if ledger.moves_by_server:
        return None
    belief = ledger.belief(trusted_keys)
    intent = open_intent(ledger.entries(name), belief)
    if intent is None or not isinstance(announced := intent.content, Intent):
        return None
    if why_not := belief.why_not(intent):  # it keeps nobody waiting
        refusal = PromotionRefused(does_not_count(intent, why_not))
        return undo(client, ledger, intent, refusal, trusted_keys)
    if _is_under_way(announced, ledger.clock()):
        raise PromotionRefused(
            f"another {announced.event} of {name} is under way since {intent.at} (by {intent.who})",
            remedy="Try again when it has ended",
        )
    try:
        _require_still_proven(client, ledger, intent, trusted_keys, policy)
    except PromotionRefused as refusal:
        return undo(client, ledger, intent, refusal, trusted_keys)
    return finish(client, ledger, intent, trusted_keys)


def _require_still_proven(
    client: MlflowClient,
    ledger: Ledger,
    intent: Entry,
    trusted_keys: TrustedKeys,
    policy: PromotionPolicy,
) -> None:
    announced = intent.content
    assert isinstance(announced, Intent)
    version = announced.version
    if announced.event == "promotion" and announced.move.evidence is not None:
        evidence = verify(SignedEvidence.from_json(announced.move.evidence), trusted_keys)
        if evidence.digest != intent.evidence_digest:
            raise PromotionRefused(
                f"ledger entry {intent.seq} carries other evidence than it names"
            )
        require_promotion(evidence, f"ledger entry {intent.seq}")
        require_carries(client, evidence, intent.name, version, policy=policy)
        return
    moves = ledger.entries(intent.name, events=MOVES)
    proof = last_promotion(moves, version, ledger.belief(trusted_keys))
    require_proof(client, proof, trusted_keys, policy=policy)


def _is_under_way(author: Intent, now: datetime) -> bool:
    """Return whether the author of an intent may still be at work on it."""
    if now > author.lease_until:
        return False
    if author.host != socket.gethostname():
        return True
    if author.pid == os.getpid():
        others = {t.ident for t in threading.enumerate()} - {threading.get_ident()}
        return author.thread in others
    try:
        os.kill(author.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
