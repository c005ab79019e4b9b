"""What the follower does while registry and ledger do not name one version."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from moola.errors import Refused, TrackingError, Unsettled
from moola.serving.follow import Follower, Served


class Scripted:
    """A source that answers what it was told to; an exception is raised."""

    def __init__(self) -> None:
        self.answer: str | Exception | None = "1"
        self.objection: Exception | None = None

    def wanted(self) -> str | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def check(self, served: Served) -> None:
        if self.objection is not None:
            raise self.objection

    def load(self, version: str) -> Served:
        return Served(scorer=SimpleNamespace(), version=version, sha256="0" * 64, proven=True)


class Watched:
    def __init__(self) -> None:
        self.source, self.refused = Scripted(), []
        self.follower = Follower(
            self.source,
            poll_seconds=3600,
            on_refusal=lambda version, reason: self.refused.append((version, reason)),
        )
        self.follower.look()

    def looks(self, num: int) -> list[str | None]:
        return [self.look() for _ in range(num)]

    def look(self) -> str | None:
        self.follower.look()
        return self.follower.current and self.follower.current.version


def test_a_disagreement_that_lasts_is_reported_and_the_version_before_answers() -> None:
    watched = Watched()
    watched.source.answer = Unsettled("alias 1, stage 2")
    assert (watched.looks(2), watched.refused) == (["1", "1"], [])
    assert watched.looks(5) == ["1"] * 5
    assert watched.refused == [("disputed", "alias 1, stage 2.")]  # again after a pause only


def test_a_move_that_ends_is_not_reported_and_the_next_has_as_much_time() -> None:
    watched = Watched()
    for version in ("2", "3"):
        watched.source.answer = Unsettled("under way")
        watched.looks(2)
        watched.source.answer = version
        assert watched.look() == version
    assert watched.refused == []


@pytest.mark.parametrize("objection", [Refused("revoked"), Unsettled("the ledger is past it")])
def test_in_a_disagreement_that_lasts_what_no_longer_counts_stops(objection: Refused) -> None:
    watched = Watched()
    watched.source.answer, watched.source.objection = Unsettled("alias 1, stage 2"), objection
    assert watched.looks(4) == ["1", "1", None, None]
    assert watched.refused == [("disputed", str(objection))]


def test_a_check_that_cannot_be_made_takes_nothing_away() -> None:
    watched = Watched()
    watched.source.objection = TrackingError("may not read")
    with pytest.raises(TrackingError):
        watched.look()
    assert watched.follower.current.version == "1"
