"""README and docs say what the program knows: commands parse, errors exist, links lead."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCED = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
_INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)+", re.M)


def _commands(page: Path) -> list[str]:
    """Lines of code blocks that call `moola`, continued lines joined, comments cut."""
    text = page.read_text()
    blocks = [*_FENCED.findall(text), *_INDENTED.findall(_FENCED.sub("", text))]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(r"\s*moola [a-z]", line)]


CASES = [
    pytest.param(command, id=f"{page.name}: {command[:60]}")
    for page in PAGES
    for command in _commands(page)
]


@pytest.mark.parametrize("command", CASES)
def test_commands_of_the_docs_parse(command: str, tmp_path: Path) -> None:
    """Each command exists, takes those options, and accepts those values' types."""
    from moola.cli.app import app

    arguments = [
        re.sub(r"[<>]", "", word).replace("...", "x")
        for word in shlex.split(command, comments=True)
    ][1:]
    node: Any = typer.main.get_command(app)
    while hasattr(node, "commands") and arguments:
        name = arguments.pop(0)
        assert name in node.commands, f"{command}: no command {name}"
        node = node.commands[name]
    if "|" not in arguments:
        node.make_context(node.name, list(arguments))


def test_examples_of_the_architecture_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "ARCHITECTURE.md").read_text(), re.M | re.S
    )
    assert len(blocks) == 3
    space: dict[str, object] = {}
    for block in blocks:
        assert len(block.splitlines()) < 40
        exec(compile(block, "ARCHITECTURE.md", "exec"), space)


def test_there_are_commands_to_check() -> None:
    assert len(CASES) > 20


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
