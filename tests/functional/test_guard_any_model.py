"""Aliases of models that Moola did not make, on a guarded server: five makes, one guard."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from any_model_kit import MAKES, PASSED, POLICY, envelope, register, signer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guard_server import Server, running
from guard_world import honest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from promotion_kit import NAME, ask_promotion, copied_client, evaluate, make_version, trusting

from moola.config.policy import Policy
from moola.errors import PromotionRefused
from moola.promotion.evidence.keys import ensure_signing_key, load_signing_key
from moola.promotion.evidence.predicates import Approval, Order
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.ledger.remote import RemoteLedger

pytestmark = pytest.mark.medium


@dataclasses.dataclass(kw_only=True)
class Guarded:
    """A guarded server with two versions of a model of each make, and its signers."""

    server: Server
    folder: Path
    ci: Ed25519PrivateKey
    ann: Ed25519PrivateKey
    client: MlflowClient
    ledger: RemoteLedger
    number: int = 0

    def attest(
        self, name: str, version: str, key: Ed25519PrivateKey | None = None, **how: object
    ) -> str:
        self.number += 1
        folder = self.folder / f"files-{self.number}"
        return envelope(self.client, key or self.ci, name, version, folder, **how)

    def holder(self, name: str, alias: str) -> str | None:
        version = self.client.get_registered_model(name).aliases.get(alias)
        return None if version is None else str(version)


def guarded(folder: Path, mode: str) -> Iterator[Guarded]:
    ci, ann = signer(folder, "ci"), signer(folder, "ann")
    with running(folder, policy=POLICY.format(mode=mode)) as server:
        world = Guarded(
            server=server, folder=folder, ci=ci, ann=ann, client=server.client(),
            ledger=RemoteLedger(server.url),
        )  # fmt: skip
        for make in MAKES:
            for seed in (1, 2):
                register(server, make, f"churn-{make}", folder, seed=seed)
        yield world


@pytest.fixture(scope="module")
def enforcing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    yield from guarded(tmp_path_factory.mktemp("enforcing"), "enforce")


@pytest.fixture(scope="module")
def reporting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    yield from guarded(tmp_path_factory.mktemp("reporting"), "report")


def send(world: Guarded, path: str, body: object, method: str = "POST") -> tuple[int, str]:
    return world.server.send(method, f"/api/2.0/mlflow/{path}", body)


def alias(world: Guarded, name: str, version: str, word: str) -> tuple[int, str]:
    body = {"name": name, "alias": word, "version": version}
    return send(world, "registered-models/alias", body)


_WIDE = "".join(chr(ord(letter) + 0xFEE0) for letter in "champion")
ATTACKS: dict[str, Callable[[Guarded, str], tuple[int, str]]] = {
    "the alias": lambda w, n: alias(w, n, "2", "champion"),
    "the other alias": lambda w, n: alias(w, n, "2", "production"),
    "in capitals": lambda w, n: alias(w, n, "2", "Champion"),
    "full width": lambda w, n: alias(w, n, "2", _WIDE),
    "version 02": lambda w, n: alias(w, n, "02", "champion"),
    "the stage": lambda w, n: send(
        w, "model-versions/transition-stage", {"name": n, "version": "2", "stage": "PRODUCTION"}
    ),
    "the stage, archiving": lambda w, n: send(
        w,
        "model-versions/transition-stage",
        {"name": n, "version": "2", "stage": "Production", "archive_existing_versions": True},
    ),
    "no alias": lambda w, n: send(
        w, "registered-models/alias", {"name": n, "alias": "champion"}, "DELETE"
    ),
    "a rename": lambda w, n: send(
        w, "registered-models/rename", {"name": n, "new_name": f"{n}-free"}
    ),
    "deleting the holder": lambda w, n: send(
        w, "model-versions/delete", {"name": n, "version": "1"}, "DELETE"
    ),
    "deleting the model": lambda w, n: send(w, "registered-models/delete", {"name": n}, "DELETE"),
    "a prompt's tag": lambda w, n: send(
        w,
        "registered-models/set-tag",
        {"name": n, "key": "mlflow.prompt.is_prompt", "value": "true"},
    ),
    "other files": lambda w, n: w.server.send("PUT", _file_of(w, n), b"evil"),
    "no files": lambda w, n: w.server.send("DELETE", _file_of(w, n)),
}


def _file_of(world: Guarded, name: str) -> str:
    source = str(world.client.get_model_version(name, "1").source)
    logged = world.client.get_logged_model(source.removeprefix("models:/"))
    place = logged.artifact_location.removeprefix("mlflow-artifacts:/")
    return f"/api/2.0/mlflow-artifacts/artifacts/{place}/MLmodel"


@pytest.mark.parametrize("make", MAKES)
def test_what_is_not_attested_is_refused_and_what_is_passes(enforcing: Guarded, make: str) -> None:
    world, name = enforcing, f"churn-{make}"
    status, text = alias(world, name, "1", "champion")
    assert status == 403
    assert "no test run is attested" in text
    assert f"moola attest {name}/1" in text
    world.ledger.attest(world.attest(name, "1"))
    world.client.set_registered_model_alias(name, "champion", "1")
    assert world.holder(name, "champion") == "1"
    for attack, send_it in ATTACKS.items():
        status, answer = send_it(world, name)
        assert status >= 400, (attack, status, answer)
        assert status != 500, (attack, answer)
        assert world.holder(name, "champion") == "1", attack
        assert world.holder(name, "production") is None, attack
    world.ledger.attest(world.attest(name, "2"))
    world.client.set_registered_model_alias(name, "champion", "2")
    world.client.transition_model_version_stage(name, "2", "Production")
    assert (world.holder(name, "champion"), world.holder(name, "production")) == ("2", "2")
    moves = [e for e in world.ledger.entries(name) if e.event == "promotion"]
    assert [(e.version_to, e.payload["alias"]) for e in moves] == [
        ("1", "champion"), ("2", "champion"), ("2", "production"),
    ]  # fmt: skip


@pytest.mark.parametrize("make", MAKES)
def test_report_mode_refuses_nothing_and_misses_nothing(reporting: Guarded, make: str) -> None:
    world, name = reporting, f"churn-{make}"
    world.client.set_registered_model_alias(name, "champion", "1")
    world.ledger.attest(world.attest(name, "2"))
    world.client.set_registered_model_alias(name, "champion", "2")
    world.client.transition_model_version_stage(name, "1", "Production")
    world.client.delete_registered_model_alias(name, "champion")
    world.client.set_registered_model_alias(name, "free", "1")
    world.client.delete_model_version(name, "1")
    lines = world.ledger.entries(name)
    told = [(e.event, e.version_to, bool(e.payload.get("reasons"))) for e in lines]
    assert told == [
        ("observed", "1", True),
        ("observed", "2", False),
        ("observed", "1", True),
        ("reported", None, False),
        ("reported", "1", False),
    ]
    assert all(e.reason.startswith("would be refused: ") for e in lines if e.version_to != "2")


_FREEZING = ("other files", "no files")  # nothing is frozen where nothing is refused


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in _FREEZING])
def test_report_mode_writes_every_attack_down(reporting: Guarded, attack: str) -> None:
    world, name = reporting, f"churn {attack}"
    for seed in (1, 2):
        register(world.server, "code", name, world.folder, seed=seed)
    world.client.set_registered_model_alias(name, "champion", "1")
    before = len(world.ledger.entries())
    status, text = ATTACKS[attack](world, name)
    assert status < 400, text
    lines = world.ledger.entries()[before:]
    assert [line.event for line in lines] in (["observed"], ["reported"])
    assert lines[0].reason.startswith("would be refused: ")


def test_a_prompt_is_free_and_stays_what_it_was_made_as(enforcing: Guarded) -> None:
    client = enforcing.client
    client.register_prompt("churn-words", "Say {{ word }}.")
    client.set_prompt_alias("churn-words", "production", 1)
    assert client.get_prompt_version_by_alias("churn-words", "production").version == 1
    run = client.get_run(str(client.get_model_version("churn-code", "1").run_id)).info
    with pytest.raises(MlflowException, match="a prompt's version has no files"):
        client.create_model_version("churn-words", f"{run.artifact_uri}/model", run.run_id)
    client.create_registered_model("churn-late")
    with pytest.raises(RestException, match="decides by tag"):
        client.set_registered_model_tag("churn-late", "mlflow.prompt.is_prompt", "true")


def test_the_server_takes_only_what_a_trusted_key_signed(enforcing: Guarded) -> None:
    world = enforcing
    text = world.attest("churn-code", "1")
    stranger = world.attest("churn-code", "1", Ed25519PrivateKey.generate())
    values = json.loads(text)
    bad = {
        "a stranger's": stranger,
        "a changed byte": text.replace('"keyid":"', '"keyid":"0', 1),
        "two signatures": json.dumps({**values, "signatures": values["signatures"] * 2}),
        "no version of the registry": world.attest("churn-code", "1", about={"version": "99"}),
        "large": text + " " * (1 << 20),
        "deep": "[" * 1000 + "]" * 1000,
        "another text": "{}",
    }
    for why, one in bad.items():
        with pytest.raises(PromotionRefused) as refused:
            world.ledger.attest(one)
        assert "\n" not in str(refused.value), why
    digest = world.ledger.attest(text)
    assert world.ledger.attest(text) == digest
    kept = world.ledger.attestations("churn-code", "1")
    assert kept.count(text) == 1


def test_check_says_what_is_missing_and_the_next_command(enforcing: Guarded) -> None:
    register(enforcing.server, "code", "churn-new", enforcing.folder, seed=7)
    answers = enforcing.ledger.check("churn-new", "1", None)
    assert [one["alias"] for one in answers] == ["champion", "production"]
    [asked] = answers[0]["requirements"]
    assert asked["met"] is False
    assert asked["remedy"] == "moola attest churn-new/1 -- pytest tests/model"


def test_orders_roll_back_once_and_break_the_glass_by_name(enforcing: Guarded) -> None:
    world, name = enforcing, "churn-orders"
    for seed in (1, 2, 3):
        version = register(world.server, "code", name, world.folder, seed=seed)
        if seed < 3:
            world.ledger.attest(world.attest(name, version))
            world.client.set_registered_model_alias(name, "champion", version)
    failed = dataclasses.replace(PASSED, passed=False, exit_code=1)
    world.ledger.attest(world.attest(name, "1", content=failed))
    assert alias(world, name, "1", "champion")[0] == 403
    back = Order(action="rollback", alias="champion", champion="2", reason="drift")
    world.ledger.attest(world.attest(name, "1", content=back))
    world.client.set_registered_model_alias(name, "champion", "1")
    assert world.ledger.entries(name)[-1].event == "rollback"
    world.client.set_registered_model_alias(name, "champion", "2")
    assert alias(world, name, "1", "champion")[0] == 403  # the order was used
    forward = dataclasses.replace(back, champion="2")
    world.ledger.attest(world.attest(name, "3", content=forward))
    assert alias(world, name, "3", "champion")[0] == 403  # version 3 never held it
    glass = Order(action="break-glass", alias="champion", champion="2", reason="outage")
    world.ledger.attest(world.attest(name, "3", content=glass))
    assert alias(world, name, "3", "champion")[0] == 403  # ci may not
    world.ledger.attest(world.attest(name, "3", world.ann, content=glass))
    world.client.set_registered_model_alias(name, "champion", "3")
    last = world.ledger.entries(name)[-1]
    assert last.payload["unproven_until"] > last.at
    assert "outage" in last.reason
    page = world.server.send("GET", f"/moola?name={name}")[1]
    assert "the glass was broken; to be proven or replaced by" in page
    assert "champion, production of churn*: require attested tests" in page


BOTH = """
version: 2
rules:
  - name: gates
    models: [EnhancedSimpleLSTM]
    aliases: [production, live]
    require: [{profile: ohlc}]
  - {name: people, models: ["*"], aliases: [live], require: [{approve: {by: [ann]}}]}
