"""The environment files and pyproject say the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from moola.data.shipped import copy_shipped_bars
from moola.errors import DataError


def dependencies(repository: Path) -> list[str]:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["train"]]


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


def test_the_conda_project_has_the_same_entry_points(repository: Path) -> None:
    from mlflow.projects._project_spec import load_project

    own, conda = load_project(str(repository)), load_project(str(repository / "conda"))
    assert Path(conda.env_config_path).resolve() == repository / "conda.yaml"
    assert set(conda._entry_points) == set(own._entry_points)
    for name, entry in own._entry_points.items():
        other = conda.get_entry_point(name)
        assert other.command == f"cd .. && {entry.command}", name
        assert {k: vars(v) for k, v in other.parameters.items()} == {
            k: vars(v) for k, v in entry.parameters.items()
        }


def test_sources_state_the_digests_of_the_bars(repository: Path) -> None:
    from moola.hashing import sha256_file

    text = (repository / "data" / "SOURCES.md").read_text()
    bars = sorted((repository / "data" / "bars").glob("*.parquet"))
    assert len(bars) == 2
    for path in bars:
        assert sha256_file(path) in text


def test_wheel_brings_its_bars_and_works_in_an_empty_folder(
    repository: Path, tmp_path: Path
) -> None:
    """The wheel, unpacked away from the checkout, fills a data folder and reads it back."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, repository],
        check=True,
    )
    (wheel,) = tmp_path.glob("moola_ml-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def moola(*arguments: str) -> str:
        command = [sys.executable, "-m", "moola", *arguments]
        return subprocess.run(
            command, cwd=empty, env=env, check=True, capture_output=True, text=True
        ).stdout

    assert moola("data", "init").count("copied") == 2
    assert moola("data", "init").count("exists already") == 2
    facts = json.loads(moola("data", "show", "bars/btcusd_1h", "--json"))
    assert facts["bars"] == 20_111, facts
    where = subprocess.run(
        [sys.executable, "-c", "import moola; print(moola.__file__)"],
        env=env, cwd=empty, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(tmp_path) in where.stdout


def test_init_leaves_a_file_of_other_content_alone(tmp_path: Path) -> None:
    other = tmp_path / "bars" / "eurusd_1h.parquet"
    other.parent.mkdir()
    other.write_bytes(b"mine")
    with pytest.raises(DataError, match="not the file that ships"):
        copy_shipped_bars(tmp_path)
    assert [p.name for p in other.parent.iterdir()] == ["eurusd_1h.parquet"]
    assert other.read_bytes() == b"mine"


@pytest.mark.slow
def test_the_base_wheel_works_in_an_empty_environment(repository: Path, tmp_path: Path) -> None:
    """Guard and keys without the extra `train`; a command that trains names it."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, repository]
    subprocess.run(pip, check=True)
    (wheel,) = tmp_path.glob("moola_ml-*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    constraints = repository / "constraints.txt"
    install = ["-m", "pip", "install", "-q", "-c", constraints, wheel]
    subprocess.run([tmp_path / "venv" / "bin" / "python", *install], check=True)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def moola(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tmp_path / "venv" / "bin" / "moola", *arguments],
            cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip

    for words in (["--help"], ["keys", "--make"], ["history"]):
        done = moola(*words)
        assert done.returncode == 0, done.stderr
    done = moola("train")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("Run pip install 'moola-ml[train]'.")
