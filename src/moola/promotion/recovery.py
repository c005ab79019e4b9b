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

from moola.errors import PromotionRefused
from moola.promotion.evidence.attestation import SignedEvidence, verify
from moola.promotion.evidence.proof import (
    does_not_count,
    last_promotion,
    require_carries,
    require_promotion,
    require_proof,
)
from moola.promotion.ledger.base import LedgerView
from moola.promotion.ledger.content import Intent
from moola.promotion.ledger.entry import Entry
from moola.promotion.ledger.lines import open_intent
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.moving import finish, undo
from moola.promotion.parts import ProductionParts


def recover(parts: ProductionParts, view: LedgerView) -> Entry | None:
    """Finish a move of Production that was interrupted, or undo it if it is no longer proven.

    Returns the entry that closes the interrupted move; None if there was none.

    Raises
    ------
    PromotionRefused
        If the move is still under way.
    """
    client, ledger, name, keys = parts.client, parts.ledger, parts.name, parts.keys
    if not isinstance(ledger, LocalLedger):
        return None
    belief = view.belief
    intent = open_intent(view.entries(name), belief)
    if intent is None or not isinstance(announced := intent.content, Intent):
        return None
    if why_not := belief.why_not(intent):  # it keeps nobody waiting
        refusal = PromotionRefused(does_not_count(intent, why_not))
        return undo(client, ledger, intent, refusal, keys)
    if _is_under_way(announced, ledger.clock()):
        raise PromotionRefused(
            f"another {announced.event} of {name} is under way since {intent.at} (by {intent.who})",
            remedy="Try again when it has ended",
        )
    try:
        _require_still_proven(parts, view, intent)
    except PromotionRefused as refusal:
        return undo(client, ledger, intent, refusal, keys)
    return finish(client, ledger, intent, keys)


def _require_still_proven(parts: ProductionParts, view: LedgerView, intent: Entry) -> None:
    client, keys, policy = parts.client, parts.keys, parts.policy
    announced = intent.content
    assert isinstance(announced, Intent)
    version = announced.version
    if announced.event == "promotion" and announced.move.evidence is not None:
        evidence = verify(SignedEvidence.from_json(announced.move.evidence), keys)
        if evidence.digest != intent.evidence_digest:
            raise PromotionRefused(
                f"ledger entry {intent.seq} carries other evidence than it names"
            )
        require_promotion(evidence, f"ledger entry {intent.seq}")
        require_carries(client, evidence, intent.name, version, policy=policy)
        return
    proof = last_promotion(view.moves(intent.name), version, view.belief)
    require_proof(client, proof, keys, policy=policy)


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
