"""Bounds that only ever get tighter: words, types, folders, files, functions, errors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AT_MOST = {
    "uses of stand": 19,
    "participles as names": 11,
    "dict[str, Any]": 192,
    "aliases at layer borders": 3,
    "files in the fullest folder": 20,
    "lines of the longest file": 439,
    "lines of the longest function": 89,
    "class names used twice": 0,
}
AT_LEAST = {
    "errors with limit and remedy, per cent": 28,
    "errors with limit or remedy, per cent": 82,
}


def counting() -> Callable[[Path], dict[str, int]]:
    spec = importlib.util.spec_from_file_location("house", ROOT / "scripts" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.counts


@pytest.fixture(scope="module")
def counts() -> dict[str, int]:
    return counting()(ROOT / "src" / "moola")


@pytest.mark.parametrize("name", AT_MOST)
def test_at_most(counts: dict[str, int], name: str) -> None:
    assert counts[name] <= AT_MOST[name], "`python scripts/house.py` prints all counts"


@pytest.mark.parametrize("name", AT_LEAST)
def test_at_least(counts: dict[str, int], name: str) -> None:
    assert counts[name] >= AT_LEAST[name], "`python scripts/house.py` prints all counts"


def test_what_is_counted(tmp_path: Path) -> None:
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "a.py").write_text(
        '"""It stands."""\n'
        "from moola.steps.promote import promote as ask\n"
        "from moola.errors import BadInput\n"
        "def f(given):\n"
        '    """Say."""\n'
        "    found: dict[str, Any] = {}\n"
        "    for left in found:\n"
        "        raise BadInput('x', limit='y', remedy='z')\n"
        "class A: ...\n"
    )
    (tmp_path / "cli" / "b.py").write_text("class A: ...\ndef g(found): ...\n")
    assert counting()(tmp_path) == {
        "files": 2,
        "lines": 11,
        "uses of stand": 1,
        "participles as names": 4,
        "dict[str, Any]": 1,
        "aliases at layer borders": 1,
        "files in the fullest folder": 2,
        "lines of the longest file": 9,
        "lines of the longest function": 4,
        "class names used twice": 1,
        "errors": 1,
        "errors with limit and remedy, per cent": 100,
        "errors with limit or remedy, per cent": 100,
    }
