"""Attempts to get something unproven into Production, or to change what is there.

Each attempt gets the `World` and returns what the server answered, as (status, text); a refusal by
the Python client comes back as (403, message). `test_guard.py` runs them and checks after each that
registry, files and ledger are as before; `test_guard_databases.py` does so on every database.
"""

from __future__ import annotations

import attacks_by_evidence
import attacks_elsewhere
import attacks_on_champion
import attacks_on_identity
import attacks_on_production
from guard_world import Attack, World

PARTS = (
    attacks_on_production,
    attacks_by_evidence,
    attacks_on_champion,
    attacks_on_identity,
    attacks_elsewhere,
)
ATTACKS: dict[str, Attack] = {name: act for part in PARTS for name, act in part.ATTACKS.items()}
SAYS = {name: words for part in PARTS for name, words in part.SAYS.items()}
assert len(ATTACKS) == sum(len(part.ATTACKS) for part in PARTS), "two attacks have one name"


def attempt(world: World, name: str) -> None:
    """Try an attack: it must be refused, in words."""
    status, text = ATTACKS[name](world)
    assert status >= 400, (status, text)
    assert status != 500, text
    assert SAYS.get(name, "") in text
    assert "Traceback" not in text


def must_be_refused(world: World, name: str) -> None:
    """Try an attack: it must be refused and leave everything as it was."""
    attempt(world, name)
    assert world.state() == world.before
