"""The command tree, and what every error turns into: one line and an exit code."""

from __future__ import annotations

import dataclasses
import difflib
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

import moola
from moola.cli import (
    bench,
    compare,
    data,
    forensics,
    guard,
    models,
    pretrain,
    registry,
    runs,
    serve,
    sweep,
    train,
)
from moola.cli.options import Command
from moola.config import names
from moola.errors import MoolaError, missing_extra, one_line
from moola.interrupt import Terminated, sigterm_raises

_BUG = 70  # EX_SOFTWARE of sysexits.h
_CTRL_C = 130  # 128 + SIGINT, as shells have it
_FULL_DISK = re.compile(  # Rust, SQLite, torch's C++ streams, numpy: none of them keeps the errno
    r"no space left on device|disk quota exceeded|database or disk is full|iostream error"
    r"|\d+ requested and \d+ written"
)
_WAY = "The way of a model"
_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    _WAY: (
        train.demo,
        pretrain.pretrain_bilstm,
        pretrain.pretrain_ts2vec,
        pretrain.pretrain_multitask,
        train.train,
        train.evaluate,
        train.investigate,
        registry.promote,
    ),
    "Is it worth it?": (
        compare.compare,
        sweep.sweep,
        forensics.ablate,
        forensics.forensics,
        models.models,
        bench.bench,
    ),
    "Production": (
        registry.rollback,
        registry.challenger,
        registry.history,
        registry.verify,
        registry.keys,
    ),
    "Any MLflow model": (guard.attest, guard.approve, guard.evidence),
    "A version at work": (serve.serve, serve.predict, serve.drift),
    "Runs": (runs.runs, runs.show, runs.sync, runs.server, runs.ui),
}


