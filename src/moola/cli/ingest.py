"""`moola data ingest`: a bar file of any usual source becomes a bar set."""

from __future__ import annotations

from pathlib import Path

import typer

from moola.cli.console import print_json, print_report, progress_bars
from moola.cli.options import AsJson, DataRoot


def ingest(
    file: Path = typer.Argument(help="CSV (plain or compressed) or parquet."),
    name: str = typer.Option(..., "--as", help="Name of the bar set."),
    timezone: str = typer.Option("UTC", help="Zone of times that name none."),
    time_format: str | None = typer.Option(None, help="strptime format of the times."),
    columns: str = typer.Option("", help="Column names of a CSV without a header: time,open,..."),
    symbol: str | None = typer.Option(None, help="Which instrument, where there are several."),
    repair: list[str] = typer.Option(
        [], help="sort, drop-duplicates, drop-missing, drop-violations or widen; repeatable."
    ),
    jump_mad: float = typer.Option(30.0, help="Changes beyond this many MADs are jumps."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Read a bar file of any usual source, judge it and store it as a bar set.

    Example: `moola data ingest Coinbase_BTCUSD_1h.csv --as btcusd_1h --repair drop-duplicates`
    """
    from moola.data.ingest import IngestOptions
    from moola.data.ingest import ingest as ingest_file
    from moola.data.registry import DataRegistry

    options = IngestOptions(
        timezone=timezone,
        time_format=time_format,
        columns=tuple(c.strip() for c in columns.split(",") if c.strip()),
        symbol=symbol,
        repairs=tuple(repair),
        jump_mad=jump_mad,
    )
    registry = DataRegistry(data_root)
    registry.fetch_bars(name, required=False)
    total = max(1, file.stat().st_size // 64) if file.is_file() else 1
    with progress_bars(quiet=as_json) as report:
        done = ingest_file(
            file,
            name,
            registry.data_root / "bars",
            options,
            report=lambda rows: report("reading rows", rows, max(total, rows + 1)),
        )
        report("reading rows", done.report.num_bars, done.report.num_bars)
    registry.publish(f"bars/{done.path.name}")
    for path in (done.report_path, done.page_path):
        registry.publish(f"bars/{path.name}", replace=True)
    quality = done.report.to_dict()
    if as_json:
        print_json(quality)
        return
    repairs = quality["facts"]["repairs"]
    sections = {
        "BARS": {
            "File": done.path,
            "Bars": f"{done.report.num_bars:,}",
            "Range": f"{done.report.first_bar} to {done.report.last_bar}",
            "Format": quality["facts"]["format"],
            "Repairs": ", ".join(f"{k} ({v})" for k, v in repairs.items()) or "none",
        },
        "QUALITY": {k.replace("_", " "): v for k, v in quality["counts"].items()},
        "REPORT": {"Page": done.page_path, "JSON": done.report_path},
    }
    print_report(f"BAR SET {name}", sections)
