"""The guarded server under attack: with and without log-in, on SQLite and on PostgreSQL."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from guard_attacks import ATTACKS, POLICY, SAYS, World, change_on_disk
from guard_server import PASSWORD, USER, Server, running
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput
from mlflow.exceptions import MlflowException
from promotion_kit import (
    NAME,
    PASSED,
    copied_client,
    evaluate,
    forget_connections,
    gate_report,
    killed,
    make_logged_version,
    make_version,
    template_store,
    trusting,
)

from moola.config.promotion import (
    ENV_POLICY,
    POLICY_FILE,
    TAG_EVIDENCE,
    TAG_PROMOTION_EVIDENCE,
    TRUSTED_FOLDER,
    PromotionPolicy,
)
from moola.errors import ConfigError, PromotionRefused, TrackingError
from moola.promotion.decision import Decision
from moola.promotion.evidence import sign, verify
from moola.promotion.guard import server_command
from moola.promotion.guard_core import Guard
from moola.promotion.guard_registry import GuardedRegistryStore
from moola.promotion.keys import ensure_signing_key, load_signing_key
from moola.promotion.ledger import Draft, Ledger, open_intent
from moola.promotion.promote import promote
from moola.promotion.record import decision_record
from moola.promotion.remote import RemoteLedger, open_ledger
from moola.promotion.rollback import rollback
from moola.promotion.state import read_state

# Attacks that every database and every way of log-in has to withstand.
ESSENTIAL = (
    "stage Production by api",
    "alias PRODUCTION by ajax-api",
    "alias by client",
    "evidence of another version",
    "evidence by a stranger",
    "verdict changed after signing",
    "compared with no champion",
    "files changed after signing",
    "champion spelled 01 to Archived",
    "rename",
    "delete the model",
    "PUT file with %252f by api",
    "DELETE file by ajax-api",
    "batch on the run",
    "artifact_location file:///etc",
    "ledger: a promotion",
)


@pytest.fixture(autouse=True)
def quick_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return template_store(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="module")
def world(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("guard")
    shutil.copy(template, folder / "mlflow.db")
    with running(folder, policy=POLICY) as server:
        world = World(server)
        yield world
        world.engine.dispose()


def attempt(world: World, name: str) -> None:
    status, text = ATTACKS[name](world)
    assert status >= 400, (status, text)
    assert status != 500, text
    assert SAYS.get(name, "") in text
    assert "Traceback" not in text


def must_be_refused(world: World, name: str) -> None:
    attempt(world, name)
    assert world.state() == world.before


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(world: World, name: str) -> None:
    must_be_refused(world, name)


def test_the_attacks_are_enough_and_stand_in_the_ledger(world: World) -> None:
    assert len(ATTACKS) >= 40
    assert set(SAYS) <= set(ATTACKS)
    refused = [e for e in world.ledger.entries(NAME) if e.event == "refusal"]
    assert len(refused) > 20
    world.ledger.verify_chain()


def test_a_sentence_says_why(world: World) -> None:
    answer = world.stage("1", "Production", name="Other")
    assert answer[0] == 403
    assert "carries no evidence" in json.loads(answer[1])["message"]


def test_honest_use_passes(world: World) -> None:
    for number in range(3):
        make_version(world.client, world.folder, weights=f"h{number}", name="Honest")
        evaluate(world.client, world.server.key, str(number + 1), name="Honest")
    assert world.promote("1", "Honest").allowed
    decision = world.promote("2", "Honest")
    assert (decision.champion_before, decision.test_looks is not None) == ("1", True)
    assert decision.ledger_seq == world.ledger.entries("Honest")[-1].seq
    stages = {
        str(v.version): v.current_stage for v in world.client.search_model_versions("name='Honest'")
    }
    assert stages == {"1": "Archived", "2": "Production", "3": "None"}
    back = rollback(
        client=world.client,
        ledger=world.ledger,
        name="Honest",
        trusted_keys=trusting(world.server.key),
        who="bob",
        reason="drift",
        signing_key=world.server.key,
    )
    assert (back.version, world.ledger.champion_at("Honest")) == ("1", "1")
    assert world.ledger.entries("Honest")[-1].who == "bob (client at 127.0.0.1)"
    assert str(world.client.get_model_version_by_alias("Honest", "production").version) == "1"
    # The order to go back and the old promotion evidence are used up.
    assert world.stage("2", "Production", name="Honest")[0] == 403
    # What is not in Production stays free.
    world.client.set_registered_model_alias("Honest", "challenger", "3")
    world.client.delete_registered_model_alias("Honest", "challenger")
    world.client.delete_model_version("Honest", "3")
    world.client.create_experiment("plain")
    world.client.create_registered_model("Free")
    world.client.rename_registered_model("Free", "Freed")
    world.client.delete_registered_model("Freed")


def honest(server: Server, version: str, *, ledger: Ledger, name: str, gate=None) -> Decision:
    return promote(
        client=MlflowClient(server.url),
        ledger=ledger,
        name=name,
        version=version,
        trusted_keys=trusting(server.key),
        policy=PromotionPolicy(),
        promotion_gate=gate or (lambda _champion: dict(PASSED)),
        who=version,
        signing_key=server.key,
    )


def test_a_version_made_from_a_logged_model_is_frozen_too(world: World) -> None:
    for _ in range(2):
        version = make_logged_version(world.client, world.folder, name="Logged")
        evaluate(world.client, world.server.key, version, name="Logged")
    world.promote("1", "Logged")
    found = world.client.get_model_version("Logged", "1")
    model_id = found.source.removeprefix("models:/")
    files = world.client.get_model_version_download_uri("Logged", "1")
    place = files.removeprefix("mlflow-artifacts:/")
    for answer in (
        world.put(f"{place}/weights.safetensors"),
        world.put(f"{place}/code/evil.py", prefix="ajax-api"),
        world.put(f"{place}%252fMLmodel"),
        world.put(place, method="DELETE"),
        world.put(f"{world.experiment_id}/models", method="DELETE"),
        world.by_client(lambda c: c.log_model_artifacts(model_id, str(world.folder / "site"))),
        world.by_client(lambda c: c.delete_logged_model(model_id)),
        world.by_client(lambda c: c.delete_model_version("Logged", "1")),
    ):
        assert answer[0] == 403, answer
    assert world.promote("2", "Logged").champion_before == "1"
    # What was replaced stays frozen, because a rollback may go back to it.
    assert world.put(f"{place}/weights.safetensors")[0] == 403


def test_a_client_with_the_database_at_hand_shares_the_ledger(world: World) -> None:
    for number in range(2):
        make_version(world.client, world.folder, weights=f"d{number}", name="Direct")
        evaluate(world.client, world.server.key, str(number + 1), name="Direct")
    ledger = Ledger(f"sqlite:///{world.folder}/mlflow.db")
    decision = honest(world.server, "1", ledger=ledger, name="Direct")
    entries = ledger.entries("Direct")
    assert [entry.event for entry in entries] == ["test_look", "intent", "promotion"]
    assert entries[-1].payload["by_server"] is True
    assert (decision.ledger_seq, open_intent(entries)) == (entries[-1].seq, None)
    # A ledger elsewhere does not hold the looks at the test set that the server asks for.
    elsewhere = Ledger(f"sqlite:///{world.folder}/elsewhere.db")
    with pytest.raises(PromotionRefused, match="no look at the test set"):
        honest(world.server, "2", ledger=elsewhere, name="Direct")
    assert ledger.champion_at("Direct") == "1"


def test_of_several_promotions_at_once_exactly_one_wins(world: World) -> None:
    for number in range(4):
        make_version(world.client, world.folder, weights=f"r{number}", name="Race")
        evaluate(world.client, world.server.key, str(number + 1), name="Race")
    together = threading.Barrier(4)
    won: list[str] = []

    def run(version: str) -> None:
        def gate(_champion: str | None) -> dict:
            together.wait(timeout=60)
            return dict(PASSED)

        try:
            ledger = RemoteLedger(world.server.url)
            honest(world.server, version, ledger=ledger, name="Race", gate=gate)
            won.append(version)
        except PromotionRefused:
            pass

    threads = [threading.Thread(target=run, args=(str(n + 1),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert world.ledger.champion_at("Race") == won[0]
    assert str(world.client.get_model_version_by_alias("Race", "production").version) == won[0]


def test_models_outside_the_policy_are_left_alone(template: Path, tmp_path: Path) -> None:
    client = copied_client(template, tmp_path)
    for name in (NAME, "Free"):
        make_version(client, tmp_path, name=name)
    address = f"sqlite:///{tmp_path}/mlflow.db"
    store = GuardedRegistryStore(address, guard=local_guard(tmp_path, models=(NAME,)))
    store.transition_model_version_stage("Free", "1", "Production", False)
    store.set_registered_model_alias("Free", "production", "1")
    with pytest.raises(MlflowException, match="not renamed"):
        store.rename_registered_model("Free", NAME)
    store.delete_registered_model_alias("Free", "production")
    store.transition_model_version_stage("Free", "1", "None", False)
    store.delete_model_version("Free", "1")
    store.delete_registered_model("Free")
    with pytest.raises(MlflowException, match="carries no evidence"):
        store.set_registered_model_alias(NAME, "production", "1")


def local_guard(folder: Path, **policy: object) -> Guard:
    return Guard(
        policy=PromotionPolicy(**policy),
        trusted_folder=folder / TRUSTED_FOLDER,
        ledger=Ledger(f"sqlite:///{folder}/mlflow.db"),
        artifacts_destination=str(folder),
        artifact_root=str(folder),
        lock_file=folder / "lock",
    )


def test_the_page_shows_history_evidence_and_refusals(world: World) -> None:
    status, page = world.server.send("GET", f"/moola?name={NAME}")
    assert status == 200
    for text in ("version 1", "promotion", "refusal", "gate 1", "trusted key", "unbroken"):
        assert text in page
    world.server.send(
        "POST",
        "/moola/api/ledger",
        {"event": "refusal", "who": "<script>", "name": "<b>", "reason": "<script>alert(1)"},
    )
    assert "<script>" not in world.server.send("GET", "/moola")[1]


def test_an_artifact_may_be_named_like_a_closed_route(world: World) -> None:
    run = world.client.create_run(world.experiment_id)
    place = f"{world.experiment_id}/{run.info.run_id}/artifacts/mlflow/assistant/config"
    assert world.put(place)[0] == 200


def test_decision_record_of_a_real_promotion(world: World) -> None:
    make_version(world.client, world.folder, weights="rec", name="Record")
    evaluate(world.client, world.server.key, "1", name="Record")
    decision = world.promote("1", "Record")
    page = decision_record(decision, gate_report(world.client, "1", name="Record"))
    assert "was promoted to Production" in page


def test_a_change_on_disk_is_found_by_the_next_rollback(world: World) -> None:
    make_version(world.client, world.folder, weights="next")
    version = str(max(int(v.version) for v in world.client.search_model_versions(f"name='{NAME}'")))
    evaluate(world.client, world.server.key, version)
    world.promote(version)
    change_on_disk(world)
    with pytest.raises(PromotionRefused, match="changed since it was promoted"):
        rollback(
            client=world.client,
            ledger=world.ledger,
            name=NAME,
            trusted_keys=trusting(world.server.key),
            who="bob",
            reason="drift",
            signing_key=world.server.key,
        )
    assert world.ledger.champion_at(NAME) == version


def test_with_log_in(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flask_wtf", reason="log-in needs the extra auth (Flask-WTF)")
    ensure_signing_key(tmp_path)
    key = load_signing_key(tmp_path, env={})
    before = copied_client(template, tmp_path)  # checking passwords takes its time
    for number in range(2):
        make_version(before, tmp_path, weights=f"w{number}")
        evaluate(before, key, str(number + 1))
    before.delete_model_version_tag(NAME, "2", TAG_EVIDENCE)
    run_id = before.get_model_version(NAME, "1").run_id
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with running(tmp_path, policy=POLICY + f"promoters: [{USER}]\n", auth=True) as server:
        ledger = RemoteLedger(server.url)
        assert honest(server, "1", ledger=ledger, name=NAME).allowed
        two = {"name": NAME, "version": "2"}
        for path, body in {
            "model-versions/transition-stage": {
                "name": NAME,
                "version": "2",
                "stage": "production",
            },
            "registered-models/alias": {**two, "alias": "production"},
            "registered-models/rename": {"name": NAME, "new_name": "Else"},
            "runs/set-tag": {"run_id": run_id, "key": "k", "value": "v"},
            "experiments/create": {"name": "x", "artifact_location": "file:///etc"},
        }.items():
            status, text = server.send("POST", f"/api/2.0/mlflow/{path}", body)
            assert status == 403, (path, text)
        last = ledger.entries(NAME)[-1]
        assert (last.event, last.who) == ("refusal", USER)
        # Evidence alone does not do: who asks has to be allowed to.
        evaluate(before, key, "2")
        body = {"username": "mallory", "password": PASSWORD}
        assert server.send("POST", "/api/2.0/mlflow/users/create", body)[0] == 200
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "mallory")
        with pytest.raises(PromotionRefused, match="user mallory may not move Production"):
            honest(server, "2", ledger=RemoteLedger(server.url), name=NAME)
        assert ledger.entries(NAME, events=("refusal",))[-1].who.endswith("(mallory)")
        server.auth = False
        for path in ("/moola", "/moola/api/ledger"):
            assert server.send("GET", path)[0] == 401
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not-the-password-at-all")
        with pytest.raises(TrackingError, match="keeps no ledger for us"):
            RemoteLedger(server.url)
    assert str(before.get_model_version_by_alias(NAME, "production").version) == "1"


def agreed(client: MlflowClient, ledger: Ledger) -> str | None:
    """Return the champion if alias, stage and ledger name the same one."""
    state = read_state(client, NAME)
    assert state.champion == ledger.champion_at(NAME)
    assert open_intent(ledger.entries(NAME)) is None
    return state.champion


def test_a_server_killed_at_random_moments_moves_all_or_nothing(
    template: Path, tmp_path: Path
) -> None:
    client = copied_client(template, tmp_path)
    key = load_signing_key(tmp_path, env={}) if ensure_signing_key(tmp_path) else None
    assert key is not None
    make_version(client, tmp_path)
    evidence = verify(evaluate(client, key, "1"), trusting(key))
    address = f"sqlite:///{tmp_path}/mlflow.db"
    ledger = Ledger(address)
    split = evidence.data["split_sha256"]
    look = {"event": "test_look", "who": "a", "name": NAME, "reason": "r", "version_to": "1"}
    ledger.append(Draft(**look, payload={"split_sha256": split}))
    passed = {"purpose": "promotion", "promotion_verdict": "passed", "test_looks": 1}
    promotion = dataclasses.replace(evidence, **passed)
    client.set_model_version_tag(NAME, "1", TAG_PROMOTION_EVIDENCE, sign(promotion, key).to_json())

    def server_dies_after(seconds: float) -> None:
        forget_connections(tmp_path)
        store = GuardedRegistryStore(address, guard=local_guard(tmp_path))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, like kill -9
        signal.setitimer(signal.ITIMER_REAL, seconds)
        store.set_registered_model_alias(NAME, "production", "1")
        os._exit(0)

    moments = random.Random(3)
    ends = []
    for _ in range(25):
        ends.append(killed(server_dies_after, moments.uniform(0.0005, 0.06)))
        if agreed(client, ledger) is not None:
            break
    assert -signal.SIGALRM in ends
    killed(server_dies_after, 30.0)
    assert agreed(client, ledger) == "1"
    ledger.verify_chain()


@pytest.mark.slow
@pytest.mark.parametrize("auth", [False, True], ids=["open", "log-in"])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_every_attack_everywhere(
    database: str,
    auth: bool,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    backend = request.getfixturevalue("postgres") if database == "postgresql" else None
    with running(tmp_path, backend=backend, policy=POLICY, auth=auth) as server:
        world = World(server)
        for name in ATTACKS:
            must_be_refused(world, name)
        assert world.promote("2").champion_before == "1"
        world.ledger.verify_chain()
        world.engine.dispose()


def test_on_postgresql(tmp_path: Path, postgres: str) -> None:
    with running(tmp_path, backend=postgres, policy=POLICY) as server:
        world = World(server)
        for name in ESSENTIAL:
            attempt(world, name)
        assert world.state() == world.before
        assert world.promote("2").champion_before == "1"
        ledger = Ledger(postgres)
        ledger.verify_chain()
        assert ledger.champion_at(NAME) == "2"
        import sqlalchemy as sa

        for change in ("UPDATE moola_ledger SET who='x'", "TRUNCATE moola_ledger"):
            direct = world.engine.connect()
            with direct, pytest.raises(sa.exc.DBAPIError, match="append"):
                direct.execute(sa.text(change))
        world.engine.dispose()


def test_the_command_says_what_it_enforces_and_refuses_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no key"):
        server_command(project=tmp_path)
    ensure_signing_key(tmp_path)
    command = server_command(project=tmp_path, auth=True)
    assert command.env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert any("only with signed evidence" in line for line in command.enforces)
    with pytest.raises(ConfigError, match="mysql"):
        server_command(project=tmp_path, backend_store_uri="mysql://x/y")
    (tmp_path / POLICY_FILE).write_text("required_gates: [0, 1, 2, 6]")
    command = server_command(project=tmp_path)
    assert command.env[ENV_POLICY] == str(tmp_path / POLICY_FILE)
    assert any("0, 1, 2, 6" in line for line in command.enforces)
    assert PromotionPolicy.in_force(tmp_path).required_gates == (0, 1, 2, 6)
    (tmp_path / "policy.yaml").write_text("requird_gates: [0]")
    with pytest.raises(ConfigError, match="required_gates"):
        server_command(project=tmp_path, policy_file=tmp_path / "policy.yaml")


def test_clients_that_log_a_new_data_set_in_the_same_moment_all_succeed(
    tmp_path: Path, postgres: str
) -> None:
    with running(tmp_path, backend=postgres) as server:
        client = server.client()
        experiment = client.create_experiment("race")

        def log(number: int) -> None:
            run_id = client.create_run(experiment).info.run_id
            for digest in range(40):
                ready.wait()
                dataset = Dataset(f"d{digest}", "0" * 36, "local", "{}")
                try:
                    client.log_inputs(run_id, [DatasetInput(dataset)])
                except MlflowException:
                    ready.abort()
                    raise

        ready = threading.Barrier(4, timeout=60)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(log, range(4)))


def test_a_plain_server_keeps_no_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match="cannot get the ledger"):
        open_ledger("http://127.0.0.1:9")
