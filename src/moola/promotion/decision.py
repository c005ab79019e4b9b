"""What a promotion, a rollback or a challenger comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moola.errors import PromotionRefused
from moola.promotion.evidence.attestation import Evidence

GateDict = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look at the locked test windows that is prepared and not taken yet.

    Parameters
    ----------
    windows
        Which bars the test windows span, as `moola.promotion.ledger.lines.same_windows` compares
        them.
    take
        Given the number of this look, scores candidate and champion on the locked test windows and
        returns a gate as in a gate report.
    """

    windows: Mapping[str, Any]
    take: Callable[[int], GateDict]


# Given verified evidence and the champion (a version, or None), makes a look ready or raises a
# MoolaError; nothing is spent by that.
PromotionGate = Callable[[Evidence, str | None], Look]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The outcome of one request to change what is in Production.

    Parameters
    ----------
    action
        ``promotion``, ``rollback`` or ``challenger``.
    allowed
        Whether it was done (for a dry run: whether nothing is against it so far).
    name, version
        The registered model and the version asked for.
    champion_before
        The version in Production before; None if there was none.
    reasons
        Why not; empty if allowed.
    notes
        What else should be known.
    evidence_digest
        SHA-256 of the evidence it rests on.
    ledger_seq
        Number of the ledger entry; None for a dry run.
    test_looks
        Looks at the locked test windows so far, this one included; None if it was not looked at.
    promotion_gate
        What the promotion gate answered; None if it was not asked.
    dry_run
        Whether nothing was changed.
    decided_at
        ISO 8601 in UTC.
    who
        Who asked.
    alias
        The alias asked for, where it was not Production under the profile ``ohlc``.
    """

    action: str
    allowed: bool
    name: str
    version: str
    champion_before: str | None
    who: str
    decided_at: str
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    evidence_digest: str | None = None
    ledger_seq: int | None = None
    test_looks: int | None = None
    promotion_gate: GateDict | None = None
    dry_run: bool = False
    alias: str | None = None


class PromotionDenied(PromotionRefused):
    """A refusal that carries the `Decision` it stands for."""

    def __init__(self, decision: Decision, *, remedy: str | None = None):
        self.decision = decision
        verb = {"rollback": "put back into", "challenger": "set as challenger of"}
        what = f"{verb.get(decision.action, 'promoted to')} {decision.alias or 'Production'}"
        super().__init__(
            f"version {decision.version} of {decision.name} is not {what}: "
            + "; ".join(decision.reasons),
            remedy=remedy,
        )
