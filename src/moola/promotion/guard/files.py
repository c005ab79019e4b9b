"""A version's files, as they are in the store that the guarded server reads and writes.

Reading them takes as long as they are large, so a promotion reads them before its transaction and
asks inside it only whether they are still in the state in which they were read.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moola.errors import PromotionRefused, one_line
from moola.hashing import sha256_json
from moola.promotion.guard.frozen import Places
from moola.promotion.versions.digest import model_file_digests

_MOST_FILES = 10_000
State = tuple[tuple[Any, ...], ...]


class VersionFiles:
    """The files of one registered version.

    Parameters
    ----------
    places
        The server's artifact store.
    address
        Where the registry says the files are.

    Raises
    ------
    PromotionRefused
        If that is not inside this server's artifact store; nothing is fetched from elsewhere.
    """

    def __init__(self, places: Places, address: str):
        place = places.of(address)
        if not places.holds(place):
            raise PromotionRefused(
                f"the files are at {address}", limit="an address in this server's artifact store"
            )
        self.place = place
        self._local = "://" not in place

    def state(self) -> State:
        """Return what changes when the files do, without reading them.

        Of a local folder it is type, size, inode and times of every file; of S3 the size, entity
        tag and time of every object; of any other store the digest of the files, which have to be
        read.
        """
        with _readable(self.place):
            if self._local:
                return tuple(_local_state(Path(self.place)))
            if self.place.startswith("s3://"):
                return tuple(_s3_state(self.place))
        return ((self.digest(),),)

    def digest(self) -> str:
        """Return the `model_files_digest`; local files are read where they are."""
        return sha256_json(self.digests())

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file, by its relative path."""
        if self._local:
            with _readable(self.place):
                return model_file_digests(Path(self.place))
        with self.copied() as folder:
            return model_file_digests(folder)

    @contextmanager
    def copied(self) -> Iterator[Path]:
        """Yield a temporary folder with a copy of the files."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with tempfile.TemporaryDirectory(prefix="moola-guard-") as temporary:
            with _readable(self.place):
                repository = get_artifact_repository(self.place)
                folder = repository.download_artifacts("", temporary)
            yield Path(folder)


def _local_state(root: Path) -> Iterator[tuple[Any, ...]]:
    if not root.is_dir():
        raise PromotionRefused(f"{root} is not a folder of files")
    paths = sorted(_entries(root))
    for path in paths:
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        times = (status.st_mtime_ns, status.st_ctime_ns) if stat.S_ISREG(status.st_mode) else ()
        yield (os.path.relpath(path, root), kind, size, status.st_ino, *times)


def _entries(root: Path) -> list[str]:
    waiting, paths = [str(root)], []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                paths.append(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                _require_few(len(paths))
    return paths


def _require_few(count: int) -> None:
    if count > _MOST_FILES:
        raise PromotionRefused("the version holds too many files", limit=f"{_MOST_FILES} at most")


def _s3_state(place: str) -> Iterator[tuple[Any, ...]]:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(place)
    bucket, prefix = repository.parse_s3_compliant_uri(place)
    pages = repository._get_s3_client().get_paginator("list_objects_v2")
    count = 0
    for page in pages.paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        items = page.get("Contents", ())
        count += len(items)
        _require_few(count)
        for item in items:
            yield (item["Key"], item["Size"], item["ETag"], item["LastModified"].isoformat())


@contextmanager
def _readable(place: str) -> Iterator[None]:
    """Turn whatever a store answers to a read into a refusal: what cannot be read is not proven."""
    try:
        yield
    except PromotionRefused:
        raise
    except Exception as error:  # each store has errors of its own
        line = one_line(error)
        raise PromotionRefused(f"the files at {place} cannot be read: {line}") from error
