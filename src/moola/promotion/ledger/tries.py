"""How often somebody judged, or searched, on the same validation windows.

Whoever may choose among many configurations by the windows that the gates judge by finds one that
looks good on them by luck. So every judgement and every search is written into the ledger with the
bars it saw, signed by the gate runner, and what a later gate claims is held against all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.belief import signed_look
from moola.promotion.ledger.content import LookLine
from moola.promotion.ledger.entry import Draft, plain_name
from moola.promotion.ledger.lines import looks_at

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

EVENT: Final = "tried"


@dataclass(frozen=True, kw_only=True)
class Tries:
    """How often the validation windows of a judgement were used before.

    Parameters
    ----------
    judgement
        Number of this judgement among the different ones on these windows, from 1.
    searched
        Configurations that searches and ablations tried on them before it.
    """

    judgement: int = 1
    searched: int = 0


def note_judgement(
    ledger: Ledger,
    windows: Mapping[str, Any],
    judged: Sequence[str],
    *,
    name: str,
    who: str,
    key: Ed25519PrivateKey,
    keys: TrustedKeys,
) -> Tries:
    """Write down that configurations are judged together on validation windows; count the tries.

    Parameters
    ----------
    ledger
        The ledger.
    windows
        Which bars they span, as `moola.promotion.ledger.lines.same_windows` compares them.
    judged
        A digest of each configuration; judged again, the same ones are no new judgement.
    name
        The registered model.
    who
        Who asks.
    key
        The gate runner's key.
    keys
        Keys whose signature counts.

    Returns
    -------
    Tries
        As they were when these configurations were first judged together.

    Raises
    ------
    TrackingError
        If the ledger cannot be reached, or its server does not take the line.
    """
    batch = ",".join(sorted(digest[:16] for digest in judged))
    if all(line.get("judged") != batch for line in _lines(ledger, windows, keys)):
        reason = (
            f"{len(judged)} configuration{'s' * (len(judged) != 1)} judged on validation windows"
        )
        _append(ledger, {**windows, "judged": batch}, name=name, who=who, reason=reason, key=key)
    return count_tries(_lines(ledger, windows, keys), batch)


def note_search(
    ledger: Ledger,
    windows: Mapping[str, Any],
    *,
    search: str,
    tried: int,
    name: str,
    who: str,
    key: Ed25519PrivateKey,
) -> None:
    """Write down that a search tries configurations on validation windows.

    It is written before the first is tried, so that a search that is killed counts. `search` is a
    digest that knows the search again: continued, it counts once, with the larger number.
    """
    line = {**windows, "searched": f"{search[:16]}:{tried}"}
    reason = f"{tried} configurations searched on validation windows"
    _append(ledger, line, name=name, who=who, reason=reason, key=key)


def count_tries(lines: Sequence[Mapping[str, str]], batch: str) -> Tries:
    """Return the tries up to the first line of a batch; the whole number where it has none."""
    batches: dict[str, None] = {}
    searches: dict[str, int] = {}
    for line in lines:
        if (judged := line.get("judged")) is not None:
            batches.setdefault(judged)
            if judged == batch:
                break
        search, _, tried = line.get("searched", "").rpartition(":")
        if tried.isdecimal():
            searches[search] = max(searches.get(search, 0), int(tried[:6]))
    return Tries(judgement=max(len(batches), 1), searched=sum(searches.values()))


def _lines(
    ledger: Ledger, windows: Mapping[str, Any], keys: TrustedKeys
) -> list[Mapping[str, str]]:
    counting = ledger.belief(keys).counting(ledger.entries(events=(EVENT,)))
    return [
        entry.content.statement
        for entry in counting
        if isinstance(entry.content, LookLine) and looks_at([entry], windows)
    ]


def _append(
    ledger: Ledger,
    windows: Mapping[str, Any],
    *,
    name: str,
    who: str,
    reason: str,
    key: Ed25519PrivateKey,
) -> None:
    model = plain_name(name)

    def draft(ledger_id: str) -> Draft:
        payload = signed_look(
            windows, name=model, version=None, evidence_digest=None, ledger_id=ledger_id, key=key
        )
        return Draft(event=EVENT, who=who, name=model, reason=reason, payload=payload)

    ledger.signing(key).append_made(draft)
