"""Reading again what each guarded alias was given by."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from moola.config.names import ALIAS_PRODUCTION
from moola.config.policy import Kind
from moola.errors import PromotionRefused, TrackingError
from moola.hashing import sha256_json
from moola.promotion.aliases.proof import (
    aliases_asked,
    kind_in,
    proof_now,
    subject_of,
)
from moola.promotion.aliases.requirements import (
    Attested,
    reasons_in,
)
from moola.promotion.calls import mlflow_call
from moola.promotion.ledger.content import Move
from moola.promotion.ledger.entry import Entry
from moola.promotion.ledger.lines import alias_of, of_alias

if TYPE_CHECKING:
    from moola.promotion.parts import ProductionParts


def alias_findings(
    parts: ProductionParts, attested_moves: Sequence[Entry], moves: Sequence[Entry]
) -> tuple[list[str], list[str]]:
    """Return the faults of aliases that attestations moved, and notes about them.

    Of every version that got one, its files must be those attested and the attestations must be
    stored and signed by a key that counts; who holds an alias must be whom the ledger says; and
    what was moved by breaking the glass must be proven in time.

    Parameters
    ----------
    parts
        Of the model.
    attested_moves
        Moves that count and rest on attestations.
    moves
        All moves that count.
    """
    wrong: list[str] = []
    notes: list[str] = []
    with mlflow_call(f"registered model {parts.name}", reads=True):
        holders = parts.client.get_registered_model(parts.name).aliases
    kind = kind_in(parts.client, parts.name)
    newest = {(alias_of(one), str(one.version_to)): one for one in attested_moves}
    for (alias, version), move in newest.items():
        try:
            wrong += _move_findings(parts, move, version, alias)
        except (PromotionRefused, TrackingError) as error:
            wrong.append(f"version {version}: {str(error).rstrip('.')}")
    for alias in dict.fromkeys(alias_of(move) for move in moves):
        last = of_alias(list(moves), alias)[-1]
        holder = holders.get(alias)
        if alias != ALIAS_PRODUCTION and str(holder) != last.version_to:
            wrong.append(f"the ledger has version {last.version_to} as {alias}, it names {holder}")
        if isinstance(content := last.content, Move) and content.unproven_until is not None:
            state = _glass(parts, last, content.unproven_until, alias, kind)
            (wrong if parts.ledger.clock() > content.unproven_until else notes).extend(state)
    moved = {alias_of(move) for move in moves}
    for alias in aliases_asked(parts.rules, parts.name, kind, None):
        if alias in holders and alias not in moved and alias != ALIAS_PRODUCTION:
            notes.append(f"version {holders[alias]} is {alias} by no line that counts")
    return wrong, notes


def _move_findings(parts: ProductionParts, move: Entry, version: str, alias: str) -> list[str]:
    """Return the faults of the files and attestations that a move rests on."""
    content = move.content
    assert isinstance(content, Move)
    subject = subject_of(parts, version, alias)
    assert subject.files is not None
    if content.model_sha256 != sha256_json(dict(subject.files)):
        return [f"version {version}: its files were changed after it became {alias}"]
    texts = parts.ledger.attestations(parts.name, version)
    attested = Attested.read(texts, subject, parts.keys, parts.ledger.clock())
    there = {one.digest for one in attested.counting}
    return [
        f"version {version}: attestation {digest[:16]} of ledger entry {move.seq} is not kept, or "
        "no key that counts signed it"
        for digest in content.attestations
        if digest not in there
    ]


def _glass(
    parts: ProductionParts, move: Entry, until: datetime, alias: str, kind: Kind
) -> list[str]:
    """Return that a holder is unproven still, after the glass was broken for it."""
    version = str(move.version_to)
    rules = parts.rules.enforced(parts.name, alias, kind=kind)
    proof = proof_now(parts, subject_of(parts, version, alias), rules)
    if not reasons_in(proof.findings):
        return []
    return [
        f"version {version} is {alias} by breaking the glass (ledger entry {move.seq}); to be "
        f"proven or replaced by {until:%Y-%m-%d %H:%M}"
    ]
