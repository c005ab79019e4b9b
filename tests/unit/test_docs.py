"""README and docs say what the program knows: commands parse, errors exist, links lead."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import moola

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
_FENCED = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
_INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)+", re.M)


def _commands(page: Path) -> list[str]:
    """Calls of `moola` in code blocks, continued lines joined, and in the running text."""
    text = page.read_text()
    prose = _FENCED.sub("", text)
    blocks = [*_FENCED.findall(text), *_INDENTED.findall(prose)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    called = [line.strip() for line in lines if re.match(r"\s*(\S+=\S+ )?moola [a-z]", line)]
    mentioned = [" ".join(words.split()) for words in re.findall(r"`(moola\s[a-z][^`]*)`", prose)]
    mentioned = [words.replace("\\|", "|") for words in mentioned]
    return list(dict.fromkeys([*called, *mentioned]))


CASES = [
    pytest.param(command, id=f"{page.name}: {command[:60]}")
    for page in PAGES
    for command in _commands(page)
]


@functools.cache
def _program() -> Any:
    from moola.cli.app import app

    return typer.main.get_command(app)


@pytest.mark.parametrize("command", CASES)
def test_commands_of_the_docs_parse(command: str, tmp_path: Path) -> None:
    """Each command exists, takes those options, and accepts those values' types."""
    arguments = [
        re.sub(r"[<>]", "", word).replace("...", "x")
        for word in shlex.split(command.partition("moola ")[2], comments=True)
    ]
    node = _program()
    while (
        hasattr(node, "commands") and arguments
    ):  # not isinstance: typer brings a click of its own
        name = arguments.pop(0)
        assert name in node.commands, f"{command}: no command {name}"
        node = node.commands[name]
        if "|" in arguments:
            return
    if arguments:
        assert not hasattr(node, "commands")
        node.make_context(node.name, list(arguments))


def test_a_command_that_does_not_exist_is_noticed(tmp_path: Path) -> None:
    for wrong in ("moola trian", "moola train --epoch 3", "moola train --epochs many"):
        with pytest.raises(Exception, match=r"no command trian|No such option|valid int"):
            test_commands_of_the_docs_parse(wrong, tmp_path)


@pytest.mark.medium
@pytest.mark.usefixtures("gates_as_before")
def test_examples_of_the_architecture_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "ARCHITECTURE.md").read_text(), re.M | re.S
    )
    assert len(blocks) == 4
    space: dict[str, object] = {}
    for block in blocks:
        assert len(block.splitlines()) < 40
        exec(compile(block, "ARCHITECTURE.md", "exec"), space)


def test_there_are_commands_to_check() -> None:
    assert len(CASES) > 20


def test_the_readme_lists_every_command() -> None:
    known = _program()
    table = (ROOT / "README.md").read_text().partition("## Commands")[2].partition("\n## ")[0]
    listed = {
        name.removeprefix("moola ").split()[0]
        for cell in re.findall(r"^\| (`.*?`) \| ", table, re.M)
        for name in re.findall(r"`([^`]+)`", cell)
    }
    assert listed == set(known.commands)
    for name in known.commands["data"].commands:
        assert re.search(rf"`moola data [^`]*\b{name}\b", table), f"data {name} is not listed"


def _public(module: object, *prefixes: str) -> dict[str, str]:
    return {
        name: value
        for name, value in vars(module).items()
        if name.startswith(prefixes) and isinstance(value, str)
    }


def test_the_page_of_names_agrees_with_the_program() -> None:
    """Each name stands in the page; each name in the page's first columns is one of them."""
    from moola.config import names, promotion

    page = (ROOT / "docs" / "mlflow-names.md").read_text()
    known = _public(names, "EXPERIMENT", "REGISTERED", "ALIAS", "STAGE", "TAG", "ARTIFACT", "IMAGE")
    known |= _public(names, "DEFAULT", "MODEL")
    known |= _public(promotion, "TAG", "ARTIFACT")
    spelled = {value.replace("{", "<").replace("}", ">") for value in known.values()}
    said = set(re.findall(r"`([^`\n]+)`", page))
    assert spelled - {"mlartifacts"} <= said
    tables = re.findall(r"^\| (`[^|]+`) \|", page, re.M)
    in_tables = {name for cell in tables for name in re.findall(r"`([^`]+)`", cell)}
    assert in_tables <= spelled


def test_the_policy_in_the_docs_is_the_default() -> None:
    from moola.config.promotion import PromotionPolicy

    page = (ROOT / "docs" / "registry.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    written = yaml.safe_load(block)
    assert PromotionPolicy.from_mapping(written) == PromotionPolicy()
    assert set(written) == {field.name for field in dataclasses.fields(PromotionPolicy)}


GUIDES = [
    page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if page.name not in ("index.md", "architecture.md", "changelog.md")
]


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.name)
def test_a_page_begins_with_what_its_reader_can_do_then(page: Path) -> None:
    first = page.read_text().partition("\n\n")[2]
    assert first.startswith("After this page")


def _messages() -> str:
    """All text constants of the package, f-string parts included, joined as Python joins them."""
    found: list[str] = []
    for path in sorted((ROOT / "src" / "moola").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_every_error_of_the_faq_is_one_the_program_raises() -> None:
    headings = re.findall(r"^### (.+)$", (ROOT / "docs" / "faq.md").read_text(), re.M)
    messages = _messages()
    assert headings
    missing = [heading for heading in headings if heading not in messages]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_of_the_docs_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f" {page.name}\n" in navigation + "\n", f"{page.name} is not in mkdocs.yml"


def test_every_file_that_the_architecture_names_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = "|".join(p.name for p in (ROOT / "src" / "moola").iterdir() if p.is_dir())
    named = set(re.findall(rf"`((?:{packages}|tests)/[\w/]+\.\w+)`", text))
    assert len(named) > 25
    for path in named:
        place = ROOT if path.startswith("tests/") else ROOT / "src" / "moola"
        assert (place / path).is_file(), path


def test_moola_brings_what_the_api_page_lists() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    listed = [word.rpartition(".") for word in re.findall(r"^::: (\S+)$", page, re.MULTILINE)]
    for module, _, name in listed:
        thing = getattr(importlib.import_module(module), name)
        if not inspect.ismodule(thing) and ".steps." not in module and name != "finetune":
            assert getattr(moola, name) is thing
    assert set(moola._LAZY) <= set(dir(moola))
    assert moola.DataStore is importlib.import_module("moola.data.registry").DataRegistry
