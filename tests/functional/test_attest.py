"""`moola guard`, `attest`, `approve`, `promote --alias` on a store without a server."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import mlflow
import pytest
from any_model_kit import log
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from mlflow import MlflowClient
from serve_kit import in_folder

from moola.cli import main
from moola.config.policy import Policy
from moola.errors import BadInput, ConfigError, MoolaError, PromotionRefused
from moola.promotion.aliases.move import move_alias
from moola.promotion.evidence.keys import key_id, trust
from moola.promotion.evidence.predicates import Order
from moola.promotion.production import Production
from moola.promotion.verify import verify
from moola.steps.attest import attest_metrics, attest_tests, read_metrics
from moola.steps.guard import approve, begin, check, export, promote, rollback
from moola.steps.registry import list_keys

pytestmark = pytest.mark.medium

POLICY = """
version: 2
rules:
  - name: churn
    models: [churn]
    require:
      - tests
      - metric: {name: recall, at_least: 0.7}
break_glass: {by: [SIGNER], hours: 2}
"""
PASSES = (sys.executable, "-c", "pass")


@pytest.fixture
def project(tmp_path: Path, template_db: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store with two versions of `churn`, version 1 with alias champion, and a policy."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(template_db.read_bytes())
    uri = f"sqlite:///{folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    with in_folder(folder):
        work = MlflowClient(uri).create_experiment("work", str(folder / "files"))
        for seed in (1, 2):
            with mlflow.start_run(experiment_id=work):
                address = log("code", folder, seed=seed)
            mlflow.register_model(address, "churn")
        MlflowClient(uri).set_registered_model_alias("churn", "champion", "1")
        begun = begin()
        (folder / ".moola" / "policy.yaml").write_text(POLICY.replace("SIGNER", begun.signer))
        yield folder
    mlflow.set_tracking_uri(before)


def holder(alias: str = "champion") -> str | None:
    version = MlflowClient().get_registered_model("churn").aliases.get(alias)
    return None if version is None else str(version)


def prove(version: str, folder: Path) -> None:
    (folder / "eval.json").write_text('{"recall": 0.8}')
    attest_tests(f"churn/{version}", PASSES)
    attest_metrics(f"churn/{version}", folder / "eval.json")


def test_init_says_what_it_found_and_refuses_nothing(project: Path) -> None:
    (project / ".moola" / "policy.yaml").unlink()
    found = begin()
    assert (found.models, found.aliases) == (1, {"champion": 1})
    written = Policy.from_yaml(found.policy)
    assert [rule.mode for rule in written.rules] == ["report"]
    text = found.policy.read_text()
    found.policy.write_text(f"{text}\n")
    assert not begin().made_policy
    assert found.policy.read_text() == f"{text}\n"


def test_a_key_that_was_there_is_called_by_its_own_name(project: Path) -> None:
    trusted = project / ".moola" / "trusted"
    [public] = trusted.glob("*.pem")
    public.rename(trusted / "runner.pem")
    (project / ".moola" / "policy.yaml").unlink()
    begun = begin()
    assert begun.signer == "runner"
    assert [rule.signed_by for rule in Policy.from_yaml(begun.policy).rules] == [("runner",)]
    (trusted / "runner.pem").unlink()
    with pytest.raises(ConfigError, match="is not trusted"):
        begin()


def test_every_key_that_counts_is_listed_by_name(project: Path) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    trust(project / ".moola" / "trusted", public, name="ann")
    listed = list_keys()
    assert listed.names[key_id(public)] == "ann"
    assert key_id(public) in listed.trusted
    assert len(listed.trusted) == 2


def test_rules_in_report_mode_refuse_nothing_and_are_written_down(project: Path) -> None:
    policy = project / ".moola" / "policy.yaml"
    policy.write_text(policy.read_text().replace("version: 2", "version: 2\nmode: report"))
    assert promote("churn/2", alias="champion", dry_run=True).allowed
    decision = promote("churn/2", alias="champion")
    assert holder() == "2"
    assert "report mode: would be refused: rule churn: no test run" in decision.notes[0]
    [line] = Production.of_project(MlflowClient(), "churn").ledger.entries("churn")
    assert (line.event, line.payload["alias"]) == ("observed", "champion")


def test_what_another_rule_reports_is_written_beside_the_move(project: Path) -> None:
    policy = project / ".moola" / "policy.yaml"
    more = "  - {name: later, mode: report, require: [{approve: {by: [ann]}}]}\n"
    policy.write_text(policy.read_text().replace("break_glass", f"{more}break_glass"))
    prove("2", project)
    promote("churn/2", alias="champion")
    lines = Production.of_project(MlflowClient(), "churn").ledger.entries("churn")
    assert [line.event for line in lines] == ["promotion", "observed"]
    assert lines[0].payload["rules"] == ["churn"]
    assert lines[1].reason.startswith("would be refused: rule later: approved by nobody")


def test_files_that_change_while_they_are_checked_are_not_promoted(project: Path) -> None:
    prove("2", project)
    production = Production.of_project(MlflowClient(), "churn")
    path = model_file("2")
    before, clock = path.read_text(), production.ledger.clock

    def changing() -> datetime:
        path.write_text(f"{before}# evil\n")
        return clock()

    production.ledger.clock = changing
    with pytest.raises(PromotionRefused, match="were changed while it was checked"):
        move_alias(production, "2", "champion")
    assert holder() == "1"


def test_a_test_that_changes_the_version_attests_nothing(project: Path) -> None:
    evil = f"open({str(model_file('1'))!r}, 'a').write('# evil')"
    with pytest.raises(PromotionRefused, match="changed while they were tested"):
        attest_tests("churn/1", (sys.executable, "-c", evil))


def test_a_junit_file_from_before_is_not_this_runs(project: Path) -> None:
    (project / "j.xml").write_text("<testsuite><testcase name='a'/></testsuite>")
    with pytest.raises(ConfigError, match=r"wrote no j\.xml"):
        attest_tests("churn/1", PASSES, junit=Path("j.xml"))


def model_file(version: str) -> Path:
    source = str(MlflowClient().get_model_version_download_uri("churn", version))
    return Path(source.removeprefix("file://")) / "MLmodel"


def test_what_is_proven_moves_and_nothing_else(project: Path) -> None:
    with pytest.raises(PromotionRefused, match=r"no test run is attested.*recall is not attested"):
        promote("churn/2", alias="champion")
    assert holder() == "1"
    prove("2", project)
    assert all(one.met for one in check("churn/2", alias="champion")[0].requirements)
    assert promote("churn/2", alias="champion", dry_run=True).ledger_seq is None
    assert holder() == "1"
    assert promote("churn/2", alias="champion").ledger_seq
    assert promote("churn@champion", alias="production").champion_before is None
    assert (holder(), holder("production")) == ("2", "2")
    assert MlflowClient().get_model_version("churn", "2").current_stage == "Production"
    production = Production.of_project(MlflowClient(), "churn")
    assert verify(production).findings == ()
    assert production.history().holders == {"champion": "2"}
    with pytest.raises(PromotionRefused, match="no rule is about alias staging"):
        promote("churn/1", alias="staging")


def test_verify_finds_a_move_past_moola_changed_files_and_lost_keys(project: Path) -> None:
    prove("1", project)
    MlflowClient().delete_registered_model_alias("churn", "champion")
    promote("churn/1", alias="champion")
    production = Production.of_project(MlflowClient(), "churn")
    MlflowClient().set_registered_model_alias("churn", "champion", "2")
    assert verify(production).findings == ("the ledger has version 1 as champion, it names 2",)
    MlflowClient().set_registered_model_alias("churn", "champion", "1")
    path = model_file("1")
    path.write_text(path.read_text() + "# evil\n")
    assert "its files were changed after it became champion" in verify(production).findings[0]
    with pytest.raises(PromotionRefused, match="no test run is attested"):
        promote("churn/1", alias="production")


def test_rollback_goes_to_what_held_the_alias(project: Path) -> None:
    prove("1", project)
    MlflowClient().delete_registered_model_alias("churn", "champion")
    promote("churn/1", alias="champion")
    prove("2", project)
    promote("churn/2", alias="champion")
    failing = (sys.executable, "-c", "raise SystemExit(3)")
    assert not attest_tests("churn/1", failing).passed
    decision = rollback("churn", alias="champion", to=None, reason="drift")
    assert (decision.version, holder()) == ("1", "1")
    with pytest.raises(PromotionRefused, match="no earlier version held production"):
        rollback("churn", alias="production", to=None, reason="drift")


def test_broken_glass_is_to_be_proven_in_time(project: Path) -> None:
    with pytest.raises(BadInput, match="no reason"):
        promote("churn/2", alias="champion", break_glass=True)
    promote("churn/2", alias="champion", break_glass=True, reason="outage")
    production = Production.of_project(MlflowClient(), "churn")
    now = verify(production)
    assert now.findings == ()
    assert "by breaking the glass" in now.notes[0]
    clock = production.ledger.clock
    production.ledger.clock = lambda: clock() + timedelta(hours=3)
    assert "by breaking the glass" in verify(production).findings[0]
    prove("2", project)
    assert verify(production).findings == ()


def test_nobody_else_breaks_the_glass(project: Path) -> None:
    policy = project / ".moola" / "policy.yaml"
    policy.write_text(policy.read_text().partition("break_glass")[0])
    with pytest.raises(PromotionRefused, match="the order does not count"):
        promote("churn/2", alias="champion", break_glass=True, reason="outage")
    order = Order(action="rollback", alias="champion", champion="", reason="never held it")
    production = Production.of_project(MlflowClient(), "churn")
    with pytest.raises(PromotionRefused, match="the order does not count"):
        move_alias(production, "2", "champion", order=order, key=production.signing_key)
    assert holder() == "1"


def test_the_command_has_no_key_and_what_it_left_running_ends(project: Path) -> None:
    (project / "test_model.py").write_text(
        "import os, subprocess, sys\n"
        "def test_env():\n"
        "    assert not [k for k in os.environ if k.startswith('MOOLA_SIGNING_KEY')]\n"
        "    assert os.environ['MOOLA_MODEL_URI'] == 'models:/churn/1'\n"
        "    p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "    open('left', 'w').write(str(p.pid))\n"
    )
    key = Production.of_project(MlflowClient(), "churn").signing_key
    assert key is not None
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    os.environ["MOOLA_SIGNING_KEY"] = pem
    try:
        run = attest_tests("churn/1", (sys.executable, "-m", "pytest", "-q", "test_model.py"))
    finally:
        del os.environ["MOOLA_SIGNING_KEY"]
    assert (run.passed, run.passed_tests, list(run.files)) == (True, 1, ["test_model.py"])
    pid = int((project / "left").read_text())
    status = Path(f"/proc/{pid}/stat")  # killed; whoever adopted it may not have waited for it yet
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_command_that_hangs_is_a_failure(project: Path) -> None:
    run = attest_tests(
        "churn/1", (sys.executable, "-c", "import time; time.sleep(60)"), seconds=0.5
    )
    assert (run.passed, run.exit_code) == (False, None)


@pytest.mark.parametrize(
    ("junit", "sentence"),
    [
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><testsuite/>", "declares entities"),
        ("<testsuite>", "cannot be read"),
        (None, "wrote no"),
    ],
)
def test_a_bad_junit_file_attests_nothing(project: Path, junit: str | None, sentence: str) -> None:
    write = "pass" if junit is None else f"open('j.xml', 'w').write({junit!r})"
    with pytest.raises(ConfigError, match=sentence):
        attest_tests("churn/1", (sys.executable, "-c", write), junit=Path("j.xml"))
    with pytest.raises(PromotionRefused, match="nothing that counts is attested"):
        export("churn/1", project / "bundle")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be read"),
        ("[]", "holds no metrics"),
        ("{}", "holds no metrics"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "not finite"),
        ('{"a": "1"}', "metric 'a' is '1'"),
        ('{"a": true}', "metric 'a' is True"),
        ('{"a": 1, "a": 2}', "a key twice"),
        ('{"a": {"estimate": 1}}', "expected a finite number"),
        ('{"a": {"estimate": 1, "low": 2, "high": 3}}', "leaves its estimate out"),
        ("[" * 1000 + "]" * 1000, "nested"),
    ],
)
def test_bad_metrics_are_one_line(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "eval.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=sentence) as refused:
        read_metrics(path)
    assert "\n" not in str(refused.value)


def test_approvals_and_a_bundle(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = approve("churn/2", reason="reviewed")
    bundle = export("churn/2", project / "bundle")
    assert bundle.envelopes == ("001-approval.dsse.json",)
    sums = (project / "bundle" / "SHA256SUMS").read_text()
    statement = json.loads((project / "bundle" / bundle.envelopes[0]).read_text())
    assert len(digest) == 64
    assert "MLmodel" in sums
    assert statement["payloadType"] == "application/vnd.in-toto+json"
    with pytest.raises(ConfigError, match="is not empty"):
        export("churn/2", project / "bundle")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["guard", "check", "churn"], 2, "MODEL/VERSION"),
        (["guard", "check", "churn/0"], 2, "MODEL/VERSION"),
        (["guard", "check", "churn/9"], 1, "does not exist"),
        (["guard", "check", "churn/2"], 1, "no test run is attested"),
        (["attest", "churn/2"], 2, "nothing to attest"),
        (["attest", "churn/2", "--", "no-such-command"], 2, "cannot be started"),
        (["attest", "churn/2", "--metrics", "absent.json"], 2, "cannot be read"),
        (["approve", "churn/2", "--reason", " "], 2, "reason is empty"),
        (["approve", "churn/2", "--reason", "r", "--key", "absent.pem"], 2, "no signing key"),
        (["evidence", "export", "churn/2"], 1, "nothing that counts"),
        (["evidence", "import", "churn/2"], 2, "expected export"),
        (["promote", "churn/2", "--alias", "champion"], 1, "no test run is attested"),
        (["promote", "--alias", "champion"], 2, "without MODEL/VERSION"),
        (["promote", "--key", "k.pem"], 2, "--key cannot act"),
        (["promote", "--break-glass"], 2, "--break-glass cannot act"),
        (["promote", "--reason", "r"], 2, "--reason cannot act"),
        (["rollback", "--reason", "r", "--key", "k.pem"], 2, "--key cannot act"),
    ],
)
def test_commands_end_in_one_line_with_the_right_code(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err.strip()
    assert (ended.value.code, words in error) == (code, True), error
    assert "\n" not in error
    assert holder() == "1"


def test_a_rule_of_another_make_leaves_the_profile_its_way(project: Path) -> None:
    """A model under profile ohlc is not moved by attestations, whatever they say."""
    policy = project / ".moola" / "policy.yaml"
    policy.write_text("{}")
    prove("2", project)
    with pytest.raises(MoolaError, match="the gates decide"):
        promote("churn/2", alias="production")
    assert (
        dataclasses.asdict(check("churn/2", alias="production")[0].requirements[0])["met"] is None
    )
