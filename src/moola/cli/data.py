"""Commands about data: ingest, build, split, synth, verify, show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from moola.cli.console import console, print_report, progress_bars
from moola.cli.options import DataRoot

if TYPE_CHECKING:
    from moola.data.registry import DataRegistry
    from moola.data.trail import Check

app = typer.Typer(no_args_is_help=True, help="Bars, window sets and splits.")

AsJson = typer.Option(False, "--json", help="Print the result as JSON and nothing else.")
_AUGMENTER = "moola.pretraining.data_augmentation:TimeSeriesAugmenter"


@app.command()
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
    from moola.data.ingest import IngestOptions, ingest

    options = IngestOptions(
        timezone=timezone,
        time_format=time_format,
        columns=tuple(c.strip() for c in columns.split(",") if c.strip()),
        symbol=symbol,
        repairs=tuple(repair),
        jump_mad=jump_mad,
    )
    registry = _registry(data_root)
    total = max(1, file.stat().st_size // 64) if file.is_file() else 1
    with _bars(as_json) as report:
        done = ingest(
            file,
            name,
            registry.data_root / "bars",
            options,
            report=lambda rows: report("reading rows", rows, max(total, rows + 1)),
        )
        report("reading rows", done.report.num_bars, done.report.num_bars)
    for path in (done.path, done.report_path, done.page_path):
        registry.publish(f"bars/{path.name}")
    quality = done.report.to_dict()
    if as_json:
        _print_json(quality)
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


@app.command()
def build(
    recipes: Path | None = typer.Option(None, help="YAML recipes; default: those of Moola."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Build every set and split that does not stand yet.

    Example: `moola data build`
    """
    from moola.config.data import load_recipes

    registry = _registry(data_root)
    sets, splits = load_recipes(recipes)
    digests: dict[str, str] = {}
    with _bars(as_json) as report:
        for name, recipe in sets.items():
            digests[name] = registry.build_set(name, recipe, report=partial(report, name)).sha256
        for name, split_recipe in splits.items():
            digests[f"splits/{name}"] = registry.build_split(name, split_recipe).digest()
    if as_json:
        _print_json(digests)
        return
    for name, digest in digests.items():
        console().print(f"{name:<36}{digest}")


