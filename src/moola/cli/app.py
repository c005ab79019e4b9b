"""The command tree, and what every error turns into: one line and an exit code."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

import moola
from moola.cli import (
    bench,
    data,
    forensics,
    models,
    monitor,
    pretrain,
    registry,
    runs,
    serve,
    sweep,
    train,
)
from moola.errors import MoolaError

app = typer.Typer(
    name="moola",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train small classifiers of OHLC windows, prove what each run did, and let only what is "
    "proven reach Production.\n\nThe way: `moola data build` -> `moola pretrain-bilstm` -> "
    "`moola train` -> `moola evaluate` -> `moola promote`. `moola demo` walks it once.\n\n"
    "Exit codes: 0 done, 1 refused by a gate or guard, 2 bad arguments.",
)
app.add_typer(data.app, name="data")
pretrain.add_commands(app)
train.add_commands(app)
sweep.add_commands(app)
forensics.add_commands(app)
registry.add_commands(app)
runs.add_commands(app)
serve.add_commands(app)
monitor.add_commands(app)
bench.add_commands(app)
models.add_commands(app)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"moola {moola.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    traceback: bool = typer.Option(False, "--traceback", help="Show the traceback of an error."),
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version."
    ),
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Idle OpenMP threads must sleep: spinning, they slow small nets tenfold on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        app(arguments, prog_name="moola", standalone_mode=False)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _report("stopped", 130)
    except MoolaError as error:
        if "--traceback" in arguments:
            import traceback

            traceback.print_exc()
        return _report(str(error), error.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the parser
            return _report(_usage_message(error, arguments), 2)
        if "--traceback" not in arguments and _is_tracking_error(error):
            return _report(f"the tracking store refused: {str(error).splitlines()[0]}", 2)
        raise
    return 0


def _report(message: str, code: int) -> int:
    line = " ".join(message.split())
    if os.environ.get("MLFLOW_RUN_ID"):
        from moola.tracking.mlflow_run import fail_joined_run

        fail_joined_run(line)
    print(f"moola: {line}", file=sys.stderr)
    return code


def _usage_message(error: Any, arguments: list[str]) -> str:
    """Return the parser's message: a bad value in full, an unknown option with the nearest one."""
    message = str(error.format_message()).rstrip(".")
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if parameter is not None:
        for option in parameter.opts:
            if option in arguments[:-1]:
                return f"{option} is {arguments[arguments.index(option) + 1]!r}. {message}."
    if context is None or not hasattr(error, "possibilities"):
        return f"{message}."
    known = [o for p in context.command.params for o in p.opts if o.startswith("--")]
    near = difflib.get_close_matches(error.option_name, known, n=1, cutoff=0.0)
    return f"No such option: {error.option_name}. The nearest is {near[0]}."


def _is_tracking_error(error: Exception) -> bool:
    return type(error).__module__.startswith("mlflow.")
