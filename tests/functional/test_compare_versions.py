"""`moola compare` on real models of several flavors, and on models that mean harm."""

# ruff: noqa: E501  (bodies of models are one line)
from __future__ import annotations

import json
import os
import subprocess
import textwrap
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from moola.cli import main
from moola.config.policy import Rule
from moola.config.requirements import Better
from moola.errors import ConfigError, DataError, MoolaError, PromotionRefused
from moola.promotion.aliases.proof import subject_of
from moola.promotion.aliases.requirements import Attested, findings
from moola.promotion.answers.ask import AnswerLimits, answers_of
from moola.promotion.production import Production
from moola.steps.compare import compare, compare_and_note, named_versions
from moola.steps.guard import begin

pytestmark = pytest.mark.medium
ROWS = 400


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Path:
    """A store with versions of a scikit-learn classifier, a torch net and a model from code."""
    import torch
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path_factory.mktemp("compare")
    (folder / "mlflow.db").write_bytes(template_db.read_bytes())
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    client = MlflowClient()
    client.create_experiment("compare", (folder / "mlartifacts").as_uri())
    mlflow.set_experiment("compare")
    rng = np.random.default_rng(3)
    X = pd.DataFrame(rng.normal(size=(ROWS, 3)), columns=["a", "b", "c"])
    y = np.where(X["a"] + 0.5 * rng.normal(size=ROWS) > 0, "stay", "leave")
    table = X.assign(y=y, customer=np.arange(ROWS) // 4, day=np.arange(ROWS))
    table.to_parquet(folder / "eval.parquet")
    table.assign(y=(y == "stay").astype(int)).to_csv(folder / "eval.csv", index=False)
    few = {"pip_requirements": ["scikit-learn"]}
    for model in (DummyClassifier(), LogisticRegression()):
        mlflow.sklearn.log_model(
            model.fit(X, y), name="m", registered_model_name="churn",
            serialization_format="cloudpickle", **few,
        )  # fmt: skip
    client.set_registered_model_alias("churn", "production", "1")
    net = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Sigmoid())
    mlflow.pytorch.log_model(net, name="t", registered_model_name="net", serialization_format="pickle",
                             pip_requirements=["torch"])  # fmt: skip
    code = folder / "model.py"
    code.write_text(
        CODE.format(body="return 1 / (1 + __import__('numpy').exp(-3 * table['a'].to_numpy()))")
    )
    mlflow.pyfunc.log_model(name="c", python_model=str(code), registered_model_name="net",
                            pip_requirements=["numpy"])  # fmt: skip
    mlflow.set_tracking_uri(before)
    return folder


CODE = textwrap.dedent(
    """
    import mlflow

    class Model(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            table = model_input
            {body}

    mlflow.models.set_model(Model())
    """
)


@pytest.fixture
def there(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{world}/mlflow.db")
    return world


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["compare", *arguments])
    return int(stop.value.code or 0)


