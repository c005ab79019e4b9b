"""Evidence: what is signed, what breaks a signature, which files a digest covers."""

from __future__ import annotations

import compileall
import dataclasses
import hashlib
import importlib.util
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moola.config.policy import Policy
from moola.config.promotion import (
    PromotionPolicy,
)
from moola.errors import ConfigError, PromotionRefused
from moola.promotion.evidence.attestation import (
    Evidence,
    SignedEvidence,
    evidence_from_report,
    sign,
    verify,
)
from moola.promotion.evidence.checks import check_evidence
from moola.promotion.evidence.keys import (
    TrustedKeys,
    key_id,
)
from moola.promotion.versions.compiled import plain_caches
from moola.promotion.versions.digest import model_files_digest

NOW = datetime(2024, 5, 1, tzinfo=UTC)
KEY = Ed25519PrivateKey.generate()
TRUSTED = TrustedKeys(keys={key_id(KEY.public_key()): KEY.public_key()})


def report(**candidate) -> dict:
    return {
        "schema_version": 1,
        "candidate": {
            "name": "M",
            "version": "3",
            "run_id": "r" * 32,
            "model_sha256": "d" * 64,
            "model": "enhanced_simple_lstm",
            "uses_encoder": False,
            "uses_synthetic": False,
            **candidate,
        },
        "data": {"split": "s", "split_sha256": "e" * 64, "num_windows": 759, "seeds": [0, 1]},
        "thresholds_sha256": "f" * 64,
        "gates": [
            {"gate": g, "verdict": "passed", "figures": {"x": 0.5}, "reasons": []} for g in range(3)
        ],
        "created_at": NOW.isoformat(),
    }


def evidence(source: dict | None = None, key: Ed25519PrivateKey = KEY) -> Evidence:
    return evidence_from_report(
        source or report(), gates_run_id="g" * 32, policy=PromotionPolicy(), key=key, now=NOW
    )


def test_signed_evidence_survives_storage() -> None:
    signed = sign(evidence(), KEY)
    again = SignedEvidence.from_json(signed.to_json())
    assert again == signed
    assert verify(again, TRUSTED) == evidence()
    assert verify(again, TRUSTED).digest == evidence().digest


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Evidence)])
def test_any_changed_field_breaks_the_signature(field: str) -> None:
    signed = sign(evidence(), KEY)
    payload = json.loads(signed.payload)
    payload[field] = "changed"
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    with pytest.raises(PromotionRefused, match="changed after signing"):
        verify(dataclasses.replace(signed, payload=text), TRUSTED)


def test_unknown_and_revoked_keys_do_not_count() -> None:
    other = Ed25519PrivateKey.generate()
    signed = sign(evidence(key=other), other)
    with pytest.raises(PromotionRefused, match="unknown key"):
        verify(signed, TRUSTED)
    with pytest.raises(PromotionRefused, match="changed after signing"):
        verify(dataclasses.replace(signed, key_id=key_id(KEY.public_key())), TRUSTED)
    revoked = dataclasses.replace(TRUSTED, revoked=frozenset(TRUSTED.keys))
    with pytest.raises(PromotionRefused, match="revoked key"):
        verify(sign(evidence(), KEY), revoked)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"payload": 1}', "[" * 5000])
def test_unreadable_evidence_is_refused(text: str) -> None:
    with pytest.raises(PromotionRefused, match="not readable"):
        SignedEvidence.from_json(text)


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), -float("inf")])
def test_a_figure_that_is_not_finite_is_never_signed(figure: float) -> None:
    source = report()
    source["gates"][1]["figures"]["log_loss"] = figure
    with pytest.raises(PromotionRefused, match="finite figures"):
        evidence(source)
    with pytest.raises(PromotionRefused, match="cannot be signed"):
        sign(dataclasses.replace(evidence(), promotion_figures={"x": figure}), KEY)


@pytest.mark.parametrize("field", ["candidate", "data", "gates", "thresholds_sha256"])
def test_a_report_that_lacks_a_field_is_never_signed(field: str) -> None:
    source = report()
    del source[field]
    with pytest.raises(PromotionRefused, match=f"KeyError: '{field}'"):
        evidence(source)


