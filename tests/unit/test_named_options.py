"""Every option that a message names exists: of the command named beside it, or of some command."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import moola
from moola.cli.app import app

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND = re.compile(r"moola ((?:data )?[a-z-]+)([^`.;]*)")
OTHER_PROGRAMS = {"--gunicorn-opts": "mlflow server", "--head": "ray start"}
EVERYWHERE = {"--help", "--traceback", "--version", "--install-completion", "--show-completion"}


def options() -> dict[str, set[str]]:
    """Return the options of each command, ``data build`` and the like by both words."""
    found: dict[str, set[str]] = {}

    def walk(command: object, name: str) -> None:
        for word, below in getattr(command, "commands", {}).items():
            walk(below, f"{name} {word}".strip())
        if not hasattr(command, "commands"):
            parameters = command.params  # type: ignore[attr-defined]
            found[name] = {o for p in parameters for o in (*p.opts, *p.secondary_opts)}

    walk(typer.main.get_command(app), "")
    return found


def messages() -> Iterator[tuple[str, str]]:
    """Yield where and what is said: raised messages, their limits and remedies, help of options."""
    root = Path(moola.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            spoken: list[ast.AST] = []
            if isinstance(node, ast.Raise) and node.exc is not None:
                spoken = [node.exc]
            elif isinstance(node, ast.Call):
                spoken = [k.value for k in node.keywords if k.arg in ("remedy", "limit", "help")]
            for part in (inner for one in spoken for inner in ast.walk(one)):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield f"{path.relative_to(root)}:{part.lineno}", part.value


def unknown(text: str, known: dict[str, set[str]]) -> list[str]:
    """Return the options in a text that nobody has, or not the command that it names."""
    every = set().union(*known.values(), EVERYWHERE, OTHER_PROGRAMS)
    wrong = [word for word in OPTION.findall(text) if word not in every]
    for command, rest in COMMAND.findall(text):
        own = known.get(command, every) | EVERYWHERE
        wrong += [f"{word} of {command}" for word in OPTION.findall(rest) if word not in own]
    return wrong


def test_every_option_that_a_message_names_exists() -> None:
    known = options()
    told = [(where, text) for where, text in messages() if OPTION.search(text)]
    assert len(told) > 60  # the collector itself still sees them
    assert [(where, wrong) for where, text in told if (wrong := unknown(text, known))] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Give --device cpu", []),
        ("Give --devise cpu", ["--devise"]),
        ("Run `moola evaluate --gate 0`", []),
        ("Run `moola history --gate 0`", ["--gate of history"]),
        ("Run `moola data build --overwrite`", ["--overwrite of data build"]),
    ],
)
def test_the_collector_finds_wrong_ones(text: str, wrong: list[str]) -> None:
    found = unknown(text, options())
    assert [word for word in found if word in wrong] == wrong
