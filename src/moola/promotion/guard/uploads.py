"""Writes into an object store that the guarded server has allowed and cannot call back.

An object store takes a file in its own time: while the server sends one, and for as long as a
signed address that it handed out is valid, the files there may still change. Each such write is
noted in a table before it begins, and a promotion refuses a version whose files one may reach.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import sqlalchemy as sa

from moola.promotion.guard.frozen import overlaps
from moola.promotion.ledger.local import LocalLedger

LONGEST_ADDRESS_SECONDS = 300
_LONGEST_WRITE = timedelta(hours=6)
_TABLE = sa.Table(
    "moola_uploads",
    sa.MetaData(),
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("until", sa.String(40), nullable=False, index=True),
)


class Uploads:
    """The table of open writes, in the ledger's database.

    Parameters
    ----------
    ledger
        Whose database and clock are used. A note takes its append lock, so that it comes either
        before a promotion, which then sees it, or after, and then sees what the promotion froze.
    """

    def __init__(self, ledger: LocalLedger):
        self._ledger = ledger
        with ledger.transaction() as connection:
            _TABLE.create(connection, checkfirst=True)

    @contextmanager
    def writing(self, place: str, *, check: Callable[[str], None]) -> Iterator[None]:
        """Note a write for as long as the block lasts.

        Parameters
        ----------
        place
            What is written.
        check
            Asked about the place once the write is noted; raises to refuse it.
        """
        identity = self._note(place, self._ledger.clock() + _LONGEST_WRITE)
        try:
            check(place)
            yield
        finally:
            self._forget(identity)

    def allow_address(self, place: str, seconds: float, *, check: Callable[[str], None]) -> None:
        """Note that an address which writes to `place` is valid for some seconds from now.

        Parameters
        ----------
        place
            What it writes.
        seconds
            How long it is valid.
        check
            Asked about the place once the address is noted; raises to refuse it.
        """
        identity = self._note(place, self._ledger.clock() + timedelta(seconds=seconds))
        try:
            check(place)
        except BaseException:
            self._forget(identity)
            raise

    def open_until(self, connection: sa.Connection, place: str) -> datetime | None:
        """Return how long a write may still reach into or above a place, None if none can.

        Parameters
        ----------
        connection
            A connection that holds the append lock.
        place
            Where a version's files are.
        """
        now = self._ledger.clock().isoformat()
        rows = connection.execute(sa.select(_TABLE).where(_TABLE.c.until > now)).mappings()
        reaching = [row["until"] for row in rows if overlaps(row["place"], place)]
        return datetime.fromisoformat(max(reaching)) if reaching else None

    def _note(self, place: str, until: datetime) -> str:
        identity = uuid.uuid4().hex
        now = self._ledger.clock().isoformat()
        with self._ledger.transaction() as connection:
            connection.execute(sa.delete(_TABLE).where(_TABLE.c.until <= now))
            values = {"id": identity, "place": place, "until": until.isoformat()}
            connection.execute(sa.insert(_TABLE).values(**values))
        return identity

    def _forget(self, identity: str) -> None:
        with self._ledger.transaction() as connection:
            connection.execute(sa.delete(_TABLE).where(_TABLE.c.id == identity))