@pytest.mark.parametrize(
    "data", [{"split": "s"}, *({"num_windows": n} for n in (None, "759", True, 3.7, float("nan")))]
)
def test_a_report_that_states_no_number_of_windows_is_never_signed(data: dict) -> None:
    with pytest.raises(PromotionRefused, match=r"cannot be signed \(.*num_windows"):
        evidence({**report(), "data": data})


def check(item: Evidence, *, policy: PromotionPolicy | None = None, **changes) -> list[str]:
    subject = {"name": "M", "version": "3", "run_id": "r" * 32, "model_sha256": "d" * 64}
    now = changes.pop("now", NOW)
    return check_evidence(
        item, **{**subject, **changes}, policy=policy or PromotionPolicy(), now=now
    )


def test_evidence_carries_only_its_own_version() -> None:
    assert check(evidence()) == []
    assert "not version 4 of M" in check(evidence(), version="4")[0]
    assert "not version 3 of N" in check(evidence(), name="N")[0]
    assert "run" in check(evidence(), run_id=None)[0]
    assert "changed after the evaluation" in check(evidence(), model_sha256="0" * 64)[0]


def test_required_gates_follow_what_the_candidate_is_made_of() -> None:
    assert check(evidence(report(uses_encoder=True))) == [
        "gate 3 is absent, not passed",
        "gate 4 is absent, not passed",
    ]
    assert check(evidence(report(uses_synthetic=True))) == ["gate 5 is absent, not passed"]
    # Anything but a plain no is taken as yes.
    assert len(check(evidence(report(uses_encoder="false")))) == 2
    source = report()
    source["gates"][2]["verdict"] = "inconclusive"
    assert check(evidence(source)) == ["gate 2 is inconclusive, not passed"]


def test_policy_of_thresholds_and_age() -> None:
    old = PromotionPolicy(thresholds_sha256=("a" * 64,))
    assert "judged by thresholds" in check(evidence(), policy=old)[0]
    assert check(evidence(), policy=PromotionPolicy(thresholds_sha256=("a" * 64, "f" * 64))) == []
    fresh = PromotionPolicy(max_evidence_age_days=2)
    assert check(evidence(), policy=fresh, now=NOW + timedelta(days=2)) == []
    assert "2.5 days old" in check(evidence(), policy=fresh, now=NOW + timedelta(days=2.5))[0]
    assert check(evidence(), policy=fresh, now=None) == []


def test_age_counts_from_the_evaluation_and_never_from_the_future() -> None:
    fresh = PromotionPolicy(max_evidence_age_days=2)
    promotion = {"purpose": "promotion", "created_at": (NOW + timedelta(days=9)).isoformat()}
    signed_later = dataclasses.replace(evidence(), **promotion, evaluated_at=NOW.isoformat())
    assert check(signed_later, policy=fresh, now=NOW + timedelta(days=1)) == []
    assert "9.0 days old" in check(signed_later, policy=fresh, now=NOW + timedelta(days=9))[0]
    silent = dataclasses.replace(evidence(), **promotion)
    assert "no readable time of its evaluation" in check(silent, policy=fresh)[0]
    assert check(evidence(), policy=fresh, now=NOW - timedelta(minutes=4)) == []
    assert "in the future" in check(evidence(), policy=fresh, now=NOW - timedelta(minutes=6))[0]


def test_evidence_without_the_time_of_evaluation_keeps_the_digest_it_was_signed_with() -> None:
    signed = sign(evidence(), KEY)
    assert "evaluated_at" not in json.loads(signed.payload)
    assert verify(signed, TRUSTED).digest == hashlib.sha256(signed.payload.encode()).hexdigest()


@pytest.mark.parametrize(
    "values",
    [
        {"required_gates": []},
        {"required_gates": 0},
        {"models": "EnhancedSimpleLSTM"},  # taken letter by letter, it would guard no model
        {"promoters": "alice"},
        {"required_gates": [9]},
        {"thresholds_sha256": ["abc"]},
        {"protected_aliases": ["champion"]},
        {"max_evidence_age_days": float("nan")},
        {"max_body_mib": 0},
        {"gates": [1]},
    ],
)
def test_a_bad_policy_is_refused(values: dict) -> None:
    with pytest.raises(ConfigError):
        PromotionPolicy.from_mapping(values)


