"""What follows from lines of the ledger: whether they are whole, looks counted, intents open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moola.errors import PromotionRefused
from moola.promotion.belief import GENESIS, Belief
from moola.promotion.content import Abandoned, Intent, LookLine, Move
from moola.promotion.entry import Entry


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


def count_looks(looks: list[Entry], windows: Mapping[str, Any]) -> int:
    """Return how many of some looks saw a bar of these test windows."""
    seen = [look.content.windows for look in looks if isinstance(look.content, LookLine)]
    return sum(same_windows(one, windows) for one in seen)


def same_windows(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two looks saw a bar in common.

    Either their ``split_sha256`` is the same, which is all that old entries hold, or they are of
    one bar set (``source``) and their spans (``first_bar`` to ``last_bar``, ISO 8601) overlap. A
    span that cannot be compared counts as overlapping.
    """
    split, source = one.get("split_sha256"), one.get("source")
    if split is not None and split == other.get("split_sha256"):
        return True
    if source is None or source != other.get("source"):
        return False
    try:
        return bool(one["first_bar"] <= other["last_bar"] and other["first_bar"] <= one["last_bar"])
    except (KeyError, TypeError):
        return True


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
