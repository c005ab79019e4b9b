"""`moola data ingest`: a bar file of any usual source becomes a bar set."""

from __future__ import annotations

from pathlib import Path

import typer

from moola.cli.console import print_json, print_report, progress_bars
from moola.cli.options import AsJson, DataRoot
from moola.errors import ConfigError

_TIMES, _ROWS = "Times", "Columns and rows"


def ingest(
    file: Path = typer.Argument(help="CSV, JSON (plain or compressed), parquet, feather or zip."),
    name: str = typer.Option(..., "--as", help="Name of the bar set."),
    timezone: str | None = typer.Option(
        None, help="Zone of times that name none; default: UTC.", rich_help_panel=_TIMES
    ),
    time_format: str | None = typer.Option(
        None, help="strptime format of the times.", rich_help_panel=_TIMES
    ),
    epoch_unit: str | None = typer.Option(
        None,
        help="What numbers count: s, ms, us, ns, days (since 1970), excel or matlab.",
        rich_help_panel=_TIMES,
    ),
    time_column: str = typer.Option(
        "", help="Column of the opening time; or date,time.", rich_help_panel=_TIMES
    ),
    columns: str = typer.Option(
        "", help="Names of the columns in order: time,open,high,...", rich_help_panel=_ROWS
    ),
    symbol: str | None = typer.Option(
        None, help="Which instrument, where there are several.", rich_help_panel=_ROWS
    ),
    where: list[str] = typer.Option(
        [], help="COLUMN=VALUE: only these rows; repeatable.", rich_help_panel=_ROWS
    ),
    decimal: str | None = typer.Option(
        None, help="Sign before the fraction: . or ,", rich_help_panel=_ROWS
    ),
    thousands: str | None = typer.Option(
        None, help="Sign between groups of three digits.", rich_help_panel=_ROWS
    ),
    repair: list[str] = typer.Option(
        [], help="sort, drop-duplicates, drop-missing, drop-violations or widen; repeatable."
    ),
    accept: list[str] = typer.Option(
        [], help="What looks absurd and is meant; the refusal says which word; repeatable."
    ),
    jump_mad: float = typer.Option(30.0, help="Changes beyond this many MADs are jumps."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Read a bar file of any usual source, judge it and store it as a bar set.

    Example: `moola data ingest Coinbase_BTCUSD_1h.csv --as btcusd_1h --repair drop-duplicates`
    """
    import moola.data.ingest
    from moola.data.ingest import IngestOptions
    from moola.data.store.data_store import DataStore

    options = IngestOptions(
        timezone=timezone,
        time_format=time_format,
        epoch_unit=epoch_unit,
        time_column=_names(time_column),
        columns=_names(columns),
        symbol=symbol,
        where=_where(where),
        decimal=decimal,
        thousands=thousands,
        repairs=tuple(repair),
        accept=tuple(accept),
        jump_mad=jump_mad,
    )
    store = DataStore(data_root)
    store.fetch_bars(name, required=False)
    total = max(1, file.stat().st_size // 64) if file.is_file() else 1
    with progress_bars(quiet=as_json) as report:
        ingested = moola.data.ingest.ingest(
            file,
            name,
            store.data_root / "bars",
            options,
            report=lambda rows: report("reading rows", rows, max(total, rows + 1)),
        )
        report("reading rows", ingested.report.num_bars, ingested.report.num_bars)
    store.publish(f"bars/{ingested.path.name}")
    for path in (ingested.report_path, ingested.page_path):
        store.publish(f"bars/{path.name}", replace=True)
    quality = ingested.report.to_dict()
    if as_json:
        print_json(quality)
        return
    sections = {
        "OUTCOME": {k.capitalize(): v for k, v in quality["facts"]["outcome"].items()},
        "BARS": {"File": ingested.path, "Format": quality["facts"]["format"]},
        "QUALITY": {k.replace("_", " "): v for k, v in quality["counts"].items()}
        | {"windows": quality["facts"]["windows"]},
        "REPORT": {"Page": ingested.page_path, "JSON": ingested.report_path},
    }
    print_report(f"BAR SET {name}", sections)


def _names(text: str) -> tuple[str, ...]:
    return tuple(c.strip() for c in text.split(",") if c.strip())


def _where(pairs: list[str]) -> dict[str, str]:
    conditions: dict[str, str] = {}
    for pair in pairs:
        column, sign, value = pair.partition("=")
        if not sign or not column.strip() or column.strip() in conditions:
            raise ConfigError(f"--where is {pair!r}", limit="COLUMN=VALUE, each column once")
        conditions[column.strip()] = value.strip()
    return conditions
