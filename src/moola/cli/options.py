"""Options that several commands share, the panels of their help, and what a shell completes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from moola.config import names
from moola.config.base import Config
from moola.config.training import DEVICES, PRESETS

ENCODER = "Encoder and freeze schedule"
MODEL = "Model"
OPTIMISER = "Optimiser"
AUGMENTATION = "Loss and augmentation"
WHERE = "Where trainings run"

_ConfigT = TypeVar("_ConfigT", bound=Config)


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
    """Return the completion of names such as ``splits/fwd_chain_v3`` in a local data registry."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        root = Path(str(context.params.get("data_root") or "data"))
        paths = [(folder, path) for folder in folders for path in (root / folder).glob("[!.]*")]
        found = {f"{folder}/{path.name.partition('.')[0]}" for folder, path in paths}
        return sorted(name for name in found if name.startswith(incomplete))

    return complete


DataRoot = typer.Option("data", "--data-root", help="Root of the data registry: folder or URL.")
Device = typer.Option(
    "auto",
    "--device",
    help="auto, cpu or cuda; cuda without a GPU is an error at once.",
    autocompletion=one_of(*DEVICES),
)
Name = typer.Option(names.REGISTERED_MODEL, "--name", help="Registered model.")
LedgerUrl = typer.Option("", "--ledger", help="Database of the ledger; empty: the registry's own.")
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
Preset = typer.Option(
    "matched",
    "--preset",
    help="matched (128 units x 2 layers) or compact (32 x 1); an encoder brings its own size.",
    autocompletion=one_of(*PRESETS),
)
HiddenSize = typer.Option(
    0,
    "--hidden-size",
    help="LSTM units per direction; 0: those of the encoder, else of the preset.",
    rich_help_panel=MODEL,
)
NumLayers = typer.Option(
    0,
    "--num-layers",
    help="LSTM layers; 0: those of the encoder, else of the preset.",
    rich_help_panel=MODEL,
)
NumHeads = typer.Option(0, "--num-heads", help="Attention heads; 0: 2.", rich_help_panel=MODEL)
Seed = typer.Option(17, "--seed", help="Of every random choice; the same seed, the same result.")
Resume = typer.Option(False, "--resume", help="Go on where a killed run stopped.")

Epochs = partial(typer.Option, help="Passes over the training windows, at most.")
BatchSize = partial(
    typer.Option, help="Windows a step of the optimiser.", rich_help_panel=OPTIMISER
)
LearningRate = partial(
    typer.Option, help="Of AdamW; the first thing to tune.", rich_help_panel=OPTIMISER
)
WeightDecay = partial(typer.Option, help="Of AdamW.", rich_help_panel=OPTIMISER)
Patience = partial(
    typer.Option,
    help="Early stopping: epochs without gain on validation windows; 0: train to the end.",
    rich_help_panel=OPTIMISER,
)
Dropout = partial(
    typer.Option, help="Share of units left out while training.", rich_help_panel=MODEL
)

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
    help="Of a Ray cluster (host:6379); empty: Ray on this machine.",
    rich_help_panel=WHERE,
)
GpusPerTask = typer.Option(
    0.0, "--gpus-per-task", help="Share of a GPU a Ray task asks for.", rich_help_panel=WHERE
)


def config_of(kind: type[_ConfigT], options: Mapping[str, Any], **changed: Any) -> _ConfigT:
    """Build a configuration from a command's options: those named as one of its fields."""
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{**{k: v for k, v in options.items() if k in fields}, **changed})


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Read an option such as ``17,18,19``."""
    from moola.errors import ConfigError

    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"{name} is {text!r}", limit="whole numbers, such as 17,18,19") from None
