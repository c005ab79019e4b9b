"""The command line: fast help, one-line errors, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from moola.cli.app import _run

COMMANDS = (
    "demo",
    "pretrain-bilstm",
    "train",
    "evaluate",
    "promote",
    "rollback",
    "history",
    "data",
)


def run(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moola", *args],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_imports_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys; sys.argv = ['moola', '--help']\n"
        "from moola.cli.app import _run\n"
        "code = _run(['--help'])\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    for command in COMMANDS:
        assert command in done.stdout


def test_help_is_fast() -> None:
    """Best of five: processor time of the child, whatever else the machine does."""
    best = min(_cpu_seconds([sys.executable, "-m", "moola", "--help"]) for _ in range(5))
    assert best < 0.4


def _cpu_seconds(command: list[str]) -> float:
    before = os.times()
    subprocess.run(command, capture_output=True, check=True)
    after = os.times()
    return (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "--epoch", "3"], 2, "--epochs"),
        (["train", "--x", "1"], 2, "The nearest is --"),
        (["train", "--epochs", "abc"], 2, "abc"),
        (["train", "--epochs", "0"], 2, "epochs is 0; expected a whole number of at least 1"),
        (["train", "--learning-rate", "nan"], 2, "learning_rate is nan"),
        (["train", "--learning-rate", "-1"], 2, "learning_rate is -1.0"),
        (["train", "--split", "random"], 2, "split is 'random'"),
        (["train", "--split", "stratified"], 2, "future bars"),
        (["train", "--split", "nowhere"], 2, "'nowhere' does not exist"),
        (["train", "--dataset", "labeled_windows/v9"], 2, "labeled_windows/v9 does not exist"),
        (["train", "--dataset", "../../etc"], 2, "set name"),
        (["train", "--preset", "huge"], 2, "preset is 'huge'"),
        (["train", "--model", "logreg"], 2, "cannot be registered"),
        (["train", "--pretrained-encoder", "absent"], 2, "checkpoint absent does not exist"),
        (["train", "--device", "tpu"], 2, "device is 'tpu'"),
        (["pretrain-bilstm", "--mask-ratio", "1"], 2, "mask_ratio is 1"),
        (["pretrain-bilstm", "--mask-strategy", "blok"], 2, "Did you mean 'block'"),
        (["evaluate", "--seeds", "a,b"], 2, "seeds is 'a,b'"),
        (["evaluate"], 2, "has no version"),
        (["promote", "--version", "7"], 2, "cannot be read"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_bad_input_is_one_line_with_the_right_code(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    assert _run(arguments) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = run("pretrain-bilstm", "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no GPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_unreachable_server_is_one_line_within_seconds(tmp_path: Path, data_root: Path) -> None:
    (tmp_path / "data").symlink_to(data_root)
    started = time.monotonic()
    done = run("evaluate", cwd=tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - started < 60


def test_malformed_bars_are_named(tmp_path: Path) -> None:
    (tmp_path / "data" / "bars").mkdir(parents=True)
    (tmp_path / "data" / "bars" / "btcusd_1h.parquet").write_bytes(b"not parquet")
    done = run("data", "build", cwd=tmp_path)
    assert done.returncode == 2
    assert "btcusd_1h.parquet cannot be read" in done.stderr
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["bars"]


def test_every_project_parameter_is_an_option_of_its_command(repository: Path) -> None:
    project = yaml.safe_load((repository / "MLproject").read_text())
    assert set(project["entry_points"]) >= {"main", "pretrain", "finetune", "evaluate", "promote"}
    for name, entry in project["entry_points"].items():
        words = entry["command"].split()
        command = words[words.index("moola") + 1]
        options = [w for w in words if w.startswith("--")]
        done = subprocess.run(
            [sys.executable, "-m", "moola", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        for option in options:
            assert option in done.stdout, f"{name}: {option}"
        for parameter in entry["parameters"]:
            assert "{" + parameter + "}" in entry["command"]
