"""Going back to an earlier champion, the challenger, and who was in Production when."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from promotion_kit import NAME, Bench, trusting

from moola.promotion.decision import PromotionDenied
from moola.promotion.rollback import history, set_challenger


def test_rollback_goes_back_step_by_step_and_verifies_again(bench: Bench) -> None:
    for version in ("1", "2", "3"):
        bench.promote(version)
    assert bench.rollback().version == "2"
    assert bench.champion() == "2"
    bench.change_files()
    with pytest.raises(PromotionDenied, match="changed since it was promoted"):
        bench.rollback()
    assert bench.rollback(to="3").champion_before == "2"
    assert bench.champion() == "3"
    assert bench.stages() == {"1": "Archived", "2": "Archived", "3": "Production"}
    with pytest.raises(PromotionDenied, match="unknown key"):
        bench.rollback(to="2", trusted_keys=trusting(Ed25519PrivateKey.generate()))
    assert bench.champion() == "3"


def test_rollback_needs_an_earlier_champion(bench: Bench) -> None:
    with pytest.raises(PromotionDenied, match="no earlier version"):
        bench.rollback()
    bench.promote("1")
    with pytest.raises(PromotionDenied, match="never held Production"):
        bench.rollback(to="2")
    with pytest.raises(PromotionDenied, match="already holds"):
        bench.rollback(to="1")


def test_challenger(bench: Bench) -> None:
    bench.promote("1")
    for version in ("2", "3"):
        set_challenger(
            client=bench.client, ledger=bench.ledger, name=NAME, version=version, who="ann"
        )
    assert bench.stages() == {"1": "Production", "2": "Archived", "3": "Staging"}
    assert str(bench.client.get_model_version_by_alias(NAME, "challenger").version) == "3"
    with pytest.raises(PromotionDenied, match="it holds Production"):
        set_challenger(client=bench.client, ledger=bench.ledger, name=NAME, version="1", who="a")


def test_history_tells_who_was_in_production(bench: Bench) -> None:
    bench.promote("1")
    between = datetime.now(UTC)
    bench.promote("2")
    assert history(bench.ledger, NAME, between).champion == "1"
    now = history(bench.ledger, NAME)
    assert (now.champion, len(now.entries)) == ("2", 6)
