"""Checkpoints: how far a ledger went when it was last asked, kept where its owner cannot reach.

A hash chain shows a changed or missing line, and not that the newest lines were cut off or that all
was written anew. Whoever once asked a ledger keeps its size and last hash, and compares at the next
contact: the ledger must still contain that line.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from moola.errors import ConfigError
from moola.hashing import atomic_file, pretty_json
from moola.promotion.ledger.bounded_json import read_json
from moola.promotion.ledger.content import HEX_64
from moola.promotion.ledger.entry import Entry

_KEPT = 64  # earlier places, so that a rewrite can be told from a cut


@dataclass(frozen=True, kw_only=True)
class LedgerCheckpoint:
    """Where a ledger ended.

    Parameters
    ----------
    ledger
        Its address, without a password.
    size, head
        Number and hash of its last line.
    seen_at
        When it was asked, ISO 8601 in UTC.
    signature
        The server's signature over size and head, where there is a server.
    earlier
        Numbers and hashes of lines seen before, oldest first.
    """

    ledger: str
    size: int
    head: str
    seen_at: str
    signature: str | None = None
    earlier: tuple[tuple[int, str], ...] = ()


class CheckpointFile:
    """A checkpoint in a file of its own.

    Parameters
    ----------
    path
        The file; it need not exist.
    address
        Address of the ledger, without a password.
    """

    def __init__(self, path: Path, address: str):
        self.path = Path(path)
        self.address = address

    @classmethod
    def in_folder(cls, folder: Path, address: str) -> CheckpointFile:
        """Return the file of one ledger in a folder of checkpoints."""
        name = hashlib.sha256(address.encode()).hexdigest()[:16]
        return cls(Path(folder) / f"{name}.json", address)

    def read(self) -> LedgerCheckpoint | None:
        """Return the checkpoint, None if there is none yet.

        Raises
        ------
        ConfigError
            If the file holds something else.
        """
        try:
            values = read_json(self.path.read_text("utf-8"))
            earlier = tuple((int(seq), str(line)) for seq, line in values.pop("earlier"))
            checkpoint = LedgerCheckpoint(**values, earlier=earlier)
            if type(checkpoint.size) is not int or not HEX_64.fullmatch(checkpoint.head):
                raise ValueError("no size and hash")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{self.path} is no checkpoint of a ledger ({type(error).__name__})",
                limit="the file `moola history --checkpoint` writes",
                remedy="Restore it; if it is removed, the ledger is taken as it is now",
            ) from None
        return checkpoint

    def compare(self, entries: Sequence[Entry]) -> list[str]:
        """Return what of the checkpoint a ledger no longer contains; empty if it contains it.

        Parameters
        ----------
        entries
            Every line of the ledger, or all from one on that is known to be whole up to there.

        Returns
        -------
        list of str
            One sentence, which names the line, or nothing.
        """
        before = self.read()
        if before is None or (entries and before.size < entries[0].seq):
            return []
        hashes = {entry.seq: entry.entry_hash for entry in entries}
        when = f"which was there on {before.seen_at[:19]}"
        here = f"(SHA-256 {before.head[:12]}), {when} by {self.path}"
        if before.size not in hashes:
            end = max(hashes, default=0)
            return [f"ledger entry {before.size} {here}, is cut off: the ledger ends at {end}"]
        if hashes[before.size] == before.head:
            return []
        same = max((seq for seq, line in before.earlier if hashes.get(seq) == line), default=0)
        return [f"ledger entry {before.size} {here}, is another now: rewritten after entry {same}"]

    def note(self, last: Entry, *, compared: bool, signature: str | None = None) -> None:
        """Write down that the ledger went as far as `last`; a larger checkpoint stays.

        Parameters
        ----------
        last
            The ledger's last line.
        compared
            Whether the ledger was found to contain the checkpoint; if not, the new one is written
            only where `last` directly follows the old one.
        signature
            The server's signature over size and head.
        """
        with self._alone():
            last_kept = self.read()
            if last_kept is not None:
                follows = (last_kept.size + 1, last_kept.head) == (last.seq, last.previous_hash)
                if last_kept.size >= last.seq or not (compared or follows):
                    return
            before = (
                (*last_kept.earlier, (last_kept.size, last_kept.head))[-_KEPT:] if last_kept else ()
            )
            checkpoint = LedgerCheckpoint(
                ledger=self.address,
                size=last.seq,
                head=last.entry_hash,
                seen_at=datetime.now(UTC).isoformat(timespec="seconds"),
                signature=signature,
                earlier=before,
            )
            with atomic_file(self.path) as temporary:
                temporary.write_text(pretty_json(json.loads(json.dumps(asdict(checkpoint)))))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def address_of(uri: str) -> str:
    """Return a ledger's address in one spelling and without user and password."""
    if uri.startswith(("http://", "https://")):
        uri = uri.rstrip("/")
    try:
        url = sa.make_url(uri)
    except sa.exc.ArgumentError:
        raise ConfigError(
            f"{uri.rpartition('@')[2]!r} is no address of a ledger",
            limit="a server's or a database's, as sqlite:///mlflow.db",
        ) from None
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).resolve()))
    if url.get_backend_name() == "postgresql":  # what is left out, libpq takes from these
        port = url.port or int(os.environ.get("PGPORT") or 5432)
        host, database = (os.environ.get(v) for v in ("PGHOST", "PGDATABASE"))
        url = url.set(host=url.host or host, port=port, database=url.database or database)
    bare = sa.URL.create(url.drivername, host=url.host, port=url.port, database=url.database)
    return bare.render_as_string()
