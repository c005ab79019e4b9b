"""Where a data store is kept: a folder, or any file system that pyarrow or fsspec knows.

Object stores cannot rename, so a set is uploaded file by file with its manifest last: a set
without a manifest does not exist. No set, split or bar set that exists is overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from moola.errors import DataError, one_line
from moola.hashing import atomic_file, sha256_file, write_json

_CHUNK_BYTES = 1 << 20
_RENAMING = ("local", "hdfs")  # on these a file is written to a temporary name first


class Root:
    """A data store on the local disk: nothing to fetch, nothing to publish.

    `is_cache` says whether the folder is a copy, so that a set in it may be gone from the store.
    """

    is_cache = False

    def __init__(self, folder: Path):
        self.folder = folder

    def fetch(self, path: str, *, required: bool = True) -> None:
        """Bring one file into the folder."""

    def fetch_set(self, name: str) -> bool:
        """Bring one set into the folder; return whether it exists."""
        return (self.folder / name).exists()

    def holds(self, path: str) -> bool:
        """Return whether a file of that path is stored in the data store."""
        return (self.folder / path).exists()

    def partitions(self, path: str) -> tuple[Any, str] | None:
        """Return file system and path of a folder of parquet files; None if there is none."""
        local = self.folder / path
        return (fs.LocalFileSystem(), str(local.resolve())) if local.is_dir() else None

    def publish(self, path: str, *, replace: bool = False) -> None:
        """Store one file or one set in the data store."""

    def remove(self, path: str) -> None:
        """Remove one file or one set; a set loses its name first, so that none is half there."""
        local = self.folder / path
        if local.is_dir():
            retired = local.with_name(f".{local.name}.{secrets.token_hex(4)}")
            local.rename(retired)
            shutil.rmtree(retired)
        else:
            local.unlink(missing_ok=True)

    def names(self, kinds: tuple[str, ...]) -> list[str]:
        """Return the names of sets (``kind/version``) and splits (``splits/name``), sorted."""
        names = [
            f"{kind}/{p.name}"
            for kind in kinds
            for p in (self.folder / kind).glob("[!.]*")
            if p.is_dir()
        ]
        names += [f"splits/{p.stem}" for p in (self.folder / "splits").glob("[!.]*.json")]
        return sorted(names)


class RemoteRoot(Root):
    """A data store on another file system, worked on in a local cache.

    A cached file is used only if its digest is the one the remote manifest states (files of a
    set) or the one it had when it was fetched and the remote file has not changed since. What is
    gone there, or was never uploaded whole, does not exist, whatever the cache holds.
    """

    is_cache = True

    def __init__(self, filesystem: Any, base: str, folder: Path):
        super().__init__(folder)
        self._fs = filesystem
        self._base = base.rstrip("/")
        self._index = folder / ".index.json"

    def fetch(self, path: str, *, required: bool = True) -> None:
        """Bring one file into the cache, or remove it there if it is gone from the store.

        Raises DataError if it is required and absent.
        """
        info = self._info(path)
        local = self.folder / path
        if info.type != fs.FileType.File:
            local.unlink(missing_ok=True)
            if required:
                raise DataError(f"{self._base}/{path} does not exist")
            return
        index = self._read_index()
        mark = [info.size, info.mtime_ns]
        entry = index.get(path)
        fresh = entry is not None and entry[:2] == mark and local.is_file()
        if entry is not None and fresh and sha256_file(local) == entry[2]:
            return
        self._download(path, local)
        index[path] = [*mark, sha256_file(local)]
        write_json(self._index, index)

    def fetch_set(self, name: str) -> bool:
        """Bring one set into the cache, file by file, each checked by the remote manifest.

        Returns whether the store holds the set.
        """
        if self._info(f"{name}/manifest.json").type != fs.FileType.File:
            return False
        folder = self.folder / name
        manifest = self._read_json(f"{name}/manifest.json")
        files = manifest.get("files")
        if not isinstance(files, dict) or any("/" in f or f.startswith(".") for f in files):
            raise DataError(f"{self._base}/{name}/manifest.json names no files")
        for file, digest in files.items():
            local = folder / file
            if local.is_file() and sha256_file(local) == digest:
                continue
            self._download(f"{name}/{file}", local, digest)
        self._download(f"{name}/manifest.json", folder / "manifest.json")
        return True

    def holds(self, path: str) -> bool:
        """Return whether a file of that path is on the other file system."""
        return bool(self._info(path).type == fs.FileType.File)

    def partitions(self, path: str) -> tuple[Any, str] | None:
        """Return file system and path of a folder of parquet files; they are read in place."""
        is_folder = self._info(path).type == fs.FileType.Directory
        return (self._fs, f"{self._base}/{path}") if is_folder else None

    def publish(self, path: str, *, replace: bool = False) -> None:
        """Upload one file or one set; raises DataError if other content is stored there.

        With `replace` a file takes the place of what is stored.
        """
        local = self.folder / path
        if local.is_file():
            if replace or not self._is_stored(path, local):
                self._upload(local, path)
            return
        if self._info(f"{path}/manifest.json").type == fs.FileType.File:
            raise DataError(
                f"{self._base}/{path} exists", remedy="Sets are immutable: use a new name"
            )
        files = sorted(p.name for p in local.iterdir() if p.name != "manifest.json")
        for file in [*files, "manifest.json"]:
            self._upload(local / file, f"{path}/{file}")

    def remove(self, path: str) -> None:
        """Remove one file or one set, here and there; a set loses its manifest first."""
        if self._info(path).type == fs.FileType.File:
            self._call(self._fs.delete_file, f"{self._base}/{path}")
        elif self._info(f"{path}/manifest.json").type == fs.FileType.File:
            self._call(self._fs.delete_file, f"{self._base}/{path}/manifest.json")
            self._call(self._fs.delete_dir, f"{self._base}/{path}")
        super().remove(path)

    def names(self, kinds: tuple[str, ...]) -> list[str]:
        """Return the names of sets and splits that are stored remotely, sorted."""
        names: list[str] = []
        for kind in (*kinds, "splits"):
            selector = fs.FileSelector(f"{self._base}/{kind}", recursive=True, allow_not_found=True)
            for info in self._call(self._fs.get_file_info, selector):
                inside = info.path[len(self._base) + 1 :]
                if kind == "splits" and inside.endswith(".json"):
                    names.append(inside.removesuffix(".json"))
                elif inside.endswith("/manifest.json"):
                    names.append(inside.removesuffix("/manifest.json"))
        return sorted(names)

    def _info(self, path: str) -> Any:
        return self._call(self._fs.get_file_info, f"{self._base}/{path}")

    def _read_json(self, path: str) -> dict[str, Any]:
        with self._call(self._fs.open_input_stream, f"{self._base}/{path}") as stream:
            try:
                values = json.loads(stream.read())
            except ValueError as error:
                raise DataError(f"{self._base}/{path} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise DataError(f"{self._base}/{path} holds {type(values).__name__}", limit="an object")
        return values

    def _download(self, path: str, local: Path, digest: str | None = None) -> None:
        with (
            self._call(self._fs.open_input_stream, f"{self._base}/{path}") as stream,
            atomic_file(local) as temporary,
        ):
            with temporary.open("wb") as handle:
                while chunk := self._call(stream.read, _CHUNK_BYTES):
                    handle.write(chunk)
            if digest is not None and sha256_file(temporary) != digest:
                raise DataError(
                    f"{self._base}/{path} has SHA-256 {sha256_file(temporary)[:12]}",
                    limit=f"{digest[:12]} by its manifest",
                    remedy="Remove the set there and build it again",
                )

    def _is_stored(self, path: str, local: Path) -> bool:
        """Return whether a file has this content; raises DataError if with another."""
        info = self._info(path)
        if info.type == fs.FileType.NotFound:
            return False
        if info.size != local.stat().st_size or self._sha256(path) != sha256_file(local):
            raise DataError(
                f"{self._base}/{path} exists with another content",
                remedy="What is stored is never overwritten: use a new name",
            )
        return True

    def _sha256(self, path: str) -> str:
        digest = hashlib.sha256()
        with self._call(self._fs.open_input_stream, f"{self._base}/{path}") as stream:
            while chunk := self._call(stream.read, _CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def _upload(self, local: Path, path: str) -> None:
        """Upload a file; where that fails, nothing is left under its name."""
        target = f"{self._base}/{path}"
        folder, _, name = target.rpartition("/")
        renames = self._fs.type_name in _RENAMING
        draft = f"{folder}/.{name}.{secrets.token_hex(4)}" if renames else target
        if renames:
            self._call(self._fs.create_dir, folder)
        try:
            self._call(self._copy, local, draft)
            if renames:
                self._call(self._fs.move, draft, target)
        except BaseException:
            with suppress(OSError, pa.ArrowException):
                self._fs.delete_file(draft)
            raise

    def _copy(self, local: Path, target: str) -> None:
        with local.open("rb") as handle, self._fs.open_output_stream(target) as stream:
            while chunk := handle.read(_CHUNK_BYTES):
                stream.write(chunk)

    def _read_index(self) -> dict[str, list[Any]]:
        try:
            values = json.loads(self._index.read_text())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def _call(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"data store {self._base} cannot be used: {one_line(error)}",
                remedy="Check the URL, the credentials and the network",
            ) from None


def open_root(root: Path | str) -> Root:
    """Open a data store by folder or URL.

    A URL is cached below ``MOOLA_CACHE`` (default ``~/.cache/moola``). Raises DataError for a URL
    that no file system answers to.
    """
    if isinstance(root, Path) or "://" not in root:
        return Root(Path(root))
    try:
        filesystem, base = fs.FileSystem.from_uri(root)
    except (ValueError, OSError, ImportError, pa.ArrowException) as error:
        raise DataError(
            f"data root {root!r} cannot be opened: {one_line(error)}",
            limit="a folder, or a URL such as s3://bucket/moola or fsspec+memory://moola",
        ) from None
    cache = Path(os.environ.get("MOOLA_CACHE", Path.home() / ".cache" / "moola"))
    key = hashlib.sha256(root.encode()).hexdigest()[:16]
    return RemoteRoot(filesystem, base, cache / key)
