"""The guarded server under attack and in honest use, on SQLite without log-in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from guard_attacks import ATTACKS, SAYS, must_be_refused
from guard_world import World, change_on_disk, guarded_world, honest
from promotion_kit import (
    NAME,
    PASSED,
    ask_rollback,
    evaluate,
    gate_report,
    make_logged_version,
    make_version,
)

from moola.errors import PromotionRefused
from moola.promotion.ledger.lines import open_intent
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.ledger.remote import RemoteLedger
from moola.promotion.record import decision_record

pytestmark = pytest.mark.usefixtures("quick_client")


@pytest.fixture(scope="module")
def world(template_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with guarded_world(tmp_path_factory.mktemp("guard"), template_db) as world:
        yield world


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
    back = ask_rollback(
        world.client, world.ledger, world.server.key, name="Honest", signing_key=world.server.key
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
    ledger = LocalLedger(f"sqlite:///{world.folder}/mlflow.db")
    decision = honest(world.server, "1", ledger=ledger, name="Direct")
    entries = ledger.entries("Direct")
    assert [entry.event for entry in entries] == ["test_look", "intent", "promotion"]
    assert entries[-1].payload["by_server"] is True
    assert (decision.ledger_seq, open_intent(entries)) == (entries[-1].seq, None)
    # A ledger elsewhere does not hold the looks at the test set that the server asks for.
    elsewhere = LocalLedger(f"sqlite:///{world.folder}/elsewhere.db")
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
            honest(world.server, version, ledger=ledger, name="Race", promotion_gate=gate)
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


@pytest.mark.parametrize("route", ["/moola", "/moola/api/ledger"])
@pytest.mark.parametrize("name", ["%00", f"{NAME}%0A", "%1b[31m", "n" * 5000, "%ED%A0%80%0d"])
def test_a_name_that_is_none_is_one_sentence(world: World, route: str, name: str) -> None:
    status, said = world.server.send("GET", f"{route}?name={name}")
    assert status == 400
    assert json.loads(said)["message"].startswith("name ")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_nul_in_what_the_registry_is_asked_is_one_sentence(world: World, method: str) -> None:
    """PostgreSQL keeps none, SQLite does: the guard's questions and MLflow's differ otherwise."""
    path = {"GET": "get", "POST": "set-tag", "DELETE": "delete"}[method]
    route = f"/api/2.0/mlflow/registered-models/{path}"
    body = {"name": f"{NAME}\0", "key": "k", "value": "v"}
    asked = (f"{route}?name={NAME}%00", None) if method == "GET" else (route, body)
    status, said = world.server.send(method, *asked)
    assert (status, json.loads(said)["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "'name' holds a NUL character" in json.loads(said)["message"]
    for name in ({}, [NAME], {"name": NAME}):
        status, said = world.server.send("POST", f"{route}", {"name": name})
        assert (status, "no text" in said) in ((400, True), (405, False))


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
    with pytest.raises(PromotionRefused, match="is not proven: the model's files were changed"):
        ask_rollback(
            world.client, world.ledger, world.server.key, name=NAME, signing_key=world.server.key
        )
    assert world.ledger.champion_at(NAME) == version
