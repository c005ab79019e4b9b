"""The environment files and pyproject say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml


def dependencies(repository: Path) -> list[str]:
    return list(
        tomllib.loads((repository / "pyproject.toml").read_text())["project"]["dependencies"]
    )


def test_python_env_equals_pyproject(repository: Path) -> None:
    env = yaml.safe_load((repository / "python_env.yaml").read_text())
    assert env["dependencies"] == ["-c constraints.txt", *dependencies(repository)]


def test_conda_equals_pyproject(repository: Path) -> None:
    conda = yaml.safe_load((repository / "conda.yaml").read_text())
    assert conda["dependencies"][-1] == {"pip": ["-c constraints.txt", *dependencies(repository)]}


def test_constraints_pin_every_dependency(repository: Path) -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    lines = (repository / "constraints.txt").read_text().splitlines()
    pinned = {plain(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    for dependency in dependencies(repository):
        name = re.split(r"[\[<>=;! ]", dependency)[0]
        assert plain(name) in pinned, name
    assert pinned["torch"] == "2.13.0"
    assert not any("+" in version for version in pinned.values())


def test_mlproject_uses_python_env(repository: Path) -> None:
    project = yaml.safe_load((repository / "MLproject").read_text())
    assert project["python_env"] == "python_env.yaml"
    assert "conda_env" not in project


def test_sources_state_the_digests_of_the_bars(repository: Path) -> None:
    from moola.hashing import sha256_file

    text = (repository / "data" / "SOURCES.md").read_text()
    bars = sorted((repository / "data" / "bars").glob("*.parquet"))
    assert len(bars) == 2
    for path in bars:
        assert sha256_file(path) in text