"""


def test_what_a_rule_asks_beside_the_gates_holds_for_every_alias_that_moves(
    tmp_path: Path, template_db: Path
) -> None:
    ann = signer(tmp_path, "ann")
    before = copied_client(template_db, tmp_path)
    for number in range(2):
        make_version(before, tmp_path, weights=f"w{number}")
    with running(tmp_path, policy=BOTH) as server:
        client, ledger = server.client(), RemoteLedger(server.url)
        for version in ("1", "2"):
            evaluate(client, server.key, version)
        with pytest.raises(PromotionRefused, match="approved by nobody"):
            honest(server, "1", ledger=ledger)
        ledger.attest(envelope(client, ann, NAME, "1", tmp_path / "a", Approval(reason="read")))
        assert honest(server, "1", ledger=ledger).allowed
        client.set_registered_model_alias(NAME, "live", "1")
        for alias_name in ("live", "production"):
            body = {"name": NAME, "alias": alias_name, "version": "2"}
            assert server.send("POST", "/api/2.0/mlflow/registered-models/alias", body)[0] == 403


def test_a_plain_store_asks_for_it_too(tmp_path: Path, template_db: Path) -> None:
    client = copied_client(template_db, tmp_path)
    make_version(client, tmp_path)
    ensure_signing_key(tmp_path)
    key = load_signing_key(tmp_path, env={})
    ledger = LocalLedger(f"sqlite:///{tmp_path}/mlflow.db")
    evaluate(client, key, "1")
    rules = Policy.from_values(yaml.safe_load(BOTH))
    with pytest.raises(PromotionRefused, match="approved by nobody"):
        ask_promotion(client, ledger, key, "1", keys=trusting(key), given_rules=rules)
