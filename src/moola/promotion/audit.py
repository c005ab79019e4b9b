"""Reading the whole history again: chain, signatures, model files, and what the registry says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moola.errors import PromotionRefused
from moola.promotion.keys import TrustedKeys
from moola.promotion.ledger import MOVES, Entry, Ledger, open_intent
from moola.promotion.proof import last_promotion, require_proof
from moola.promotion.state import read_state

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit of one registered model found.

    Parameters
    ----------
    name
        The registered model.
    head
        Hash of the ledger's last entry; kept elsewhere, it proves later that nothing was cut off.
    num_entries
        Entries about this model.
    champion
        The version in Production by the ledger.
    findings
        What is wrong, in plain words; empty if nothing is.
    """

    name: str
    head: str | None
    num_entries: int
    champion: str | None
    findings: tuple[str, ...]


def audit_registry(
    client: MlflowClient, ledger: Ledger, name: str, trusted_keys: TrustedKeys
) -> Audit:
    """Check the ledger's chain, what each promotion rests on, and the present state.

    Of every version that held Production, the evidence of its last promotion must be signed, name
    this version, its run and its files, and show the gates passed that its evaluation required.

    Parameters
    ----------
    client
        Client of the registry.
    ledger
        The ledger, usually in the registry's database.
    name
        The registered model.
    trusted_keys
        Keys whose signature counts.

    Returns
    -------
    Audit
        What was found.

    Raises
    ------
    TrackingError
        If registry or ledger cannot be reached.
    """
    findings: list[str] = []
    head = None
    try:
        head = ledger.verify_chain()
    except PromotionRefused as refusal:
        findings.append(str(refusal).rstrip("."))
    entries = ledger.entries(name)
    pending = open_intent(entries)
    if pending is not None:
        findings.append(f"a {pending.payload.get('event')} begun at {pending.at} was not ended")
    moves = [entry for entry in entries if entry.event in MOVES]
    for version in dict.fromkeys(str(entry.version_to) for entry in moves):
        findings += _version_findings(client, moves, version, trusted_keys)
    champion = ledger.champion_at(name)
    state = read_state(client, name)
    if not state.agrees or state.alias_version != champion:
        held = ", ".join(state.stage_versions) or "none"
        findings.append(
            f"the ledger has version {champion} in Production, the alias names "
            f"{state.alias_version}, the stage is held by {held}"
        )
    return Audit(
        name=name,
        head=head,
        num_entries=len(entries),
        champion=champion,
        findings=tuple(findings),
    )


def _version_findings(
    client: MlflowClient, moves: list[Entry], version: str, trusted_keys: TrustedKeys
) -> list[str]:
    try:
        require_proof(client, last_promotion(moves, version), trusted_keys, policy=None)
    except PromotionRefused as refusal:
        return [f"version {version}: {str(refusal).rstrip('.')}"]
    return []
