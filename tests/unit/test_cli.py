"""The command line: fast help, one-line errors, exit codes."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml

from moola.cli.app import _run, _usage_message, app
from moola.cli.console import print_gates, print_report, print_table, progress_bars
from moola.cli.demo import _wait_for
from moola.cli.options import _value_of
from moola.config import names
from moola.config.base import options_in
from moola.config.pretraining import MultitaskConfig, PretrainConfig, TS2VecConfig
from moola.config.training import FinetuneConfig
from moola.errors import DataError, TrackingError

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


HEAVY = {
    "arch", "cryptography", "jinja2", "joblib", "matplotlib", "mlflow", "numba", "numpy", "pandas",
    "pyarrow", "requests", "safetensors", "scipy", "sklearn", "sktime", "sqlalchemy", "torch",
}  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    """So that it answers at once, and so does the completion of names."""
    code = (
        "import sys; sys.argv = ['moola', '--help']\n"
        "from moola.cli.app import _run\n"
        "code = _run(['--help'])\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.medium
@pytest.mark.parametrize(
    "words",
    [
        ["-c", "import moola.promotion.guard.registry, moola.promotion.guard.server"],
        ["-c", "import moola.promotion.guard.tracking, moola.promotion.guard.artifacts"],
        ["-c", "import moola.promotion.evidence.checks, moola.promotion.evidence.attestation"],
        ["-c", "import moola.promotion.ledger.local, moola.promotion.page"],
        ["-c", "import moola.evaluation.rows, moola.config.promotion"],
        ["-m", "moola", "--help"],
        ["-m", "moola", "history"],
        ["-m", "moola", "verify", "--help"],
        ["-m", "moola", "keys", "--make"],
    ],
    ids=" ".join,
)
def test_guard_and_pages_need_nothing_of_the_extra_train(tmp_path: Path, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "moola: a bug" not in done.stderr
    assert "Traceback" not in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "moola" in imported
    assert not imported & {"torch", "sktime", "numba", "arch", "matplotlib", "sklearn"}


def test_a_missing_package_names_its_extra(tmp_path: Path) -> None:
    """On the command line and in the library: the same line."""
    line = (
        "this needs the package torch, which is not installed; expected the extra 'train'. "
        "Run pip install 'moola-ml[train]'."
    )
    for ask in (
        "from moola.cli.app import _run; sys.exit(_run(['train']))",
        "moola.get_model('simple_lstm')",
    ):
        code = f"import sys, moola; sys.modules['torch'] = None; {ask}"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert line in done.stderr.splitlines()[-1]
        assert done.returncode == (2 if "_run" in ask else 1)


@pytest.mark.medium
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
        (["train", "--labeled", "labeled_windows/v9"], 2, "labeled_windows/v9 does not exist"),
        (["train", "--dataset", "labeled_windows/v9"], 2, "labeled_windows/v9 does not exist"),
        (["train", "--labeled", "../../etc"], 2, "set name"),
        (["train", "--preset", "huge"], 2, "preset is 'huge'"),
        (["train", "--model", "tcn"], 2, "'tcn' cannot be registered; expected one of enhanced"),
        (["train", "--model", "logreg", "--epochs", "9"], 2, "model logreg takes no epochs"),
        (["train", "--model", "logreg", "--epochs", "60"], 2, "model logreg takes no epochs"),
        (["train", "--model", "rf", "--log-pretrained-stats"], 2, "no log_pretrained_stats"),
        (["train", "--model", "rf", "--freeze", "none"], 2, "model rf takes no freeze"),
        (["train", "--model", "rf", "--no-freeze-encoder"], 2, "model rf takes no freeze"),
        (["train", "--model", "quant", "--resume"], 2, "quant is fitted at once"),
        (["train", "--model", "hgb", "--device", "cuda"], 2, "it has no GPU code"),
        (["train", "--model", "stack", "--pretrained-encoder", "x"], 2, "no pretrained encoder"),
        (["train", "--pretrained-encoder", "absent"], 2, "checkpoint absent does not exist"),
        (["train", "--device", "tpu"], 2, "device is 'tpu'"),
        (["pretrain-bilstm", "--mask-ratio", "1"], 2, "mask_ratio is 1"),
        (["pretrain-bilstm", "--mask-strategy", "blok"], 2, "Did you mean 'block'"),
        (["evaluate", "--seeds", "a,b"], 2, "seeds is 'a,b'"),
        (["evaluate"], 2, "has no version"),
        (["promote", "--version", "7"], 2, "cannot be read"),
        (["nonsense"], 2, "nonsense"),
        (["verify", "--x"], 2, "The nearest is --"),
        (["runs", "--step", "train"], 2, "step is 'train'; expected one of pretrain"),
        (["runs", "--num", "0"], 2, "num is 0"),
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


def failing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `moola runs` raise an error."""

    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr("moola.steps.runs.list_runs", fail)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PermissionError(13, "Permission denied", "/x/a.png"), 2, "/x/a.png cannot be used: Perm"),
        (OSError("the disk is full"), 2, "the disk is full$"),
        (ModuleNotFoundError("No module", name="uvicorn"), 2, "uvicorn, .*the extra 'serve'"),
        (ModuleNotFoundError("No module named 'moolah'", name="moolah"), 70, "bug .*moolah"),
        (ZeroDivisionError("division by zero"), 70, "bug .*ZeroDivisionError: division by zero"),
    ],
)
def test_what_nobody_foresaw_ends_with_a_line_and_a_code_of_its_own(
    error: Exception,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(error, monkeypatch)
    assert _run(["runs"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert re.search(words, lines[-1])
    assert (len(lines) == 1) == (code == 2)  # a bug shows where


@pytest.mark.parametrize("words", [["--traceback", "runs"], ["runs", "--traceback"]])
def test_the_traceback_may_be_asked_for_anywhere(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(DataError("no bars"), monkeypatch)
    assert _run(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "moola: no bars."


def test_a_picture_that_cannot_be_written_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "file").touch()
    words = ["data", "show", "splits/fwd_chain_v3", "--picture", "file/a.png"]
    assert _run(words) == 2
    assert re.fullmatch("moola: file.* cannot be used: .*\n", capsys.readouterr().err)


def test_a_model_server_that_dies_at_once_is_told_with_its_last_words() -> None:
    code = "import sys; print('port is taken'); sys.exit(3)"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=log)
        with pytest.raises(TrackingError, match=r"serve ended with 3; .* said: port is taken"):
            _wait_for(process, 9, log)


def test_an_unknown_option_of_a_command_without_options_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bare = typer.Typer()
    bare.command()(lambda: None)
    node = typer.main.get_command(bare)
    with pytest.raises(Exception, match="No such option") as caught:
        node.make_context("bare", ["--x"])
    assert "The nearest is --" in _usage_message(caught.value, "No such option: --x", ["--x"])


@pytest.mark.parametrize("arguments", [[], ["data"]], ids=["moola", "moola data"])
def test_without_a_command_the_help_is_shown_and_nothing_else(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(arguments) == 2
    shown = capsys.readouterr()
    assert "Usage: moola" in shown.out
    assert shown.err == ""


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(node, "commands"):
        yield path, node
        return
    for name, child in node.commands.items():
        yield from _leaves(child, f"{path} {name}")


LEAVES = list(_leaves(typer.main.get_command(app), "moola"))


@pytest.mark.parametrize(("path", "node"), LEAVES, ids=[path for path, _ in LEAVES])
def test_every_command_teaches(path: str, node: Any) -> None:
    """An example, words for each option and argument, and panels where there are many."""
    examples = re.findall(r"Example: (`[^`]+`)(.?)", " ".join(node.help.split()))
    assert examples
    assert all(text.startswith(f"`{path}") and end != "," for text, end in examples)
    assert [p.name for p in node.params if not p.help] == []
    panels = {getattr(p, "rich_help_panel", None) for p in node.params}
    assert len(node.params) <= 12 or len(panels) > 1


@pytest.mark.parametrize(
    "path", sorted({path for path, _ in LEAVES} - {"moola demo", "moola bench", "moola serve",
                                                   "moola server"})
)  # fmt: skip
def test_results_are_there_for_scripts(path: str) -> None:
    node = dict(LEAVES)[path]
    assert "--json" in {o for p in node.params for o in p.opts}


def test_one_name_for_one_thing() -> None:
    """An option's first spelling is that of the configuration's field, in every command."""
    spelled: dict[str, set[str]] = {}
    for _, node in LEAVES:
        for parameter in node.params:
            if parameter.param_type_name == "option":
                for other in parameter.opts:
                    spelled.setdefault(other, set()).add(parameter.opts[0])
    assert spelled["--dataset"] == spelled["--labeled"] == {"--labeled"}
    assert spelled["--unlabeled"] == {"--unlabeled"}
    assert spelled["--num-folds"] == {"--num-folds"}


@pytest.mark.medium
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("moola data show splits/fwd_chain_v2", {"splits/fwd_chain_v2_eurusd"}),
        ("moola train --labeled labeled_windows/v3", {"labeled_windows/v3"}),
        ("moola train --freeze two", {"two_phase"}),
    ],
)
def test_a_shell_completes_names(words: str, completed: set[str], project: Path) -> None:
    line = {"_MOOLA_COMPLETE": "complete_bash", "COMP_WORDS": words}
    done = run(cwd=project, **line, COMP_CWORD=str(len(words.split()) - 1))
    assert set(done.stdout.split()) == completed


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets and colons in names and reasons are text: neither markup nor emoji."""
    odd = "[/red] [bold]x :smile:"
    print_report(odd, {"A": {"name": odd}})
    print_table([{"name": odd}])
    print_gates([SimpleNamespace(gate=1, name="a", verdict="passed", reasons=(odd, "more"))])
    with progress_bars() as report:
        report(odd, 1, 1, odd)
    shown = capsys.readouterr().out
    assert shown.count(odd) == 6
    assert "more" in shown
    assert "\x1b" not in shown


@pytest.mark.medium
@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = run("pretrain-bilstm", "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no GPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.medium
def test_unreachable_server_is_one_line_within_seconds(tmp_path: Path, data_root: Path) -> None:
    (tmp_path / "data").symlink_to(data_root)
    started = time.monotonic()
    done = run("evaluate", cwd=tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - started < 60


@pytest.mark.medium
def test_malformed_bars_are_named(tmp_path: Path) -> None:
    (tmp_path / "data" / "bars").mkdir(parents=True)
    (tmp_path / "data" / "bars" / "btcusd_1h.parquet").write_bytes(b"not parquet")
    done = run("data", "build", cwd=tmp_path)
    assert done.returncode == 2
    assert "btcusd_1h.parquet cannot be read" in done.stderr
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["bars"]


@pytest.mark.medium
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


# Each command waits in the place of its work, and says so.
_WAITING_COMMAND = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit it ignored
from moola.cli.app import app, main
def wait() -> None:
    print("waits", flush=True)
    time.sleep(60)
for group in (app, *(one.typer_instance for one in app.registered_groups)):
    for command in group.registered_commands:
        command.name = command.name or command.callback.__name__.replace("_", "-")
        command.callback = wait
main(sys.argv[1:])
"""


def every_command() -> list[str]:
    root = typer.main.get_command(app)
    named = dict(root.commands)
    groups = {name: named.pop(name).commands for name in ("data", "guard")}
    below = [f"{group} {name}" for group, names in groups.items() for name in names]
    return [*named, *below]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("command", "signum", "code"),
    [(command, signal.SIGINT, 130) for command in every_command()]
    + [(command, signal.SIGTERM, 143) for command in ("train", "promote", "data build")],
)
def test_a_signal_ends_a_command_with_its_code_and_one_line(
    command: str, signum: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WAITING_COMMAND, *command.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        # Python loses an interrupt that arrives while an object is finalised: press it again.
        for _ in range(6):
            process.send_signal(signum)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
                break
        said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert said == f"moola: stopped by {'Ctrl-C' if code == 130 else 'SIGTERM'}\n"


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), typer.Abort(), typer.Exit(130)])
def test_ctrl_c_is_code_130_however_typer_tells_it(
    raised: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Releases of typer raise one of these, or return the code (as the one installed does)."""

    def ended(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(sys.modules["moola.cli.app"], "app", ended)
    assert _run([]) == 130
    assert capsys.readouterr().err == "moola: stopped by Ctrl-C\n"


def test_the_code_of_an_exit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    exits = typer.Typer()
    exits.command()(lambda: (_ for _ in ()).throw(typer.Exit(7)))
    monkeypatch.setattr(sys.modules["moola.cli.app"], "app", exits)
    assert _run([]) == 7


def test_a_flag_is_shown_as_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["train"], ["data", "ingest"]):
        assert _run([*command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "--help" in shown
        assert "bool" not in shown.lower()


CONFIGURED = {
    "train": FinetuneConfig,
    "pretrain-bilstm": PretrainConfig,
    "pretrain-ts2vec": TS2VecConfig,
    "pretrain-multitask": MultitaskConfig,
}


@pytest.mark.parametrize("command", CONFIGURED)
def test_every_field_of_a_configuration_is_an_option_with_its_default(command: str) -> None:
    kind = CONFIGURED[command]
    node = typer.main.get_command(app).commands[command]
    options = {parameter.name: parameter for parameter in node.params}
    fields = {field.name for field in dataclasses.fields(kind)}
    assert fields == set(options_in(kind))
    assert fields <= set(options)
    given = {name: _value_of(kind, name, options[name].default) for name in fields}
    assert kind(**given) == kind()


def test_the_project_has_the_defaults_of_the_configurations(repository: Path) -> None:
    project = yaml.safe_load((repository / "MLproject").read_text())
    commands = typer.main.get_command(app).commands
    checked = 0
    for entry in project["entry_points"].values():
        command = entry["command"].split("moola ", 1)[1].split()[0]
        if command not in CONFIGURED:
            continue
        options = {p.name: p.default for p in commands[command].params}
        for name, about in entry["parameters"].items():
            default = options[name]
            if (command, name) == ("train", "pretrained_encoder"):
                default = names.DEFAULT_ENCODER  # the second entry point goes on from the first
            assert about["default"] == (
                f"{default:g}" if isinstance(default, float) else str(default)
            )
            checked += 1
    assert checked > 20