def test_a_classifier_that_knows_more_is_better(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = there / "page.html"
    roles = ("--target", "y", "--group", "customer")
    assert run("churn/2", "@production", "--data", "eval.parquet", *roles, "--html", str(page)) == 0
    said = capsys.readouterr().out
    assert "better" in said
    assert "100 clusters" in said
    text = page.read_text()
    assert "Where they differ most" in text
    assert text.count("<img") == 2


def test_a_net_and_a_model_from_code(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roles = ("--target", "y", "--time", "day", "--metric", "brier", "--json")
    assert run("net/2", "net/1", "--data", "eval.csv", *roles) == 1  # customer is a feature here
    capsys.readouterr()
    pd.read_csv("eval.csv").drop(columns="customer").to_csv("plain.csv", index=False)
    assert run("net/2", "net/1", "--data", "plain.csv", *roles) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["verdict"] == "better"
    assert facts["effective_rows"] <= ROWS
    assert facts["version_sha256"] != facts["other_sha256"]


def test_looks_are_counted_and_the_result_is_attested(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin()
    roles = ("--data", "eval.parquet", "--target", "y", "--group", "customer", "--json")
    looks = []
    for metric in ("log_loss", "brier", "log_loss"):
        assert run("churn/2", "@production", *roles, "--metric", metric, "--attest") == 0
        facts = json.loads(capsys.readouterr().out)
        looks.append((facts["looks"], facts["level"]))
    assert [look for look, _ in looks] == [1, 2, 1]  # the same comparison again is the same look
    assert looks[1][1] > looks[0][1]
    production = Production.of_project(MlflowClient(), "churn")
    subject = subject_of(production, "2", "production")
    texts = production.ledger.attestations("churn", "2")
    attested = Attested.read(texts, subject, production.keys, production.ledger.clock())
    asked = Rule(name="r", require=(Better(metric="log_loss"),), aliases=("production",))
    [answer] = findings([asked], subject, attested, production.ledger.clock())
    assert answer.met, answer.why
    assert run("churn/2", "net/1", *roles, "--attest") == 2


def test_what_changes_meanwhile_is_not_compared(there: Path, tmp_path: Path) -> None:
    data = tmp_path / "eval.parquet"
    table = pd.read_parquet(there / "eval.parquet")
    table.to_parquet(data)
    about = {"target": "y", "group": "customer"}
    with pytest.raises(DataError, match="was changed while it was read"):
        compare("churn/2", "churn/1", data=data, **about,
                tell=lambda line: table.head(50).to_parquet(data))  # fmt: skip
    begin()
    data = there / "eval.parquet"
    source = str(MlflowClient().get_model_version_download_uri("churn", "2"))
    path = Path(source.removeprefix("file://")) / "MLmodel"
    text = path.read_text()

    def change(line: str) -> None:
        if "difference" in line:
            path.write_text(f"{text}# evil\n")

    try:
        with pytest.raises(PromotionRefused, match="changed while they were compared"):
            compare_and_note("churn/2", "churn/1", data=data, attests=True, **about, tell=change)
    finally:
        path.write_text(text)


def test_labels_alone_allow_accuracy(there: Path, tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{there}/mlflow.db")
    data = tmp_path / "eval.parquet"  # the model takes no further column
    pd.read_parquet(there / "eval.parquet").drop(columns="day").to_parquet(data)
    result = compare("churn/2", "churn@production", data=data, target="y", group="customer",
                     metric="accuracy", client=client)  # fmt: skip
    assert result.comparison.verdict == "better"
    assert result.comparison.other_alias == "production"


@pytest.mark.parametrize(
    ("candidate", "other", "words"),
    [
        ("churn/9", "@production", "does not exist"),
        ("churn/2", "@nobody", "does not exist|cannot get"),
        ("nothing/1", "churn/1", "does not exist"),
        ("churn/1", "@production", "one version"),
        ("churn", "@production", "names no version"),
        ("@production", "@challenger", "name no model"),
    ],
)
def test_versions_that_are_not_there(world: Path, candidate: str, other: str, words: str) -> None:
    client = MlflowClient(f"sqlite:///{world}/mlflow.db")
    with pytest.raises(MoolaError, match=words):
        named_versions(client, candidate, other)


HOSTILE = {
    "raises": ("raise ValueError('secret\\x1b[31m')", "ValueError: secret"),
    "hangs": ("import time; time.sleep(600)", "did not finish within"),
    "exits": ("raise SystemExit(0)", "SystemExit"),
    "dies": ("import os; os._exit(0)", r"no array \(EOF: .* got 0\)"),
    "None": ("return None", "answers None"),
    "short": ("return [0.5]", r"shape \(1,\)"),
    "mapping": ("return {'a': [1]}", "mapping"),
    "objects": ("return [object()] * len(table)", "type object"),
    "1 GB": ("import numpy; return numpy.ones((len(table), 400_000))", "400000 columns"),
    "memory": ("import numpy; return numpy.ones(2 << 30)", "needs more memory .* Unable to allocate 16"),
    "forks": (
        "import os, time\n        for _ in range(200):\n            if os.fork() == 0:\n"
        "                os.setsid(); time.sleep(600)\n        time.sleep(600)",
        "it started 4[0-9] processes",
    ),
    "writes": ("open('FOLDER/left', 'w').write('x'); return [0.5] * len(table)", "Read-only file system: .FOLDER/left"),
    "network": (
        "import socket; socket.create_connection(('127.0.0.1', PORT), timeout=2)", "Network is unreachable"),
    "keys": ("import os; raise ValueError(sorted(os.environ))", r"\[.ARROW_DEFAULT_MEMORY_POOL., "),
    "parent": (
        "import glob\n        there = glob.glob('/proc/[0-9]*/environ')\n        "
        "raise ValueError(len(there), [p for p in there if b'hunter2' in open(p, 'rb').read()])",
        r"ValueError: \([1-9], \[\]\)"),
    "garbage": (
        "import os\n        for n in range(3, 200):\n            try: os.write(n, b'not json\\x00' * 99)\n"
        "            except OSError: pass\n        return [0.5] * len(table)", "says what is no JSON"),
}  # fmt: skip


QUICK = ("raises", "keys", "memory", "network", "writes")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in HOSTILE],
)
def test_a_model_that_means_harm(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setenv("MOOLA_SIGNING_KEY", "hunter2")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    listening = socket.create_server(("127.0.0.1", 0))
    body, words = HOSTILE[name]
    body = body.replace("FOLDER", str(tmp_path)).replace("PORT", str(listening.getsockname()[1]))
    code = tmp_path / "model.py"
    code.write_text(CODE.format(body=body))
    mlflow.pyfunc.save_model(
        str(tmp_path / "m"), python_model=str(code), pip_requirements=["numpy"]
    )
    pd.DataFrame({"a": np.arange(50.0)}).to_parquet(tmp_path / "x.parquet")
    limits = AnswerLimits(seconds=8 if name == "hangs" else 60, memory_mib=2048, processes=40)
    before = set(os.listdir(tmp_path))
    with pytest.raises(PromotionRefused, match=words.replace("FOLDER", str(tmp_path))) as refusal:
        answers_of(tmp_path / "m", tmp_path / "x.parquet", num_rows=50, proba=False, what="m/1",
                   limits=limits)  # fmt: skip
    listening.close()
    assert "\x1b" not in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
    assert "SIGNING" not in str(refusal.value)
    assert "PASSWORD" not in str(refusal.value)
    assert set(os.listdir(tmp_path)) == before
    assert not left_over(tmp_path)


def left_over(folder: Path) -> list[str]:
    """Processes of the cell of a model in a folder that still run."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True
    )
    return [
        line
        for line in listed.stdout.splitlines()
        if "answers.sandbox" in line and str(folder) in line
    ]


def test_a_model_that_prints_is_not_heard(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = tmp_path / "model.py"
    code.write_text(CODE.format(body="print('loud'); return [0.5] * len(table)"))
    mlflow.pyfunc.save_model(
        str(tmp_path / "m"), python_model=str(code), pip_requirements=["numpy"]
    )
    capfd.readouterr()
    pd.DataFrame({"a": np.arange(50.0)}).to_parquet(tmp_path / "x.parquet")
    started = time.monotonic()
    answers = answers_of(tmp_path / "m", tmp_path / "x.parquet", num_rows=50, proba=True, what="m")
    assert time.monotonic() - started < 60
    assert answers.values.tolist() == [0.5] * 50
    assert "loud" not in "".join(capfd.readouterr())


def test_an_array_is_checked_before_it_is_read(tmp_path: Path) -> None:
    from moola.promotion.answers import ask

    header = (
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,), }".ljust(117)
        + b"\n"
    )
    objects = header.replace(b"'<f8'", b"'|O' ")
    for content in (b"", b"x", header, objects, header[:20]):
        path = tmp_path / "answers.npy"
        path.write_bytes(content)
        with path.open("rb") as file, pytest.raises(PromotionRefused, match="no array"):
            ask._checked(file, 50, "m/1")


def test_two_roles_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--group and --time"):
        compare("a/1", "a/2", data=tmp_path, target="y", group="g", time="t")
