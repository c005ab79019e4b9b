"""Evidence that is not what it should be. Version 2 is honestly evaluated, version 3 is not."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guard_world import Answer, Attack, World
from promotion_kit import NAME, evaluate, make_version, trusting

from moola.config.promotion import TAG_EVIDENCE, TAG_PROMOTION_EVIDENCE
from moola.promotion.evidence.attestation import SignedEvidence, verify

ATTACKS: dict[str, Attack] = {}
# What the refusal has to say, where an attack could be refused for another reason as well.
SAYS = {
    "evidence of another version": "the evidence is about version 2",
    "evidence renamed to this version": "the evidence is about run",
    "evidence by a stranger": "unknown key",
    "evidence by a revoked key": "revoked key",
    "verdict failed": "gate 1 is failed",
    "verdict absent": "gate 1 is absent",
    "verdict changed after signing": "changed after signing",
    "encoder without its gates": "gate 3 is absent, not passed; gate 4 is absent",
    "synthetic data without its gate": "gate 5 is absent",
    "promotion gate inconclusive": "promotion gate on the locked test windows is inconclusive",
    "promotion gate not asked": "promotion gate on the locked test windows is absent",
    "compared with no champion": "compared with version None, in Production is 1",
    "compared with an old champion": "compared with version 3, in Production is 1",
    "old thresholds": "judged by thresholds 888888888888",
    "another run": "the evidence is about run 0000",
    "other files": "files were changed after the evaluation",
    "files changed after signing": "files were changed after the evaluation",
    "a file added after signing": "files were changed after the evaluation",
    "look not in the ledger": "this server's ledger holds no look at the test set",
    "rollback to what never held Production": "only to a version that held Production",
    "evidence of the champion replayed on another version": "the evidence is about version 1",
    "evaluation evidence in the place of promotion evidence": "windows is absent",
    "words instead of evidence": "not readable",
    "a model deleted and made again, with the evidence of before": "the evidence is about run",
    "copy of the champion as a new version": "the evidence is about version 1",
    "copy of the champion into another model": "the evidence is about version 1",
}


def prepared(version: str = "2", **changes) -> Attack:
    def act(world: World) -> Answer:
        world.prepare(version, **changes)
        return world.stage(version, "Production")

    return act


ATTACKS |= {
    "evidence of another version": prepared("3"),
    "evidence renamed to this version": lambda w: (
        w.prepare("3", version="3") or w.stage("3", "Production")
    ),
    "evidence by a stranger": prepared(key=Ed25519PrivateKey.generate()),
    "verdict failed": prepared(verdicts={"0": "passed", "1": "failed", "2": "passed"}),
    "verdict absent": prepared(verdicts={"0": "passed", "2": "passed"}),
    "encoder without its gates": prepared(uses_encoder=True),
    "synthetic data without its gate": prepared(uses_synthetic=True),
    "promotion gate inconclusive": prepared(promotion_verdict="inconclusive"),
    "promotion gate not asked": prepared(promotion_verdict=None),
    "compared with no champion": prepared(champion=None),
    "compared with an old champion": prepared(champion="3"),
    "old thresholds": prepared(thresholds_sha256="8" * 64),
    "another run": prepared(run_id="0" * 32),
    "other files": prepared(model_sha256="0" * 64),
    "look not in the ledger": prepared(look=False, data={"split_sha256": "9" * 64}),
    "looks not counted": prepared(test_looks=0),
    "rollback to what never held Production": prepared(purpose="rollback"),
}


def revoked(world: World) -> Answer:
    world.prepare("2", key=world.server.revoked_key)
    return world.stage("2", "Production")


def changed_verdict(world: World) -> Answer:
    world.prepare("2", verdicts={"0": "passed", "1": "failed", "2": "passed"})
    text = world.client.get_model_version(NAME, "2").tags[TAG_PROMOTION_EVIDENCE]
    world.tag("2", text.replace("failed", "passed"))
    return world.stage("2", "Production")


def replay(world: World) -> Answer:
    text = world.client.get_model_version(NAME, "1").tags[TAG_PROMOTION_EVIDENCE]
    world.tag("3", text)
    return world.stage("3", "Production")


def evaluation(world: World) -> Answer:
    world.tag("2", world.client.get_model_version(NAME, "2").tags[TAG_EVIDENCE])
    return world.alias("2", "production")


def words(world: World) -> Answer:
    world.tag("2", "all gates passed, trust me")
    return world.stage("2", "Production")


def tags(world: World) -> Answer:
    run_id = world.client.get_model_version(NAME, "3").run_id
    world.client.set_model_version_tag(NAME, "3", "moola.verdict", "passed")
    world.client.set_tag(run_id, "moola.verdict", "passed")
    world.client.log_metric(run_id, "log_loss", 0.0)
    return world.stage("3", "Production")


def changed_after_signing(file: str) -> Attack:
    def act(world: World) -> Answer:
        version = make_version(world.client, world.folder, weights="good")
        evaluate(world.client, world.server.key, version)
        evidence = world.evidence(version)
        world.prepare(
            version, version=version, run_id=evidence.run_id, model_sha256=evidence.model_sha256
        )
        changed = f"{world.experiment_id}/{evidence.run_id}/artifacts/model/{file}"
        assert world.put(changed)[0] == 200
        return world.stage(version, "Production")

    return act


def made_again(world: World) -> Answer:
    name = "Again"
    make_version(world.client, world.folder, weights="proven", name=name)
    evaluate(world.client, world.server.key, "1", name=name)
    tag = world.client.get_model_version(name, "1").tags[TAG_EVIDENCE]
    proven = verify(SignedEvidence.from_json(tag), trusting(world.server.key))
    world.client.delete_registered_model(name)
    make_version(world.client, world.folder, weights="unproven", name=name)
    subject = {"name": name, "version": "1", "run_id": proven.run_id, "champion": None}
    world.prepare("1", subject=subject | {"model_sha256": proven.model_sha256}, at=name)
    answer = world.stage("1", "Production", name=name)
    world.client.delete_registered_model(name)
    return answer


def copy_in(world: World) -> Answer:
    copy = world.client.copy_model_version(f"models:/{NAME}/1", NAME)
    return world.stage(str(copy.version), "Production")


def copy_out(world: World) -> Answer:
    copy = world.client.copy_model_version(f"models:/{NAME}/1", "Other")
    text = world.client.get_model_version(NAME, "1").tags[TAG_PROMOTION_EVIDENCE]
    world.tag(str(copy.version), text, name="Other")
    return world.alias(str(copy.version), "production", name="Other")


ATTACKS |= {
    "evidence by a revoked key": revoked,
    "verdict changed after signing": changed_verdict,
    "evidence of the champion replayed on another version": replay,
    "evaluation evidence in the place of promotion evidence": evaluation,
    "words instead of evidence": words,
    "tags, metrics and run tags that say passed": tags,
    "files changed after signing": changed_after_signing("weights.safetensors"),
    "a file added after signing": changed_after_signing("code/__pycache__/x.pyc"),
    "a model deleted and made again, with the evidence of before": made_again,
    "copy of the champion as a new version": copy_in,
    "copy of the champion into another model": copy_out,
}
