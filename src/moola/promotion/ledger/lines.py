"""What follows from lines of the ledger: whether they are whole, looks counted, intents open."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from moola.config.names import ALIAS_PRODUCTION
from moola.config.promotion import folded
from moola.data.market import same_market
from moola.errors import PromotionRefused
from moola.promotion.ledger.belief import GENESIS, Belief
from moola.promotion.ledger.content import Abandoned, Intent, LookLine, Move
from moola.promotion.ledger.entry import MOVES, Entry


def chain_findings(entries: list[Entry], *, after: tuple[int, str] = (0, GENESIS)) -> list[str]:
    """Return every line that is missing, was changed, or does not follow the one before it."""
    findings = []
    seq, head = after
    for entry in entries:
        if entry.seq != seq + 1:
            findings.append(f"ledger entry {seq + 1} is missing")
        elif entry.entry_hash != entry.computed_hash():
            findings.append(f"ledger entry {entry.seq} ({_shown(entry)}) was changed")
        elif entry.previous_hash != head:
            findings.append(f"ledger entry {entry.seq} ({_shown(entry)}) was changed: it does not "
                            f"follow entry {seq}")  # fmt: skip
        seq, head = entry.seq, entry.entry_hash
    return findings


def broken(findings: list[str]) -> PromotionRefused:
    """Return the refusal over a broken ledger: it names the first line that is wrong."""
    more = f" (and {len(findings) - 1} more findings)" if len(findings) > 1 else ""
    return PromotionRefused(
        f"{findings[0]}{more}",
        remedy="Run `moola verify`; restore the database from a copy made before the change",
    )


def _shown(entry: Entry) -> str:
    return f"{entry.event[:20]!a} of {entry.at[:40]!a}".replace("'", "")


def looks_at(looks: list[Entry], windows: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return which windows the looks saw that saw a bar of these test windows."""
    spans = [look.content.windows for look in looks if isinstance(look.content, LookLine)]
    return [one for one in spans if same_windows(one, windows)]


def same_windows(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two looks saw a bar in common.

    They did if they are of one market and their spans (``first_bar`` to ``last_bar``, ISO 8601)
    overlap. Of one market are looks under one split (``split_sha256``), which is all that the
    oldest entries hold, bar sets of one name (``source``), and those whose sketches agree
    (``market``, see `moola.data.market`) whatever their names. A span or a sketch that cannot be
    compared counts as the same; a look without a sketch was taken before there were any, and goes
    by its name.
    """
    split = one.get("split_sha256")
    one_split = split is not None and split == other.get("split_sha256")
    if not (one_split or _one_market(one, other)):
        return False
    try:
        return bool(one["first_bar"] <= other["last_bar"] and other["first_bar"] <= one["last_bar"])
    except (KeyError, TypeError):
        return True


def _one_market(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    source = one.get("source")
    if source is not None and source == other.get("source"):
        return True
    first, second = one.get("market"), other.get("market")
    if first is None or second is None:
        return False
    return same_market(first, second) is not False


def readable(moves: list[Entry]) -> list[Entry]:
    """Return the promotions and rollbacks that can be understood, whoever wrote them."""
    return [entry for entry in moves if isinstance(entry.content, Move)]


def of_alias(moves: list[Entry], alias: str) -> list[Entry]:
    """Return the moves of one alias; those that cannot be read count as moves of Production."""
    return [entry for entry in moves if folded(alias_of(entry)) == folded(alias)]


def alias_of(move: Entry) -> str:
    """Return the alias that a line of the ledger moves."""
    return move.content.alias if isinstance(move.content, Move) else ALIAS_PRODUCTION


def champion_after(moves: list[Entry], time: datetime | None) -> str | None:
    """Return the version in Production after the moves up to a time; None: after all of them."""
    before = [
        entry for entry in moves if time is None or (entry.time is not None and entry.time <= time)
    ]
    return before[-1].version_to if before else None


def last_move(entries: list[Entry]) -> int | None:
    """Return the number of the last promotion or rollback among some entries."""
    return max((entry.seq for entry in entries if entry.event in MOVES), default=None)


def open_intent(entries: list[Entry], belief: Belief | None = None) -> Entry | None:
    """Return the intent of a promotion or rollback that was neither completed nor abandoned.

    A line closes an intent if it is about the same model and version and does what was announced.
    Given a belief, only lines that count close one; whether the intent itself counts is for the
    reader to ask.
    """
    pending: dict[int, Entry] = {}
    for entry in entries:
        content = entry.content
        if isinstance(content, Intent):
            pending[entry.seq] = entry
        elif isinstance(content, Move | Abandoned) and content.intent in pending:
            intent = pending[content.intent]
            if _closes(entry, intent) and (belief is None or belief.why_not(entry) is None):
                del pending[content.intent]
    return list(pending.values())[-1] if pending else None


def _closes(entry: Entry, intent: Entry) -> bool:
    announced = intent.content
    assert isinstance(announced, Intent)
    return (
        entry.name == intent.name
        and entry.event in (announced.event, "abandoned")
        and entry.version_to == announced.version
    )
