"""Files of bars of every kind that is read, behind one face: names, a sample, batches."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from moola.data.ingest.csv_file import csv_batches, read_head
from moola.data.ingest.json_file import JsonFile, json_start
from moola.errors import DataError, one_line

_BATCH_ROWS = 1 << 17
_SAMPLE_ROWS = 100
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)
_KINDS = "CSV, JSON, parquet or feather"


class BarFile(Protocol):
    """A file of bars that is open to be read.

    Attributes
    ----------
    source
        What it looks like, in words.
    names
        Its columns, in order; the user's names where ``--columns`` gives them.
    comments
        Text of the comment lines.
    comment_rows
        Comment lines met among the data so far.
    """

    source: str
    names: tuple[str, ...]
    comments: str
    comment_rows: int

    def sample(self) -> dict[str, pa.Array]:
        """Return the first rows by column."""
        ...

    def batches(self, columns: list[str], numbers: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield columns in file order; `numbers` of them as numbers where the file has texts."""
        ...


def open_bar_file(
    path: Path,
    columns: tuple[str, ...] = (),
    *,
    scratch: Path | None = None,
    archive: str | None = None,
) -> BarFile:
    """Tell what a file is by its first bytes, and open it.

    Parameters
    ----------
    path
        CSV or JSON (plain or compressed), parquet, feather, or a zip archive with one of them.
    columns
        What the user calls the columns, in order; empty: the file says it.
    scratch
        A folder for what has to be unpacked; None: nothing is.
    archive
        The archive that `path` was unpacked from.

    Raises
    ------
    DataError
        If the file is not there, is of no kind that is read, or holds no rows.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder", limit="one file of bars")
    if not path.is_file():
        raise DataError(f"file {path} does not exist")
    with path.open("rb") as handle:
        magic = handle.read(8)
    if magic.startswith(b"PK\x03\x04") or path.suffix.lower() == ".zip":
        if archive is not None or scratch is None:
            raise DataError(f"file {archive or path} is a zip archive", remedy="Unpack it first")
        return open_bar_file(_unpacked(path, scratch), columns, archive=str(path))
    try:
        if magic.startswith(b"PAR1"):
            return _Parquet(path, columns)
        if magic.startswith(b"FEA1"):
            raise DataError(
                f"file {path} is feather of the first version", remedy="Write it in the second"
            )
        if magic.startswith(b"ARROW1"):
            return _Feather(path, columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"file {path} cannot be read: {one_line(error)}") from None
    if (start := json_start(path)) is not None:
        return JsonFile(path, columns, start)
    return _Csv(path, columns)


def is_parquet(path: Path) -> bool:
    """Return whether the file begins as parquet does."""
    with path.open("rb") as handle:
        return handle.read(4) == b"PAR1"


class _Csv:
    def __init__(self, path: Path, columns: tuple[str, ...]):
        self._path, self._head = path, read_head(path, columns)
        self.source, self.names = self._head.source, self._head.names
        self.comments, self.comment_rows = self._head.comments, 0

    def sample(self) -> dict[str, pa.Array]:
        return self._head.sample

    def batches(self, columns: list[str], numbers: list[str]) -> Iterator[pa.RecordBatch]:
        yield from csv_batches(self._path, self._head, columns, numbers, self._note)

    def _note(self) -> None:
        self.comment_rows += 1


class _Typed:
    """A file whose columns have types: what parquet and feather share."""

    comments, comment_rows = "", 0

    def __init__(self, path: Path, columns: tuple[str, ...], stored: list[str], source: str):
        self.source = "own columns" if columns else source
        self._stored, self._path = stored, path
        if columns and len(columns) != len(stored):
            raise DataError(
                f"--columns names {len(columns)} columns, and file {path} has {len(stored)}: "
                f"{', '.join(stored[:20])}",
                limit="one name a column, in their order",
            )
        self.names = tuple(columns) if columns else tuple(stored)

    def sample(self) -> dict[str, pa.Array]:
        once = [n for n in dict.fromkeys(self.names) if self.names.count(n) == 1]
        rows = next(self.batches(once, []), None)
        if rows is None:
            raise DataError(f"file {self._path} holds no bars")
        parts = {n: rows.column(k).slice(0, _SAMPLE_ROWS) for k, n in enumerate(once)}
        for name in self.names:  # one that is there twice is refused once it is used
            parts.setdefault(name, pa.nulls(1))
        return parts

    def batches(self, columns: list[str], numbers: list[str]) -> Iterator[pa.RecordBatch]:
        del numbers
        stored = [self._stored[self.names.index(c)] for c in columns]
        for batch in self._read(stored):
            arrays = [batch.column(batch.schema.names.index(s)) for s in stored]
            if len(batch):
                yield pa.RecordBatch.from_arrays([_decoded(a) for a in arrays], names=columns)

    def _read(self, stored: list[str]) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError


class _Parquet(_Typed):
    def __init__(self, path: Path, columns: tuple[str, ...]):
        super().__init__(path, columns, list(pq.read_schema(path).names), "parquet")

    def _read(self, stored: list[str]) -> Iterator[pa.RecordBatch]:
        file = pq.ParquetFile(self._path, pre_buffer=False, buffer_size=1 << 20)
        yield from file.iter_batches(_BATCH_ROWS, columns=stored)


class _Feather(_Typed):
    def __init__(self, path: Path, columns: tuple[str, ...]):
        with pa.OSFile(str(path)) as file:
            stored = list(pa.ipc.open_file(file).schema.names)
        super().__init__(path, columns, stored, "feather")

    def _read(self, stored: list[str]) -> Iterator[pa.RecordBatch]:
        with pa.OSFile(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            for k in range(reader.num_record_batches):
                batch = reader.get_batch(k)
                for begin in range(0, max(len(batch), 1), _BATCH_ROWS):
                    yield batch.slice(begin, _BATCH_ROWS)


def _unpacked(path: Path, scratch: Path) -> Path:
    """Unpack the one file of an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                i.filename
                for i in archive.infolist()
                if not i.is_dir() and not i.filename.startswith("__MACOSX")
            ]
            if "[Content_Types].xml" in names:
                raise DataError(
                    f"file {path} is an Office document", limit=_KINDS, remedy="Save it as CSV"
                )
            if len(names) != 1:
                raise DataError(
                    f"archive {path} holds {len(names)} files: {', '.join(names[:5])}",
                    limit="one file of bars",
                    remedy="Unpack it and ingest one of them",
                )
            scratch.mkdir(parents=True, exist_ok=True)
            target = scratch / f"member{Path(names[0]).suffix}"
            with archive.open(names[0]) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
    except (
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
        OSError,
        EOFError,
        zlib.error,
    ) as error:
        raise DataError(
            f"archive {path} cannot be unpacked: {one_line(error)}", remedy="Unpack it first"
        ) from None
    return target


def _decoded(values: pa.Array) -> pa.Array:
    """Return dictionary-encoded values, which are all different to Arrow, as they are meant."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return values.cast(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    return values
