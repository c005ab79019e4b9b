"""`moola bench`: run one of the project's measurements."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import typer

from moola.errors import ConfigError

BENCHES = {
    "data": "bench_data.py",
    "finetune": "bench_finetune.py",
    "pretrain": "bench_pretrain.py",
    "pretrain-quality": "long/pretrain_quality.py",
    "ts2vec": "long/ucr_ts2vec.py",
    "gates": "gate_simulation.py",
}


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command("bench", context_settings=settings)(bench)


def bench(
    context: typer.Context,
    name: str = typer.Argument(..., help=f"One of {', '.join(BENCHES)}."),
    folder: Path = typer.Option(Path("benchmarks"), help="The project's benchmarks."),
) -> None:
    """Measure; figures are ratios inside one run. What follows the name goes to the measurement.

    Example: `moola bench data --sizes 10000 100000`
    """
    script = folder / BENCHES.get(name, "")
    if name not in BENCHES:
        raise ConfigError(f"bench is {name!r}", limit=f"one of {', '.join(BENCHES)}")
    if not script.is_file():
        raise ConfigError(
            f"{script} does not exist",
            remedy="Run it in a checkout of the project, or give --folder",
        )
    sys.argv = [str(script), *context.args]
    runpy.run_path(str(script), run_name="__main__")
