"""The spool: what a run logs is on the local disk before anything goes to a server.

One folder a run and its children, below ``.moola/spool`` or ``MOOLA_SPOOL``::

    <key>/store.json       the store it is for
          journal.jsonl    what was logged, one entry a line, only ever appended to
          files/<number>/  the files of an entry, at their artifact paths
          acks.jsonl       what the store has confirmed, one line an entry
          lock             held by the process that writes or sends it

Everything survives the end of the process. A line cut short by it was never logged.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from moola.config import names
from moola.errors import TrackingError
from moola.hashing import write_json
from moola.tracking.proofs import killed_before

_LOG = logging.getLogger(__name__)
SPOOL_VARIABLE = "MOOLA_SPOOL"
_DEFAULT_ROOT = Path(".moola/spool")
_REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class SpoolEntry:
    """One thing to bring to the store: its number, the key of its run, its kind and content."""

    number: int
    run: str
    kind: str
    body: Mapping[str, Any]


def spool_root() -> Path:
    """Return the folder of all spools."""
    return Path(os.environ.get(SPOOL_VARIABLE) or _DEFAULT_ROOT).absolute()


class Spool:
    """One spool folder, held by this process alone."""

    def __init__(self, folder: Path, lock: IO[str]):
        self.folder = folder
        self._lock = lock
        self._guard = threading.Lock()
        self.store: str = json.loads((folder / "store.json").read_text())["store"]
        self.ids: dict[str, dict[str, str]] = {}  # run key -> facts confirmed by the store
        self.tries: Counter[str] = Counter()  # how often the creation of a run was asked for
        self.refused: list[str] = []
        self.waiting: list[SpoolEntry] = []
        self._next = 0
        self._newest: dict[tuple[str, str], Path] = {}  # (run, artifact path) -> its newest file
        for name in ("journal.jsonl", "acks.jsonl"):
            _cut_torn_line(folder / name)
        self._load()
        self._journal = (folder / "journal.jsonl").open("a")
        self._acks = (folder / "acks.jsonl").open("a")

    @classmethod
    def create(cls, store: str, *, root: Path | None = None) -> Spool:
        """Make an empty spool for a store, given by its absolute URI.

        Parameters
        ----------
        store
            Absolute URI of the store.
        root
            Folder of all spools; None: see `spool_root`.

        Returns
        -------
        Spool
            The spool, held by this process.

        Raises
        ------
        TrackingError
            If the folder of spools cannot be written to.
        """
        folder = (root or spool_root()) / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir(parents=True)
            lock = (folder / "lock").open("a")
        except OSError as error:
            raise TrackingError(
                f"the spool {folder.parent} cannot be written to: {error.strerror}",
                remedy=f"Set {SPOOL_VARIABLE} to a folder on a disk with room",
            ) from None
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_json(folder / "store.json", {"store": store})
        return cls(folder, lock)

    @classmethod
    def take(cls, folder: Path) -> Spool | None:
        """Take a spool that another process left; None while that process still holds it.

        One that cannot be read is set aside in ``refused/`` with a warning: None.
        """
        try:
            lock = (folder / "lock").open("a")
        except FileNotFoundError:
            return None  # sent and removed since it was listed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder / "store.json").is_file():
                return cls(folder, lock)
        except BlockingIOError:
            pass
        except (ValueError, LookupError, TypeError) as error:
            target = _set_aside(folder)
            _LOG.warning(
                "the spool %s cannot be read (%s); it is kept in %s", folder, error, target
            )
        lock.close()
        return None

    def append(
        self, run: str, kind: str, body: Mapping[str, Any], files: Mapping[str, bytes] | None = None
    ) -> SpoolEntry:
        """Write an entry down; it is safe from the end of this process when this returns."""
        entry = SpoolEntry(number=self._next, run=run, kind=kind, body=body)
        for path, content in (files or {}).items():
            target = self.files(entry) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        self._next += 1
        self._write(self._journal, {"n": entry.number, "run": run, "kind": kind, "body": body})
        for path in files or {}:
            # A file that is logged again and again must not pile up while the store is away.
            if (older := self._newest.get((run, path))) is not None:
                older.unlink(missing_ok=True)
            self._newest[run, path] = self.files(entry) / path
        return entry

    def files(self, entry: SpoolEntry) -> Path:
        """Return the folder that holds an entry's files."""
        return self.folder / "files" / str(entry.number)

    def trying(self, run: str) -> bool:
        """Write down that the creation of a run is about to be asked for; False: do not ask."""
        self.tries[run] += 1
        return self._ack({"trying": run})

    def confirm(self, entry: SpoolEntry, facts: Mapping[str, str] | None = None) -> None:
        """Write down that the store has an entry."""
        if facts:
            self.ids[entry.run] = dict(facts)
        if self._ack({"n": entry.number, "run": entry.run, "facts": facts}):
            shutil.rmtree(self.files(entry), ignore_errors=True)

    def drop(self, sent: Collection[SpoolEntry]) -> None:
        """Take entries that were confirmed or refused from those that wait."""
        numbers = {entry.number for entry in sent}
        self.waiting[:] = [entry for entry in self.waiting if entry.number not in numbers]

    def refuse(self, entry: SpoolEntry, reason: str) -> None:
        """Write down that the store will never take an entry; its files are kept."""
        self.refused.append(reason)
        self._ack({"n": entry.number, "run": entry.run, "refused": reason})

    def add_missing_ends(self) -> None:
        """End the runs whose process ended without a word: FAILED, at its last entry's time."""
        runs: dict[str, bool] = {}
        tags: dict[str, dict[str, str]] = {}
        for record in _lines(self.folder / "journal.jsonl"):
            runs[record["run"]] = record["kind"] == "end"
            tags.setdefault(record["run"], {}).update(record["body"].get("tags", {}))
        last = int((self.folder / "journal.jsonl").stat().st_mtime * 1000)
        for run in [run for run, ended in runs.items() if not ended]:
            reason = {names.TAG_REASON: "the process ended without a word"}
            reason |= killed_before(tags[run])
            self.waiting.append(self.append(run, "batch", {"tags": reason}))
            self.waiting.append(self.append(run, "end", {"status": "FAILED", "end_time": last}))

    def close(self) -> None:
        """Let go of the folder; it is removed if all has been sent, and kept if not."""
        with self._guard:
            if self._acks.closed:
                return
            whole = not self.waiting
            os.fsync(self._journal.fileno())
            self._journal.close()
            self._acks.close()
        if whole and self.refused:
            _set_aside(self.folder)
        elif whole:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _load(self) -> None:
        finished = set()
        for record in _lines(self.folder / "acks.jsonl"):
            if "trying" in record:
                self.tries[record["trying"]] += 1
                continue
            finished.add(record["n"])
            if record.get("facts"):
                self.ids[record["run"]] = record["facts"]
            if "refused" in record:
                self.refused.append(record["refused"])
        for record in _lines(self.folder / "journal.jsonl"):
            self._next = record["n"] + 1
            if record["n"] not in finished:
                self.waiting.append(
                    SpoolEntry(
                        number=record["n"],
                        run=record["run"],
                        kind=record["kind"],
                        body=record["body"],
                    )
                )

    def _ack(self, record: Mapping[str, Any]) -> bool:
        """Append to the acks; False if the spool was let go of while a request was under way."""
        with self._guard:
            if not self._acks.closed:
                self._write(self._acks, record)
                return True
        return False

    @staticmethod
    def _write(handle: IO[str], record: Mapping[str, Any]) -> None:
        handle.write(json.dumps(record) + "\n")
        handle.flush()


def left_spools(root: Path | None = None) -> list[Path]:
    """Return the folders of all spools, oldest first."""
    root = root or spool_root()
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if p.is_dir() and p.name != _REFUSED)


def set_aside(folder: Path) -> Path:
    """Return where a spool is kept that cannot be sent."""
    return folder.parent / _REFUSED / folder.name


def _set_aside(folder: Path) -> Path:
    target = set_aside(folder)
    target.parent.mkdir(exist_ok=True)
    return folder.rename(target)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open() as handle:
            for line in handle:
                yield json.loads(line)


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that the end of a process cut short."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