@app.command()
def split(
    name: str = typer.Argument(help="Name of the split, for example fwd_chain_v4."),
    labeled: str = typer.Option("labeled_windows/v1", "--labeled", "--dataset", help="The set."),
    strategy: str = typer.Option("forward_chaining", help="forward_chaining or walk_forward."),
    train_fraction: float = typer.Option(0.60),
    val_fraction: float = typer.Option(0.15),
    num_folds: int = typer.Option(5, "--folds", help="Folds of walk_forward."),
    train_blocks: int | None = typer.Option(
        None, help="walk_forward: train on the latest blocks only (rolling)."
    ),
    embargo_bars: int = typer.Option(0, help="Bars between one part's labels and the next part."),
    indices: Path | None = typer.Option(
        None, "--from", help="JSON with your own train_indices, val_indices and test_indices."
    ),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Split a labelled set, forward in time and purged; nothing else is accepted.

    Example: `moola data split rolling --labeled v1 --strategy walk_forward --train-blocks 2`
    """
    from moola.config.data import SplitRecipe
    from moola.data.layout import qualified
    from moola.data.splits import Split, from_indices, read_indices

    registry = _registry(data_root)
    labeled = qualified(labeled, "labeled_windows")
    if indices is not None:
        found = registry.load_set(labeled)
        made: Any = from_indices(
            name, labeled, found.sha256, found.times,
            **read_indices(indices), embargo_bars=embargo_bars,
        )  # fmt: skip
        registry.audit(found, made).require()
        registry.save_split(made)
    else:
        recipe = SplitRecipe(
            labeled=labeled,
            strategy=strategy,
            train_fraction=train_fraction,
            val_fraction=val_fraction,
            num_folds=num_folds,
            train_blocks=train_blocks,
            embargo_bars=embargo_bars,
        )
        made = registry.build_split(name, recipe)
    parts = [made] if isinstance(made, Split) else list(made.folds)
    rows = [
        {"split": s.name, **{p: len(r) for p, r in s.parts.items()}, "purged": len(s.purged)}
        for s in parts
    ]
    if as_json:
        _print_json({"name": made.name, "sha256": made.digest(), "parts": rows})
        return
    _print_table(rows)


@app.command()
def synth(
    name: str = typer.Argument(help="Name of the synthetic set, for example v1_jitter_r0.5."),
    labeled: str = typer.Option("labeled_windows/v1", "--labeled", "--dataset", help="The set."),
    split_name: str = typer.Option("splits/fwd_chain_v3.json", "--split", help="Its split."),
    ratio: float = typer.Option(0.5, help="Share of synthetic windows in train."),
    seed: int = typer.Option(0),
    augmenter: str = typer.Option(_AUGMENTER, help="module:object; settings go to it by name."),
    setting: list[str] = typer.Option([], "--set", help="name=value for the augmenter."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Make synthetic windows of a split's train part, test them and store what passes.

    Example: `moola data synth v1_jitter_r0.5 --ratio 0.5 --set jitter_sigma=0.02`
    """
    from moola.data.augmenters import load_augmenter
    from moola.data.layout import qualified

    registry = _registry(data_root)
    augment, config = load_augmenter(augmenter, setting)
    made, checks = registry.build_synthetic(
        name,
        registry.load_set(qualified(labeled, "labeled_windows")),
        registry.load_split(split_name),
        augment,
        config=config,
        ratio=ratio,
        random_state=seed,
    )
    if as_json:
        rows = [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in checks]
        _print_json(
            {"name": made.name, "sha256": made.sha256, "windows": len(made), "checks": rows}
        )
        return
    console().print(f"{made.name}: {len(made)} windows, SHA-256 {made.sha256}")
    _print_checks(checks)


@app.command()
def verify(
    names: list[str] = typer.Argument(None, help="Sets and splits; default: all there are."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Check digests, derive every set again from its bars, and audit every split.

    Example: `moola data verify labeled_windows/v1 splits/fwd_chain_v3`
    """
    from moola.data import review
    from moola.errors import AuditError, DataError

    registry = _registry(data_root)
    wanted = list(names or registry.names())
    if not wanted:
        raise DataError(f"nothing stands in {data_root}", remedy="Build it: moola data build")
    refusals: dict[str, str | None] = {}
    with _bars(as_json) as report:
        for k, name in enumerate(wanted):
            try:
                for trail in review.verify(registry, name):
                    trail.require()
                refusals[name] = None
            except (AuditError, DataError) as error:
                refusals[name] = str(error)
            report("verifying", k + 1, len(wanted))
    if as_json:
        _print_json(refusals)
    else:
        for name, refusal in refusals.items():
            console().print(f"{name:<36}{refusal or 'as it was built'}", markup=False)
    bad = [n for n, refusal in refusals.items() if refusal]
    if bad:
        raise AuditError(f"{len(bad)} of {len(wanted)} must not be believed: {', '.join(bad)}")


@app.command()
def show(
    name: str | None = typer.Argument(None, help="A set, a split (splits/...) or bars (bars/...)."),
    picture: Path | None = typer.Option(None, help="Write a split's audit as a PNG."),
    data_root: str = DataRoot,
    as_json: bool = AsJson,
) -> None:
    """Show what there is, or one set, split or bar set.

    Example: `moola data show splits/fwd_chain_v3 --picture audit.png`
    """
    from moola.data.review import describe

    registry = _registry(data_root)
    facts = describe(registry, name)
    if picture is not None:
        _write_picture(registry, name, picture)
    if as_json:
        _print_json(facts)
        return
    if name is None:
        _print_table(facts["sets"])
        return
    print_report(name.upper(), {"FACTS": {k: _words(v) for k, v in facts.items()}})


def _bars(quiet: bool) -> AbstractContextManager[Any]:
    return nullcontext(lambda *_: None) if quiet else progress_bars()


def _registry(data_root: str) -> DataRegistry:
    from moola.data.registry import DataRegistry

    return DataRegistry(data_root)


def _write_picture(registry: DataRegistry, name: str | None, picture: Path) -> None:
    from moola.data.audit_plot import audit_figure
    from moola.data.review import verify
    from moola.errors import ConfigError
    from moola.hashing import atomic_file

    if name is None or not name.startswith("splits/"):
        raise ConfigError(f"--picture is asked for {name!r}", limit="a split: splits/<name>")
    trail = verify(registry, name)[-1].to_dict()
    with atomic_file(picture) as draft:
        audit_figure(trail).savefig(draft, format="png", dpi=150)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=True, default=str, allow_nan=False))


def _print_checks(checks: list[Check]) -> None:
    for check in checks:
        mark = "[green]ok[/]     " if check.passed else "[red]refused[/]"
        console().print(f"{mark} {check.name}: {check.detail}")


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in rows[0] if rows else ("nothing stands here yet",):
        table.add_column(str(column).replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_words(v) for v in row.values()))
    console().print(table)


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    return str(value)