class _DataFirst(TyperGroup):
    """Lists `data` before the commands: it is the first step."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: name != "data")


app = typer.Typer(
    name="moola",
    cls=_DataFirst,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train small classifiers of OHLC windows, prove what each run did, and let only what is "
    "proven reach Production.\n\n"
    "The way, which `moola demo` walks once:\n\n"
    "1. `moola data build`: window sets and splits from bars\n\n"
    "2. `moola pretrain-bilstm`: an encoder of unlabelled windows (may be left out)\n\n"
    "3. `moola train`: a candidate, registered as a version\n\n"
    "4. `moola evaluate`: its gates, signed\n\n"
    "5. `moola promote`: into Production, if gates and locked test windows allow it",
    epilog="Each command says more: `moola train --help`. Exit codes: 0 done, 1 refused by a gate "
    "or guard, 2 bad arguments, 70 a bug, 130 Ctrl-C, 143 SIGTERM. `moola --install-completion` "
    "completes commands, options and names of sets and splits.",
)
app.add_typer(data.app, name="data", rich_help_panel=_WAY)
app.add_typer(guard.app, name="guard", rich_help_panel="Any MLflow model")
for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        _settings = bench.SETTINGS if _command is bench.bench else None
        app.command(cls=Command, rich_help_panel=_panel, context_settings=_settings)(_command)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"moola {moola.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    show_traceback: bool = typer.Option(
        False, "--traceback", help="Show the traceback of an error; accepted anywhere."
    ),
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
    show = "--traceback" in arguments  # wherever it is
    arguments = _with_plain_flags([word for word in arguments if word != "--traceback"])
    try:
        with sigterm_raises():
            code = app(arguments, prog_name="moola", standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = _CTRL_C
    except Terminated:
        return _report("stopped by SIGTERM", 143, arguments)
    except Exception as error:
        line, code = _told(error, arguments)
        if show or code == _BUG:
            traceback.print_exc()
        if line and "--json" in arguments:
            _tell_script(error, line, code)
        return _report(line, code, arguments) if line else code
    # Some releases of typer return the code of an exit, and that of Ctrl-C, instead of raising.
    if code == _CTRL_C:
        return _report("stopped by Ctrl-C", _CTRL_C, arguments)
    return int(code or 0)


def _with_plain_flags(arguments: list[str]) -> list[str]:
    """Write ``--flag true`` and ``--flag false`` as ``--flag`` and ``--no-flag``.

    Launchers that pass every parameter as name and value (`mlflow run` among them) know no flags.
    """
    values = {"true": 0, "false": 1}
    if not any(word.lower() in values for word in arguments):
        return arguments
    flags = _flags_of(arguments)
    plain: list[str] = []
    for word in arguments:
        pair = flags.get(plain[-1]) if plain and word.lower() in values else None
        if pair is None:
            plain.append(word)
        else:
            plain[-1] = pair[values[word.lower()]]
    return plain


def _flags_of(arguments: list[str]) -> dict[str, tuple[str, str]]:
    """Return the flags of the command asked for, each with what turns it on and off."""
    command: Any = typer.main.get_command(app)
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    return {
        name: (parameter.opts[0], parameter.secondary_opts[0])
        for parameter in command.params
        if getattr(parameter, "secondary_opts", None)
        for name in parameter.opts
    }


def _told(error: Exception, arguments: list[str]) -> tuple[str, int]:
    """Return the line and the exit code that an error turns into."""
    if _is_of_full_disk(error):
        return (
            f"the disk is full: {one_line(error)}. What was stored before is whole; free some "
            "space, then run the command again.",
            2,
        )
    if isinstance(error, MoolaError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # a usage error of the parser
        message = str(error.format_message()).rstrip(".")
        return _usage_message(error, message, arguments) if message else "", 2
    if type(error).__module__.startswith("mlflow."):
        return f"the tracking store refused: {one_line(error)}", 2
    if missing := missing_extra(error):
        return str(missing), missing.exit_code
    if isinstance(error, OSError):
        if not error.filename:
            return one_line(error), 2
        what = f"{error.filename} cannot be used: {error.strerror}"
        return f"{what}. Give a path that can be read or written.", 2
    return f"a bug of Moola's own: {type(error).__name__}: {one_line(error)}", _BUG


def _is_of_full_disk(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error, or behind one that it was raised from.

    Libraries hide the errno in words of their own. Messages of Moola's and of the parser's are not
    searched for such words: they quote names that users gave.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        ours = isinstance(error, MoolaError) or hasattr(error, "format_message")
        if not ours and _FULL_DISK.search(str(error).lower()):
            return True
        error = error.__cause__ or error.__context__
    return False


def _tell_script(error: Exception, line: str, code: int) -> None:
    """Print what went wrong as JSON, so that a script reads something whatever happened."""
    from moola.cli.console import print_json

    if getattr(error, "told_as_json", False):
        return
    decision = getattr(error, "decision", None)
    about = {} if decision is None else {"decision": dataclasses.asdict(decision)}
    print_json({"error": line, "exit_code": code, **about})


def _report(message: str, code: int, arguments: Sequence[str]) -> int:
    line = " ".join(message.split())
    if os.environ.get("MLFLOW_RUN_ID"):
        from moola.tracking.mlflow_run import fail_joined_run

        steps = [names.STEP_OF_COMMAND[word] for word in arguments if word in names.STEP_OF_COMMAND]
        fail_joined_run(line, step=steps[0] if steps else None)
    print(f"moola: {line}", file=sys.stderr)
    return code


def _usage_message(error: Any, message: str, arguments: list[str]) -> str:
    """Return the parser's message: a bad value in full, an unknown option with the nearest one."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if parameter is not None:
        for option in parameter.opts:
            if option in arguments[:-1]:
                return f"{option} is {arguments[arguments.index(option) + 1]!r}. {message}."
    if context is None or not hasattr(error, "possibilities"):
        return f"{message}."
    parameters = context.command.get_params(context)
    spellings = [o for p in parameters for o in p.opts if o.startswith("--")]
    near = difflib.get_close_matches(error.option_name, spellings, n=1, cutoff=0.0)
    return f"No such option: {error.option_name}. The nearest is {near[0]}."
