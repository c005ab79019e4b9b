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
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from moola.config.data import WindowRecipe, check_name
from moola.data.bars import (
    HIGHEST_PRICE,
    LOWEST_PRICE,
    PRICE_COLUMNS,
    ZONE_KEY,
    Bars,
    num_bars,
)
from moola.data.ingest.columns import Format, assign
from moola.data.ingest.files import BarFile, open_bar_file
from moola.data.ingest.options import MOST_REPAIRED, IngestOptions
from moola.data.ingest.outcome import outcome_lines, outcome_of, refuse_absurd
from moola.data.ingest.quality import QualityReport, assess
from moola.data.ingest.quality_page import quality_page
from moola.data.ingest.rows import RowReader, Tally
from moola.data.ingest.spool import RowSpool
from moola.data.ingest.varying import varying_texts
from moola.data.windows import choose_starts
from moola.errors import DataError, one_line
from moola.hashing import atomic_file, sha256_file, write_json

_BATCH_ROWS = 1 << 17
_COUNTED_BARS = 500_000
_FEW_ROWS = 5  # repaired: of a file of a few dozen rows no share says anything
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
        no repair was asked for, or a bar set of that name with other content exists already.
    """
    options = options or IngestOptions()
    check_name("bar set", name, "a bar set")
    path = Path(path)
    target, json_path, page_path = (
        bars_folder / f"{name}.{end}" for end in ("parquet", "quality.json", "quality.html")
    )
    bars_folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=bars_folder, prefix=f".{name}."))
    try:
        facts = convert(path, temporary / target.name, options, report=report)
        facts["windows"] = _windows_in_words(temporary / target.name)
        if options.accept:
            facts["accepted"] = ", ".join(options.accept)
        quality = assess(temporary / target.name, jump_mad=options.jump_mad, facts=facts)
        write_json(temporary / json_path.name, quality.to_dict())
        (temporary / page_path.name).write_text(quality_page(quality))
        _install(temporary / target.name, target)
        for report_path in (json_path, page_path):
            (temporary / report_path.name).replace(report_path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Ingested(path=target, report_path=json_path, page_path=page_path, report=quality)


def convert(
    path: Path, target: Path, options: IngestOptions, *, report: Progress = lambda rows: None
) -> dict[str, Any]:
    """Read a bar file and write its bars to `target`; what else is needed lies beside it.

    Returns what is known of the file and of what came of it. Raises what `ingest` raises.
    """
    tally, spool = Tally(), RowSpool(target.parent / "spool.arrow")
    file, form = detect(path, options, target.parent / "unpacked")
    reader = RowReader(path, file, form, options, tally)
    with spool:
        for batch, rows in reader.batches():
            spool.add(batch, rows)
            report(tally.rows)
    _refuse_faults(path, tally)
    _refuse_braid(path, file, form, spool=spool, options=options)
    _write(target, reader, spool)
    _refuse_much_repair(path, tally, options)
    outcome = outcome_of(target)
    refuse_absurd(outcome, reader.clock, options.accept)
    return {
        "source_file": path.name,
        "source_sha256": sha256_file(path),
        "format": form.name,
        "outcome": outcome_lines(
            outcome,
            clock=reader.clock,
            columns=" and ".join(n or "without a name" for n in form.time),
            why=form.why,
            tally=tally,
            comments=file.comment_rows,
        ),
        "rows_read": tally.rows,
        "order": spool.order,
        "timezone": reader.clock.zone or "stated in the file",
        "repairs": dict(sorted(tally.repaired.items())),
        "repaired_share": round(tally.repaired_share, 6),
    }


def _windows_in_words(path: Path) -> str:
    """Say how many windows the recipe that is usual would leave out of the bars, and why."""
    if num_bars(path) > _COUNTED_BARS:
        return f"not counted of more than {_COUNTED_BARS:,} bars: `moola data build` counts them"
    recipe = WindowRecipe(source=path.stem)
    table = pq.read_table(path, columns=["timestamp", *PRICE_COLUMNS])
    ohlc = np.column_stack([table[c].to_numpy() for c in PRICE_COLUMNS])
    bars = Bars(name=path.stem, time=table["timestamp"].to_numpy(), ohlc=ohlc, sha256="")
    try:
        left_out = choose_starts(bars, recipe)[1]
        words, warning = left_out.words, left_out.warning
    except DataError as error:
        words, warning = error.problem, error.remedy
    rule = f"{recipe.window_bars} bars and {recipe.horizon_bars} ahead, every {recipe.step_bars}"
    return f"{words} ({rule})" + f". {warning}" * bool(warning)


def detect(
    path: Path, options: IngestOptions, scratch: Path | None = None
) -> tuple[BarFile, Format]:
    """Open a file and say which column is which; no row has been read yet.

    Raises DataError if it cannot be read or its columns are not known; of an archive, if there is
    no `scratch` folder to unpack it into.
    """
    file = open_bar_file(path, options.columns, scratch=scratch)
    try:
        sample = file.sample()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"file {path} cannot be read: {one_line(error)}") from None
    form = assign(
        file.source,
        path,
        file.names,
        sample,
        ticker=options.symbol,
        times=options.times,
        comments=file.comments,
    )
    return file, form


def _refuse_faults(path: Path, tally: Tally) -> None:
    words = {
        "beyond": (
            f"have a price that single precision does not hold ({LOWEST_PRICE:g} to "
            f"{HIGHEST_PRICE:g})",
            None,
        ),
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
            remedy=f"Mend the file, or take --repair {repair}" if repair else "Scale the prices",
        )


def _refuse_much_repair(path: Path, tally: Tally, options: IngestOptions) -> None:
    """Refuse repairs of many rows unasked: so many faults have a cause that repair would hide."""
    share, count = tally.repaired_share, tally.num_repaired
    few = share <= MOST_REPAIRED or count <= _FEW_ROWS
    if few or "repairs" in options.accept:
        return
    each = ", ".join(f"{name} {count:,}" for name, count in sorted(tally.repaired.items()))
    raise DataError(
        f"repairs touch {share:.1%} of {tally.rows - tally.other_rows:,} rows of {path} ({each})",
        limit=f"{MOST_REPAIRED:.0%}: more have a cause, such as a column that is shifted by a bar",
        remedy="Mend the cause, or if it is so, take --accept repairs",
    )


def _refuse_braid(
    path: Path, file: BarFile, form: Format, *, spool: RowSpool, options: IngestOptions
) -> None:
    """Refuse to sort rows that a column of texts parts into series of their own."""
    if spool.order != "mixed" or "sort" not in options.repairs:
        return
    for column, values in varying_texts(file, form).items():
        if values.are_series:
            raise DataError(
                f"the rows of {path} are several series, each in order, told apart by column "
                f"{column}: {', '.join(sorted(values.seen)[:10])}",
                remedy=f"Choose one, for example --where {column}={sorted(values.seen)[0]}",
            )


def _write(target: Path, reader: RowReader, spool: RowSpool) -> None:
    """Write the spooled rows in time order, each time once."""
    path, options, tally, zone = reader.path, reader.options, reader.tally, reader.clock.zone
    if not spool.num_rows:
        raise DataError(f"file {path} holds no bars")
    if spool.order == "mixed":
        if "sort" not in options.repairs:
            raise DataError(
                f"times of {path} neither ascend nor descend, first at data row {spool.first_turn}",
                remedy="Mend the file, or take --repair sort",
            )
        tally.repair("sort", spool.num_rows)
    previous: pa.RecordBatch | None = None
    duplicates = contradictions = 0
    first_time: dict[str, Any] = {}
    schema = spool.schema.set(0, pa.field("timestamp", pa.timestamp("us", tz="UTC")))
    if zone is not None:  # labels without a zone are read in the one that their bars were given
        schema = schema.with_metadata({ZONE_KEY: zone})
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in spool.in_time_order():
            again, other = _repeats(batch, previous)
            previous = batch.slice(len(batch) - 1)
            time = batch["timestamp"].to_numpy(zero_copy_only=False)
            for kind, mask in (("again", again), ("other", other)):
                if mask.any():
                    first_time.setdefault(kind, time[np.argmax(mask)])
            duplicates += int((again & ~other).sum())
            contradictions += int(other.sum())
            fresh = batch if not again.any() else batch.filter(pa.array(~again))
            writer.write_batch(fresh.cast(schema), row_group_size=_BATCH_ROWS * 8)
    if contradictions:
        raise _contradiction(reader, contradictions, first_time["other"])
    if duplicates and "drop-duplicates" not in options.repairs:
        raise DataError(
            f"{path} holds {first_time['again']} more than once "
            f"({duplicates} times in {spool.num_rows} rows), with the same prices",
            remedy="Mend the file, or take --repair drop-duplicates",
        )
    tally.repair("drop-duplicates", duplicates)


def _repeats(
    batch: pa.RecordBatch, previous: pa.RecordBatch | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows have the time of the row before, and which of them other prices."""
    time = batch["timestamp"].cast(pa.int64()).to_numpy(zero_copy_only=False)
    prices = np.column_stack([batch[c].to_numpy(zero_copy_only=False) for c in PRICE_COLUMNS])
    again = np.r_[False, time[1:] == time[:-1]]
    other = np.r_[False, (prices[1:] != prices[:-1]).any(axis=1)]
    if previous is not None and previous["timestamp"].cast(pa.int64())[0].as_py() == time[0]:
        again[0] = True
        other[0] = [previous[c][0].as_py() for c in PRICE_COLUMNS] != prices[0].tolist()
    return again, again & other


def _contradiction(reader: RowReader, count: int, time: np.datetime64) -> DataError:
    """Return the error of bars of one time that differ in price, with what may tell them apart."""
    varying = {c: sorted(v.seen) for c, v in varying_texts(reader.file, reader.form).items()}
    problem = (
        f"{count} rows of {reader.path} have the time of another row and other prices "
        f"(first {time})"
    )
    if not varying:
        return DataError(
            problem, limit="one bar a time", remedy="No column tells them apart: mend the file"
        )
    column, values = next(iter(varying.items()))
    examples = "; ".join(f"{c}: {', '.join(v[:5])}" for c, v in list(varying.items())[:5])
    quoted = f"{column}={values[0]}"
    return DataError(
        f"{problem}; columns that differ: {examples}",
        limit="one instrument, and one bar a time",
        remedy=f"Choose one, for example --where {repr(quoted) if ' ' in quoted else quoted}",
    )


def _install(temporary: Path, target: Path) -> None:
    if target.exists():
        if sha256_file(target) != sha256_file(temporary):
            raise DataError(
                f"bar set {target.stem} exists with another content",
                remedy="Bar sets are immutable: use a new name",
            )
        return
    with atomic_file(target) as draft:
        temporary.replace(draft)
