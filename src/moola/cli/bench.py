"""`moola bench`: run one of the project's measurements."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from moola.cli.console import console, progress_bars, table
from moola.cli.options import one_of
from moola.errors import ConfigError, Refused

BENCHES = {
    "data": "bench_data.py",
    "exclusions": "bench_exclusions.py",
    "corpus": "bench_corpus.py",
    "controls": "bench_controls.py",
    "finetune": "bench_finetune.py",
    "pretrain": "bench_pretrain.py",
    "pretrain-quality": "long/pretrain_quality.py",
    "gates": "gate_simulation.py",
    "bodies": "bench_bodies.py",
    "guard": "bench_guard.py",
    "launchers": "bench_launchers.py",
    "models": "bench_models.py",
    "serve": "bench_serve.py",
    "store": "bench_store.py",
    "tracking": "bench_tracking.py",
    "ts2vec": "long/ucr_ts2vec.py",
    "walks": "long/random_walks.py",
}
UCR = "ucr"


SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def bench(
    context: typer.Context,
    name: str = typer.Argument(
        ..., help=f"One of {', '.join([*BENCHES, UCR])}.", autocompletion=one_of(*BENCHES, UCR)
    ),
    folder: Path = typer.Option(Path("benchmarks"), help="The project's benchmarks."),
) -> None:
    """Measure; figures are ratios inside one run. What follows the name goes to the measurement.

    `moola bench ucr [MODEL] [SET...]` scores MiniRocket (or quant, hydra_multirocket) on UCR sets
    that ship with sktime, five seeds each, beside the published accuracies; it needs no checkout.

    Example: `moola bench data --sizes 10000 100000`

    Example: `moola bench ucr quant GunPoint OSULeaf`
    """
    if name == UCR:
        _bench_ucr(tuple(context.args))
        return
    import runpy

    script = folder / BENCHES.get(name, "")
    if name not in BENCHES:
        raise ConfigError(f"bench is {name!r}", limit=f"one of {', '.join([*BENCHES, UCR])}")
    if not script.is_file():
        raise ConfigError(
            f"{script} does not exist",
            remedy="Run it in a checkout of the project, or give --folder",
        )
    sys.argv = [str(script), *context.args]
    runpy.run_path(str(script), run_name="__main__")


def _bench_ucr(names: tuple[str, ...]) -> None:
    from moola.models.controls.benchmark_ucr import PUBLISHED, TOLERANCE, bench_ucr

    model = names[0] if names and names[0] in PUBLISHED else ""
    with progress_bars() as progress:
        results = bench_ucr(
            names[1:] if model else names, model=model or "minirocket", on_done=progress
        )
    rows = table("set")
    for column in (
        "train",
        "test",
        "classes",
        "bars",
        "accuracy",
        "lowest",
        "highest",
        "published",
    ):
        rows.add_column(column, justify="right")
    for result in results:
        sizes = (result.num_train, result.num_test, result.num_classes, result.num_bars)
        figures = (
            result.accuracy,
            min(result.accuracies),
            max(result.accuracies),
            result.published,
        )
        cells = ["-" if f is None else f"{f:.4f}" for f in figures]
        rows.add_row(result.name, *(str(s) for s in sizes), *cells)
    console().print(rows)
    missed = [result.name for result in results if not result.holds]
    if missed:
        raise Refused(
            f"{model or 'minirocket'} misses the published accuracy on {', '.join(missed)}",
            limit=f"a mean within {TOLERANCE} of it",
        )
