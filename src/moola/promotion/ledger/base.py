"""What every ledger can do, wherever it is kept."""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from moola.config.names import ALIAS_PRODUCTION
from moola.errors import ConfigError, PromotionRefused, TrackingError
from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.ledger.belief import GENESIS, Belief
from moola.promotion.ledger.checkpoint import CheckpointFile
from moola.promotion.ledger.content import Boundary
from moola.promotion.ledger.entry import MOVES, Draft, Entry
from moola.promotion.ledger.lines import (
    broken,
    chain_findings,
    champion_after,
    last_move,
    looks_at,
    of_alias,
    readable,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class LedgerView:
    """A whole ledger as it was read once, its chain verified, and which of its lines count."""

    every: tuple[Entry, ...]
    belief: Belief

    @classmethod
    def of(cls, entries: list[Entry], keys: TrustedKeys) -> Self:
        """Return the view of all entries under some keys."""
        ledger_id = entries[0].entry_hash if entries else GENESIS
        boundaries = [entry for entry in entries if isinstance(entry.content, Boundary)]
        return cls(every=tuple(entries), belief=Belief.from_lines(keys, ledger_id, boundaries))

    def entries(self, name: str | None = None, *, events: tuple[str, ...] = ()) -> list[Entry]:
        """Return the entries of one model, or of some events, in order."""
        return [
            entry
            for entry in self.every
            if (name is None or entry.name == name) and (not events or entry.event in events)
        ]

    def moves(self, name: str, alias: str = ALIAS_PRODUCTION) -> list[Entry]:
        """Return the moves of a model's alias, also those that do not count."""
        return of_alias(self.entries(name, events=MOVES), alias)

    def last_move(self, name: str) -> int | None:
        """Return the number of the last promotion or rollback of a model, whatever the alias."""
        return last_move(self.entries(name, events=MOVES))


class Ledger(Protocol):
    """An append-only, hash-chained list of everything that touched Production.

    Attributes
    ----------
    clock
        Returns the present time with a time zone.
    checkpoint
        Where it is kept how far the ledger went; None keeps nothing.
    signer
        Signs every line that is written; None signs nothing.
    moves_by_server
        Whether a server moves Production and writes the line about it.
    """

    moves_by_server: ClassVar[bool]
    clock: Callable[[], datetime]
    checkpoint: CheckpointFile | None
    signer: Ed25519PrivateKey | None
    _verified: tuple[int, str]

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is kept, in one spelling, without user and password."""

    @abstractmethod
    def append(self, draft: Draft) -> Entry:
        """Append one entry and return it with its number, time and hash, as it is read back.

        Raises
        ------
        PromotionRefused
            If the clock is behind the ledger's last line.
        TrackingError
            If the ledger cannot be reached, or gives back another line than it was given.
        """

    @abstractmethod
    def append_made(self, make: Callable[[str], Draft]) -> Entry:
        """Append the draft that a function makes of the ledger's id.

        The id is the hash of the ledger's first line, zeros where it is empty.
        """

    @abstractmethod
    def entries(
        self, name: str | None = None, *, events: tuple[str, ...] | None = None, after: int = 0
    ) -> list[Entry]:
        """Return entries in order: of one model, of some events, after a number, if asked."""

    @abstractmethod
    def belief(self, keys: TrustedKeys) -> Belief:
        """Return what counts in this ledger by some trusted keys."""

    @abstractmethod
    def schema_findings(self) -> list[str]:
        """Return what is wrong with the table and its triggers."""

    @abstractmethod
    def _counting_keys(self, keys: TrustedKeys) -> TrustedKeys:
        """Return the keys whose lines count here."""

    @abstractmethod
    def _head_signature(self, last: Entry) -> str | None:
        """Return the signature of the ledger's size and last hash."""

    def signing(self, key: Ed25519PrivateKey | None) -> Self:
        """Return this ledger with a key that signs every line written through it."""
        signing = copy.copy(self)
        signing.signer = key
        return signing

    def read(self, keys: TrustedKeys) -> LedgerView:
        """Read the whole ledger once; raises as `verify_chain`."""
        entries = self.entries()
        self._verify(entries)
        return self.view_of(entries, keys)

    def view_of(self, entries: list[Entry], keys: TrustedKeys) -> LedgerView:
        """Return which of all entries count."""
        return LedgerView.of(entries, self._counting_keys(keys))

    def verify_chain(self) -> str:
        """Check every entry, and that what was seen of the ledger before is still there.

        Returns
        -------
        str
            Hash of the last entry.

        Raises
        ------
        PromotionRefused
            Naming the first entry that is missing, was changed, cut off or written anew.
        """
        return self._verify(self.entries())

    def check_chain(self) -> None:
        """As `verify_chain`, but read only what was added since this object last checked it."""
        seq, head = self._verified
        newer = self.entries(after=seq - 1) if seq else []
        if not newer or (newer[0].seq, newer[0].entry_hash) != (seq, head):
            self.verify_chain()
            if seq:
                raise PromotionRefused(f"ledger entry {seq} was changed after it was checked")
            return
        findings = [*chain_findings(newer[1:], after=self._verified), *self._cut_off(newer)]
        if findings:
            raise broken(findings)
        self._whole(newer)

    def findings(self, entries: list[Entry]) -> list[str]:
        """Return what is wrong with the chain of all entries, by itself and by the checkpoint."""
        return [*chain_findings(entries), *self._cut_off(entries)]

    def note(self, last: Entry, *, compared: bool) -> None:
        """Keep how far the ledger went; where that cannot be written, say so in the log.

        A ledger that was not `compared` with its checkpoint has to go on from there.
        """
        if self.checkpoint is None:
            return
        try:
            self.checkpoint.note(last, compared=compared, signature=self._head_signature(last))
        except (OSError, ConfigError) as error:  # the line is written all the same
            _log.warning("no checkpoint of the ledger is kept: %s", error)

    @abstractmethod
    def attest(self, envelope: str) -> str:
        """Keep a signed attestation and return its digest; one that is kept already stays as it is.

        Raises
        ------
        PromotionRefused
            If it is none, or a guarded server trusts no key that signed it.
        """

    @abstractmethod
    def attestations(self, name: str, version: str) -> list[str]:
        """Return the envelopes about a version, oldest first, unread."""

    def champion_at(
        self, name: str, time: datetime | None = None, *, keys: TrustedKeys | None = None
    ) -> str | None:
        """Return the version in Production at a time (None: now), or None if there was none.

        Given keys, only moves that they signed are believed; without, all that can be read.
        """
        return champion_after(self.moves(name, keys=keys), time)

    def moves(
        self, name: str, *, alias: str = ALIAS_PRODUCTION, keys: TrustedKeys | None = None
    ) -> list[Entry]:
        """Return the moves of a model's alias that count, or that can be read."""
        moves = of_alias(self.entries(name, events=MOVES), alias)
        return readable(moves) if keys is None else self.belief(keys).moves(moves)

    def looks_at(self, windows: Mapping[str, Any], keys: TrustedKeys) -> list[Mapping[str, Any]]:
        """Return the looks that saw a bar of some test windows, whatever model, split and names.

        Looks that no trusted gate runner signed do not count.
        """
        looks = self.belief(keys).counting(self.entries(events=("test_look",)))
        return looks_at(looks, windows)

    def _verify(self, entries: list[Entry]) -> str:
        if findings := self.findings(entries):
            raise broken(findings)
        return self._whole(entries)

    def _cut_off(self, entries: list[Entry]) -> list[str]:
        return [] if self.checkpoint is None else self.checkpoint.compare(entries)

    def _whole(self, entries: list[Entry]) -> str:
        if not entries:
            return GENESIS
        self._verified = (entries[-1].seq, entries[-1].entry_hash)
        self.note(entries[-1], compared=True)
        return entries[-1].entry_hash


def write_refusal(ledger: Ledger, draft: Draft) -> tuple[Entry | None, list[str]]:
    """Write a refusal down; a server that does not take the line does not change the answer.

    Returns
    -------
    tuple
        The line, or None and a note that says why there is none.
    """
    try:
        return ledger.append(draft), []
    except TrackingError as error:
        if not ledger.moves_by_server:
            raise
        return None, [f"the refusal is not in the ledger: {error}"]