def test_a_policy_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        PromotionPolicy.from_yaml(tmp_path)


def test_aliases_are_protected_in_any_case() -> None:
    [rule] = Policy.for_ohlc(PromotionPolicy(protected_aliases=("production", "Live"))).rules
    assert all(rule.names_alias(a) for a in ("production", "PRODUCTION", "live", " Live "))
    assert not rule.names_alias("challenger")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "code").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}")
    (folder / "weights.safetensors").write_bytes(b"\0\1")
    (folder / "code" / "net.py").write_text("def f():\n    return lambda x: (x, 'a')\n")
    return folder


def test_digest_covers_names_and_bytes(model: Path) -> None:
    first = model_files_digest(model)
    (model / "registered_model_meta").write_text("model_name: M")
    assert model_files_digest(model) == first
    (model / "code" / "registered_model_meta").write_text("x")
    assert model_files_digest(model) != first
    (model / "code" / "registered_model_meta").unlink()
    (model / "weights.safetensors").rename(model / "weights2.safetensors")
    assert model_files_digest(model) != first
    (model / "weights2.safetensors").rename(model / "weights.safetensors")
    assert model_files_digest(model) == first
    (model / "weights.safetensors").write_bytes(b"\0\2")
    assert model_files_digest(model) != first


def test_compiled_files_count_unless_they_are_their_source(model: Path) -> None:
    first = model_files_digest(model)
    assert compileall.compile_dir(model / "code", quiet=2)
    compiled = model / "code" / "__pycache__" / f"net.{sys.implementation.cache_tag}.pyc"
    assert model_files_digest(model) == first
    other = model.parent / "net.py"
    other.write_text("def f():\n    return lambda x: (x, 'b')\n")
    header = compiled.read_bytes()[:16]
    compileall.compile_file(other, quiet=2)
    evil = other.parent / "__pycache__" / compiled.name
    compiled.write_bytes(header + evil.read_bytes()[16:])
    assert model_files_digest(model) != first
    compiled.write_bytes(b"junk")
    assert model_files_digest(model) != first


def test_made_up_files_beside_a_source_end_no_server(model: Path) -> None:
    """A tuple of 2^31 members in 5 bytes, and a source on which the compiler gives up."""
    cache = model / "code" / "__pycache__"
    cache.mkdir()
    header = importlib.util.MAGIC_NUMBER + bytes(12)
    names = {"huge": "x = 1\n", "deep": "-" * 300_000 + "1\n"}
    before = []
    for name, source in names.items():
        (model / "code" / f"{name}.py").write_text(source)
        before.append(model_files_digest(model))
        compiled = cache / f"{name}.{sys.implementation.cache_tag}.pyc"
        compiled.write_bytes(header + b"(\xff\xff\xff\x7f")
        before.append(model_files_digest(model))
    assert len(set(before)) == 4  # every file counts
    assert compileall.compile_file(model / "code" / "net.py", quiet=2)
    assert model_files_digest(model) == before[-1]


def test_compiled_files_are_read_by_another_process(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compileall.compile_dir(model / "code", quiet=2)
    monkeypatch.setattr("marshal.loads", lambda _data: pytest.fail("read in this process"))
    assert plain_caches(model) == {f"code/__pycache__/net.{sys.implementation.cache_tag}.pyc"}
    monkeypatch.setattr("sys.executable", "/no/such/python")
    assert plain_caches(model) == frozenset()


def test_links_and_folders_without_model_are_refused(model: Path, tmp_path: Path) -> None:
    (model / "more").symlink_to("/etc/hostname")
    with pytest.raises(PromotionRefused, match="more of the model is a symbolic link"):
        model_files_digest(model)
    with pytest.raises(PromotionRefused, match="is not a model"):
        model_files_digest(tmp_path)
