"""Attestations: what is signed is what is read, and any other byte is refused."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
import string
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moola.config.policy import Policy, Rule
from moola.config.requirements import Approve, Better, Metric, PassingTests
from moola.errors import PromotionRefused
from moola.hashing import canonical_json
from moola.promotion.aliases.requirements import (
    Attested,
    Subject,
    broken_glass,
    findings,
    reasons_in,
    rollback_order,
    unmeetable,
)
from moola.promotion.evidence.envelope import DsseEnvelope, Statement, seal
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.evidence.predicates import (
    About,
    Approval,
    Compared,
    Content,
    MetricValues,
    Order,
    SuiteRun,
    attest,
    read_attestation,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FILES = {"MLmodel": "a" * 64, "model.pkl": "b" * 64}
DATA = "d" * 64
KEYS = {name: Ed25519PrivateKey.generate() for name in ("ci", "ann", "bob")}
HARDWARE = ec.generate_private_key(ec.SECP256R1())
TRUSTED = TrustedKeys(
    keys={key_id(k.public_key()): k.public_key() for k in KEYS.values()},
    p256={key_id(HARDWARE.public_key()): HARDWARE.public_key()},
    names={key_id(k.public_key()): name for name, k in KEYS.items()}
    | {key_id(HARDWARE.public_key()): "yubi"},
)
ABOUT = About(model="churn", version="7", run_id="r1", created_at=NOW.isoformat(), data=(DATA,))
PASSED = SuiteRun(
    passed=True, command=("pytest", "tests"), exit_code=0, seconds=1.5,
    files={"tests/test_a.py": "c" * 64}, passed_tests=3, failed_tests=0, skipped_tests=1,
    names=("a::b", "a::c", "a::d"),
)  # fmt: skip
COMPARED = Compared(
    other="5", metric="log_loss", difference=-0.02, low=-0.03, high=-0.01, level=0.95, rows=900,
    method="rows", identical=False, look=1,
)  # fmt: skip
CONTENTS: dict[str, Content] = {
    "tests": PASSED,
    "metrics": MetricValues(
        estimates={"recall": 0.8}, lows={"recall": 0.75}, highs={"recall": 0.85}
    ),
    "comparison": COMPARED,
    "approval": Approval(reason="reviewed"),
    "order": Order(action="rollback", alias="champion", champion="8", reason="drift"),
}
SUBJECT = Subject(
    name="churn", version="7", alias="champion", run_id="r1", champion="5", files=FILES,
    registered_by="carol",
)  # fmt: skip


def said(content: Content, signer: str = "ci", *, files: Any = None, **about: Any) -> str:
    changed = dataclasses.replace(ABOUT, **about)
    return attest(changed, content, files or FILES, KEYS[signer]).to_json()


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("key", [KEYS["ci"], HARDWARE], ids=["ed25519", "p256"])
def test_what_is_signed_is_read(kind: str, key: Any) -> None:
    text = attest(ABOUT, CONTENTS[kind], FILES, key).to_json()
    read = read_attestation(text, TRUSTED)
    assert read.content == CONTENTS[kind]
    assert read.about == ABOUT
    assert read.files == FILES
    assert read.signer == ("yubi" if key is HARDWARE else "ci")


def test_the_predicate_of_tests_is_in_totos_own() -> None:
    statement = json.loads(DsseEnvelope.from_json(said(PASSED)).payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert statement["predicate"]["result"] == "PASSED"
    assert statement["predicate"]["passedTests"] == list(PASSED.names)
    assert statement["subject"][0] == {"name": "MLmodel", "digest": {"sha256": "a" * 64}}


@pytest.mark.parametrize("key", [KEYS["ci"], HARDWARE], ids=["ed25519", "p256"])
def test_any_changed_byte_is_refused(key: Any) -> None:
    text = attest(ABOUT, PASSED, FILES, key).to_json()
    draw = random.Random(5)
    for _ in range(2000):
        at = draw.randrange(len(text))
        other = draw.choice([c for c in string.printable if c != text[at]])
        with pytest.raises(PromotionRefused):
            read_attestation(text[:at] + other + text[at + 1 :], TRUSTED)


def resealed(change: Any) -> str:
    """Return an envelope over a changed statement, signed again by a trusted key."""
    values = json.loads(DsseEnvelope.from_json(said(PASSED)).payload)
    change(values)
    message = canonical_json(values).encode()
    statement = Statement(subject=FILES, predicate_type="x", predicate={})
    envelope = seal(statement, KEYS["ci"])
    kind = b"application/vnd.in-toto+json"
    signature = KEYS["ci"].sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(message), message))
    return dataclasses.replace(envelope, payload=message, signature=signature).to_json()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["predicate"].update(result="FAILED"),
        lambda v: v["predicate"]["moola"].update(exitCode=True),
        lambda v: v["predicate"]["moola"].update(seconds="1"),
        lambda v: v["predicate"]["moola"].update(more=1),
        lambda v: v["predicate"]["moola"].pop("exitCode"),
        lambda v: v["predicate"]["moola"]["about"].update(version="07"),
        lambda v: v["predicate"]["moola"]["about"].update(createdAt="2026-03-01"),
        lambda v: v["predicate"]["moola"]["about"].update(data=["zz"]),
        lambda v: v["predicate"].pop("moola"),
        lambda v: v.update(predicateType="https://example.org/other"),
        lambda v: v.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda v: v.update(subject=[]),
        lambda v: v["subject"].append(v["subject"][0]),
        lambda v: v["subject"][0].update(digest={"md5": "a" * 32}),
        lambda v: v["predicate"].update(passedTests=nested(200)),
    ],
)
def test_a_signed_statement_of_another_form_is_refused_in_one_line(change: Any) -> None:
    with pytest.raises(PromotionRefused) as refused:
        read_attestation(resealed(change), TRUSTED)
    assert "\n" not in str(refused.value)


def test_an_envelope_of_another_form_is_refused_in_one_line() -> None:
    text = said(PASSED)
    values = json.loads(text)
    [one] = values["signatures"]
    other = Ed25519PrivateKey.generate()
    stranger = seal(Statement(subject=FILES, predicate_type="x", predicate={}), other)
    revoked = dataclasses.replace(
        TRUSTED, revoked=frozenset(key_id(k.public_key()) for k in KEYS.values())
    )
    for bad, keys in (
        (canonical_json({**values, "signatures": [one, one]}), TRUSTED),
        (canonical_json({**values, "signatures": []}), TRUSTED),
        (canonical_json({**values, "payloadType": "text/plain"}), TRUSTED),
        (text[:-1] + ',"payload":"e30="}', TRUSTED),  # two payloads
        (json.dumps(values, indent=1), TRUSTED),
        (text + " " * (1 << 20), TRUSTED),
        ("[" * 1000 + "]" * 1000, TRUSTED),
        ("", TRUSTED),
        ("null", TRUSTED),
        ("\ud800", TRUSTED),
        (canonical_json({**values, "payload": base64.b64encode(b"\xff").decode()}), TRUSTED),
        (stranger.to_json(), TRUSTED),
        (text, revoked),
    ):
        with pytest.raises(PromotionRefused) as refused:
            read_attestation(bad, keys)
        assert "\n" not in str(refused.value)


def rule(*require: Any, **about: Any) -> Rule:
    return Rule(name="r", require=require, **about)


def reasons(
    asked: Rule, texts: list[str], subject: Subject = SUBJECT, now: datetime = NOW
) -> list[str]:
    attested = Attested.read(texts, subject, TRUSTED, now)
    return reasons_in(findings([asked], subject, attested, now))


def test_the_newest_test_run_counts() -> None:
    earlier, later = NOW - timedelta(hours=2), NOW - timedelta(hours=1)
    good = said(PASSED, created_at=earlier.isoformat())
    bad = dataclasses.replace(PASSED, passed=False, exit_code=1, failed_tests=1)
    assert reasons(rule(PassingTests()), [good]) == []
    assert (
        "it failed"
        in reasons(rule(PassingTests()), [said(bad, created_at=later.isoformat()), good])[0]
    )
    assert (
        reasons(
            rule(PassingTests()),
            [said(bad, created_at=(earlier - later + earlier).isoformat()), good],
        )
        == []
    )
    assert "at least 4" in reasons(rule(PassingTests(at_least=4)), [good])[0]
    uncounted = dataclasses.replace(
        PASSED, passed_tests=None, failed_tests=None, skipped_tests=None
    )
    assert "at least 1" in reasons(rule(PassingTests(at_least=1)), [said(uncounted)])[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (said(PASSED, version="8"), "about version 8"),
        (said(PASSED, model="other"), "of other"),
        (said(PASSED, run_id="r2"), "about run r2"),
        (said(PASSED, files={**FILES, "model.pkl": "e" * 64}), "files are others"),
        (said(PASSED, files={"MLmodel": "a" * 64}), "files are others"),
        (said(PASSED, created_at="2026-03-01T12:06:00+00:00"), "not yet"),
    ],
)
def test_what_is_about_something_else_does_not_count(text: str, why: str) -> None:
    attested = Attested.read([text], SUBJECT, TRUSTED, NOW)
    assert attested.counting == ()
    assert why in attested.ignored[0]
    assert reasons(rule(PassingTests()), [text]) == ["rule r: no test run is attested"]


def test_who_signed_and_how_long_ago() -> None:
    by_ann = said(PASSED, "ann")
    assert "signed_by is ci" in reasons(rule(PassingTests(), signed_by=("ci",)), [by_ann])[0]
    assert reasons(rule(PassingTests(), signed_by=("ann", "ci")), [by_ann]) == []
    old = said(PASSED, created_at=(NOW - timedelta(days=8)).isoformat())
    assert "8.0 days old" in reasons(rule(PassingTests(), max_age_days=7), [old])[0]
    assert reasons(rule(PassingTests(), max_age_days=8), [old]) == []


@pytest.mark.parametrize(
    ("asked", "met"),
    [
        (Metric(name="recall", at_least=0.8), True),
        (Metric(name="recall", at_least=0.81), False),
        (Metric(name="recall", at_least=0.75, counts="interval"), True),
        (Metric(name="recall", at_least=0.76, counts="interval"), False),
        (Metric(name="recall", at_most=0.85, counts="interval"), True),
        (Metric(name="recall", at_most=0.84, counts="interval"), False),
        (Metric(name="precision", at_least=0.1), False),
        (Metric(name="recall", at_least=0.8, data=DATA), True),
        (Metric(name="recall", at_least=0.8, data="e" * 64), False),
    ],
)
def test_a_metric_and_its_bound(asked: Metric, met: bool) -> None:
    assert (reasons(rule(asked), [said(CONTENTS["metrics"])]) == []) is met


def test_an_estimate_alone_meets_no_bound_on_an_interval() -> None:
    alone = said(MetricValues(estimates={"recall": 0.9}))
    asked = Metric(name="recall", at_least=0.5, counts="interval")
    assert "without an interval" in reasons(rule(asked), [alone])[0]


@pytest.mark.parametrize(
    ("asked", "compared", "met"),
    [
        (Better(metric="log_loss"), COMPARED, True),
        (Better(metric="log_loss", margin=0.005), COMPARED, True),
        (Better(metric="log_loss", margin=0.015), COMPARED, False),
        (Better(metric="log_loss"), dataclasses.replace(COMPARED, high=0.0), False),
        (Better(metric="log_loss"), dataclasses.replace(COMPARED, other="4"), False),
        (Better(metric="brier"), COMPARED, False),
        (Better(metric="log_loss", data=DATA), COMPARED, True),
        (Better(metric="log_loss", data="e" * 64), COMPARED, False),
        (Better(metric="log_loss"), dataclasses.replace(COMPARED, identical=True), False),
        (
            Better(metric="log_loss", kind="non-inferior", margin=0.01),
            dataclasses.replace(COMPARED, difference=0.001, high=0.009),
            True,
        ),
        (
            Better(metric="log_loss", kind="non-inferior", margin=0.01),
            dataclasses.replace(COMPARED, difference=0.001, high=0.011),
            False,
        ),
    ],
)
def test_better_than_the_holder(asked: Better, compared: Compared, met: bool) -> None:
    assert (reasons(rule(asked), [said(compared)]) == []) is met


def test_where_nobody_holds_the_alias_there_is_nothing_to_be_better_than() -> None:
    alone = dataclasses.replace(SUBJECT, champion=None)
    assert reasons(rule(Better(metric="log_loss")), [], alone) == []


def test_approvals_are_of_named_people_and_not_of_who_registered() -> None:
    approval = CONTENTS["approval"]
    asked = rule(Approve(by=("ann", "bob"), people=2), signed_by=("ci",))
    both = [said(approval, "ann"), said(approval, "bob")]
    assert reasons(asked, both) == []
    assert "by ann; 2 of" in reasons(asked, [*both[:1], *both[:1]])[0]
    assert "nobody" in reasons(asked, [said(approval, "ci")])[0]
    by_bob = dataclasses.replace(SUBJECT, registered_by="Bob")
    assert "Bob registered it" in reasons(asked, both, by_bob)[0]


def test_an_order_counts_once_against_this_holder() -> None:
    order = Order(action="rollback", alias="champion", champion="5", reason="drift")
    attested = Attested.read([said(order)], SUBJECT, TRUSTED, NOW)
    found = rollback_order(SUBJECT, attested, [], True)
    assert found is not None
    assert rollback_order(SUBJECT, attested, [found.digest], True) is None
    assert rollback_order(SUBJECT, attested, [], False) is None
    other = dataclasses.replace(SUBJECT, champion="6")
    assert rollback_order(other, attested, [], True) is None
    assert rollback_order(dataclasses.replace(SUBJECT, alias="live"), attested, [], True) is None


def test_the_glass_is_broken_by_those_the_policy_names_within_the_hour() -> None:
    order = Order(action="break-glass", alias="champion", champion="5", reason="outage")
    lets = Policy.from_values({"version": 2, "rules": [], "break_glass": {"by": ["ann"]}})
    by_ann, by_bob = ([said(order, who)] for who in ("ann", "bob"))
    assert broken_glass(lets, SUBJECT, Attested.read(by_ann, SUBJECT, TRUSTED, NOW), NOW, [])
    assert not broken_glass(lets, SUBJECT, Attested.read(by_bob, SUBJECT, TRUSTED, NOW), NOW, [])
    late = NOW + timedelta(hours=2)
    assert not broken_glass(lets, SUBJECT, Attested.read(by_ann, SUBJECT, TRUSTED, late), late, [])
    never = Policy.from_values({"version": 2, "rules": []})
    assert not broken_glass(never, SUBJECT, Attested.read(by_ann, SUBJECT, TRUSTED, NOW), NOW, [])


def test_a_rule_that_nobody_can_meet_is_said() -> None:
    asks = Policy.from_values(
        {"version": 2, "rules": [{"name": "r", "require": ["tests"], "signed_by": ["ci", "eve"]}]}
    )
    assert unmeetable(asks, TRUSTED) == [
        "NOBODY CAN MEET r: signer eve has no key in .moola/trusted"
    ]
    revoked = dataclasses.replace(TRUSTED, revoked=frozenset(TRUSTED.keys))
    assert len(unmeetable(asks, revoked)) == 2
