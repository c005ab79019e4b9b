"""Ingest: any bar file becomes one of Moola's own, with a report of what is wrong in it.

Nothing is mended in silence: what breaks OHLC or the order of time is refused, unless a repair is
asked for, and then the report says how many rows it touched. Memory does not grow with the file:
rows pass through a spool on disk.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moola.config.data import check_name
from moola.data.bar_quality import QualityReport, assess
from moola.data.bar_quality_page import quality_page
from moola.data.ingest_formats import detect
from moola.data.ingest_rows import REPAIRS, IngestOptions, Tally, read_rows
from moola.data.ingest_spool import Spool
from moola.errors import DataError
from moola.hashing import atomic_file, sha256_file, write_json

__all__ = ["REPAIRS", "IngestOptions", "Ingested", "ingest"]
_BATCH_ROWS = 1 << 17
Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What an ingest wrote: the bar file, its report as JSON and as a page."""

    path: Path
    report_path: Path
    page_path: Path
    report: QualityReport


def ingest(
    path: Path,
    name: str,
    bars_folder: Path,
    options: IngestOptions | None = None,
    *,
    report: Progress = lambda rows: None,
) -> Ingested:
    """Read a bar file of any known format and write it in Moola's own form.

    Writes ``<name>.parquet`` (timestamp UTC, open, high, low, close, volume if there is one),
    ``<name>.quality.json`` and ``<name>.quality.html`` into `bars_folder`.

    Parameters
    ----------
    path
        The file; CSV or parquet, oldest or newest first.
    name
        Name of the bar set.
    bars_folder
        ``data/bars``.
    options
        How to read and to mend it.
    report
        Called with the number of rows read so far.

    Returns
    -------
    Ingested
        The paths written, and the report.

    Raises
    ------
    DataError
        If the format is not known, a row cannot be read, OHLC or the order of time is broken and
        no repair was asked for, or a bar set of that name with another content stands already.
    """
    options = options or IngestOptions()
    check_name("bar set", name, "a bar set")
    form = detect(Path(path), columns=options.columns, ticker=options.symbol)
    target, json_path, page_path = (
        bars_folder / f"{name}.{end}" for end in ("parquet", "quality.json", "quality.html")
    )
    bars_folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=bars_folder, prefix=f".{name}."))
    try:
        tally, spool = Tally(), Spool(temporary / "spool.arrow")
        with spool:
            for batch, rows in read_rows(Path(path), form, options, tally):
                spool.add(batch, rows)
                report(tally.rows)
        _refuse_faults(path, tally)
        _write(temporary / target.name, spool, options, tally, path)
        facts = {
            "source_file": Path(path).name,
            "source_sha256": sha256_file(Path(path)),
            "format": form.name,
            "rows_read": tally.rows,
            "order": spool.order,
            "timezone": options.timezone if tally.naive_times else "stated in the file",
            "repairs": dict(sorted(tally.repaired.items())),
        }
        quality = assess(temporary / target.name, jump_mad=options.jump_mad, facts=facts)
        write_json(temporary / json_path.name, quality.to_dict())
        (temporary / page_path.name).write_text(quality_page(quality))
        _install(temporary / target.name, target)
        for report_path in (json_path, page_path):
            (temporary / report_path.name).replace(report_path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Ingested(path=target, report_path=json_path, page_path=page_path, report=quality)


def _refuse_faults(path: Path, tally: Tally) -> None:
    words = {
        "missing": ("have no time or a price that is not a positive number", "drop-missing"),
        "violations": (
            "have a high or low that does not enclose open and close",
            "widen or drop-violations",
        ),
    }
    for fault, (count, row) in sorted(tally.faults.items()):
        what, repair = words[fault]
        raise DataError(
            f"{count} of {tally.rows} rows of {path} {what}, the first is data row {row}",
            remedy=f"Mend the file, or take --repair {repair}",
        )


def _write(target: Path, spool: Spool, options: IngestOptions, tally: Tally, path: Path) -> None:
    """Write the spooled rows in time order, each time once."""
    if not spool.num_rows:
        raise DataError(f"file {path} holds no bars")
    if spool.order == "mixed":
        if "sort" not in options.repairs:
            raise DataError(
                f"times of {path} neither ascend nor descend, first at data row {spool.first_turn}",
                remedy="Mend the file, or take --repair sort",
            )
        tally.repair("sort", spool.num_rows)
    previous = np.datetime64("NaT", "us")
    schema = spool.schema.set(0, pa.field("timestamp", pa.timestamp("us", tz="UTC")))
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in spool.in_time_order():
            time = batch["timestamp"].to_numpy(zero_copy_only=False)
            again = np.r_[time[0] == previous, time[1:] == time[:-1]]
            previous = time[-1]
            if again.any() and "drop-duplicates" not in options.repairs:
                raise DataError(
                    f"{path} holds {time[np.argmax(again)]} more than once "
                    f"({int(again.sum())} times in {len(time)} rows)",
                    remedy="Mend the file, or take --repair drop-duplicates",
                )
            tally.repair("drop-duplicates", int(again.sum()))
            kept = batch if not again.any() else batch.filter(pa.array(~again))
            writer.write_batch(kept.cast(schema), row_group_size=_BATCH_ROWS * 8)


def _install(made: Path, target: Path) -> None:
    if target.exists():
        if sha256_file(target) != sha256_file(made):
            raise DataError(
                f"bar set {target.stem} exists with another content",
                remedy="Bar sets are immutable: use a new name",
            )
        return
    with atomic_file(target) as draft:
        made.replace(draft)
