"""Options that several commands share, the panels of their help, and what a shell completes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from moola.config import names
from moola.config.base import Config, kinds_of, options_in
from moola.config.training import DEVICES

WHERE = "Where trainings run"


class Command(TyperCommand):
    """A command whose help shows a flag as a flag, not as an option that takes a <bool>."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, flags without the name of a type."""
        params = super().get_params(ctx)
        for parameter in params:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return params


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Return the completion of an option that takes one of some words."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def stored(*folders: str) -> Callable[[typer.Context, str], list[str]]:
    """Return the completion of names such as ``splits/fwd_chain_v3`` in a local data store."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        root = Path(str(context.params.get("data_root") or "data"))
        paths = [(folder, path) for folder in folders for path in (root / folder).glob("[!.]*")]
        on_disk = {f"{folder}/{path.name.partition('.')[0]}" for folder, path in paths}
        return sorted(name for name in on_disk if name.startswith(incomplete))

    return complete


DataRoot = typer.Option("data", "--data-root", help="Root of the data store: folder or URL.")
Device = typer.Option(
    "auto",
    "--device",
    help="auto, cpu or cuda; cuda without a GPU is an error at once.",
    autocompletion=one_of(*DEVICES),
)
Name = typer.Option(names.REGISTERED_MODEL, "--name", help="Registered model.")
LedgerUrl = typer.Option("", "--ledger", help="Database of the ledger; empty: the registry's own.")
SigningKey = typer.Option(
    None, "--key", help="File of your private key (Ed25519 or P-256); none: the project's."
)
AsJson = typer.Option(False, "--json", help="Print the result as JSON and nothing else.")
Labeled = typer.Option(
    names.DEFAULT_LABELED,
    "--labeled",
    "--dataset",
    help="Labelled window set.",
    autocompletion=stored("labeled_windows"),
)
Split = typer.Option(
    names.DEFAULT_SPLIT,
    "--split",
    help="Split of the labelled set, forward in time.",
    autocompletion=stored("splits"),
)
Folds = typer.Option(
    "",
    "--folds",
    help="Walk-forward folds; empty: those of the set.",
    autocompletion=stored("splits"),
)
Resume = typer.Option(False, "--resume", help="Go on where a killed run stopped.")

Jobs = typer.Option(
    0,
    "--jobs",
    help="Trainings at the same time; 0: one here, as many as there is room for with Ray.",
    rich_help_panel=WHERE,
)
LauncherName = typer.Option(
    "local",
    "--launcher",
    help="local processes, or ray.",
    autocompletion=one_of("local", "ray"),
    rich_help_panel=WHERE,
)
Address = typer.Option(
    "",
    "--address",
    help="Address of a Ray cluster (host:6379); empty: Ray on this machine.",
    rich_help_panel=WHERE,
)
GpusPerTask = typer.Option(
    0.0, "--gpus-per-task", help="Share of a GPU a Ray task asks for.", rich_help_panel=WHERE
)


def options_of(
    kind: type[Config], *, only: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a configuration, as the field explains itself.

    The command is a function whose first parameter is the configuration. What the command line
    gives is checked where the configuration is built, so that a value is refused in the same words
    whichever way it came.

    Parameters
    ----------
    kind
        A `Config` whose fields are made by `moola.config.base.option`.
    only
        Names of the fields that become options; empty: all.

    Returns
    -------
    callable
        A decorator.
    """
    fields = [name for name in options_in(kind) if name in (only or (name,))]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *others = inspect.signature(command, eval_str=True).parameters.values()

        def run(**values: Any) -> None:
            chosen = {name: _value_of(kind, name, values.pop(name)) for name in fields}
            command(kind(**chosen), **values)

        parameters = [*(_parameter(kind, name) for name in fields), *others]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        )
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__module__ = command.__module__
        return run

    return decorate


def _parameter(kind: type[Config], name: str) -> inspect.Parameter:
    """Return the parameter of a command that one field of a configuration becomes."""
    about, of = options_in(kind)[name], kinds_of(kind)[name]
    default = getattr(kind, name)
    if default is None:
        default = about.none
    if about.repeated is not None:
        default, of = list(default), list[about.repeated]  # type: ignore[name-defined]
    elif of is tuple:
        default, of = ",".join(map(str, default)), str
    spelled = [about.flag or f"--{name.replace('_', '-')}", *about.names]
    if of is bool:
        spelled = [f"{flag}/--no-{flag.removeprefix('--')}" for flag in spelled]
    words = about.choices or about.suggested
    complete = one_of(*words) if words else stored(about.stored) if about.stored else None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=typer.Option(
            default, *spelled, help=about.help, rich_help_panel=about.panel, autocompletion=complete
        ),
        annotation=of,
    )


def _value_of(kind: type[Config], name: str, value: Any) -> Any:
    """Return a field's value from what the command line gives."""
    about = options_in(kind)[name]
    if about.repeated is not None:
        return tuple(value)
    if kinds_of(kind)[name] is tuple:
        return whole_numbers(name, value)
    none = about.none
    return None if none is not None and value == none else value


def on_command_line(context: typer.Context) -> list[str]:
    """Return the parameters of a command that its user wrote, default value or not."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Read an option such as ``17,18,19``."""
    from moola.errors import ConfigError

    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"{name} is {text!r}", limit="whole numbers, such as 17,18,19") from None
