"""Every judgement and search on the same validation windows is counted, and nobody else's word."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moola.errors import BadInput
from moola.promotion.evidence.keys import TrustedKeys, key_id
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.belief import signed_look
from moola.promotion.ledger.client_events import read_event
from moola.promotion.ledger.entry import Draft
from moola.promotion.ledger.local import LocalLedger
from moola.promotion.ledger.tries import Tries, count_tries, note_judgement, note_search

KEY = Ed25519PrivateKey.generate()
TRUSTED = TrustedKeys(keys={key_id(KEY.public_key()): KEY.public_key()})
WINDOWS = {"source": "btc", "first_bar": "2019-05", "last_bar": "2019-08", "split_sha256": "a" * 64}
ABOUT = {"name": "M", "who": "ann", "key": KEY}

Judge = Callable[..., Tries]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return LocalLedger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def judge(ledger: Ledger) -> Judge:
    def ask(*digests: str, **windows: str) -> Tries:
        return note_judgement(ledger, {**WINDOWS, **windows}, digests, **ABOUT, keys=TRUSTED)

    return ask


def test_what_is_judged_again_is_no_new_judgement(judge: Judge, ledger: Ledger) -> None:
    assert judge("a" * 64) == Tries(judgement=1)
    assert judge("b" * 64, "c" * 64) == Tries(judgement=2)
    assert judge("c" * 64, "b" * 64) == Tries(judgement=2)
    assert judge("a" * 64) == Tries(judgement=1)
    assert judge("c" * 64) == Tries(judgement=3)
    assert len(ledger.entries()) == 3


def test_other_bars_are_other_tries(judge: Judge) -> None:
    judge("a")
    later = {"first_bar": "2019-09", "last_bar": "2019-12", "split_sha256": "b" * 64}
    assert judge("b", **later) == Tries(judgement=1)
    assert judge("b", source="eur", split_sha256="c" * 64) == Tries(judgement=1)
    overlapping = {"first_bar": "2019-08", "last_bar": "2019-12", "split_sha256": "d" * 64}
    assert judge("e", **overlapping) == Tries(judgement=3)


def test_a_search_counts_before_it_has_found_anything(judge: Judge, ledger: Ledger) -> None:
    assert judge("a") == Tries(judgement=1)
    note_search(ledger, WINDOWS, search="s" * 64, tried=20, **ABOUT)
    note_search(ledger, WINDOWS, search="s" * 64, tried=30, **ABOUT)  # goes on
    note_search(ledger, WINDOWS, search="t" * 64, tried=5, **ABOUT)
    assert judge("best of them") == Tries(judgement=2, searched=35)
    assert judge("a") == Tries(judgement=1)  # judged before anybody searched


def test_only_the_gate_runner_s_word_counts(judge: Judge, ledger: Ledger) -> None:
    stranger = Ed25519PrivateKey.generate()
    for number in range(50):
        note_search(ledger, WINDOWS, search=str(number), tried=999, **{**ABOUT, "key": stranger})
    honest = ledger.entries(events=("tried",))[0]
    changed = {**honest.payload, "searched": "0:7"}
    ledger.signing(KEY).append(replace(_draft(honest.payload), payload=changed))
    assert judge("a") == Tries(judgement=1)


def test_a_try_is_no_look_at_the_locked_windows(judge: Judge, ledger: Ledger) -> None:
    judge("a")
    payload = ledger.entries(events=("tried",))[0].payload
    ledger.signing(KEY).append(replace(_draft(payload), event="test_look", version_to="1"))
    assert ledger.looks_at(WINDOWS, TRUSTED) == []


@pytest.mark.parametrize("text", ["", "x", "x:", "x:-5", "x:1e3", ":::"])
def test_a_number_that_is_none_counts_nothing(text: str) -> None:
    assert count_tries([{"searched": text}], "a") == Tries(judgement=1)


def test_a_client_says_one_thing_about_its_tries() -> None:
    payload = signed_look(
        {**WINDOWS, "searched": "s:3"},
        name="M", version=None, evidence_digest=None, ledger_id="0" * 64, key=KEY,
    )  # fmt: skip
    body = {"event": "tried", "who": "ann", "name": "M", "reason": "r"}
    assert read_event(_json({**body, "payload": payload})).payload == payload
    for more in ({"judged": "a"}, {"version": "1"}, {"searched": 3}, {"market": "x" * 20_000}):
        with pytest.raises(BadInput, match=r"judged|version|searched|market"):
            read_event(_json({**body, "payload": {**payload, **more}}))


def _draft(payload: dict) -> Draft:
    return Draft(event="tried", who="eve", name="M", reason="r", payload=payload)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
