"""Forms of windows, conformal sets, batching and following, without a server."""

from __future__ import annotations

import asyncio
import threading
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moola
from moola.config.serving import ServeConfig
from moola.errors import BadInput, ConfigError, Refused, TrackingError
from moola.serving import pyfunc
from moola.serving.batching import Batcher, Overloaded
from moola.serving.follow import Follower, Served
from moola.serving.inputs import from_lists, window_columns, windows_of
from moola.serving.kept import Answered, PredictionLog
from moola.serving.replies import MESSAGE_LIMIT, error_body


class Counting:
    """A scorer whose logits are the first price; it can be held up."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.may_run = threading.Event()

    def logits(self, X: np.ndarray) -> np.ndarray:
        self.calls.append(len(X))
        assert self.may_run.wait(10)
        if (X < 0).any():
            raise RuntimeError("negative")
        return X[:, 0, :2].astype(np.float64)


def window(value: float, num: int = 1) -> np.ndarray:
    return np.full((num, 3, 4), value, dtype=np.float32)


def make_batcher(**changes: int) -> tuple[Batcher, list[int]]:
    sizes: list[int] = []
    settings = {"batch_windows": 4, "max_waiting": 5, **changes}
    return Batcher(on_batch=sizes.append, **settings), sizes


async def ask_all(batcher: Batcher, scorer: Counting, nums: list[int]) -> list:
    """Ask for windows of value 0, 1, ...; the model runs once all are waiting."""
    tasks = [
        asyncio.create_task(batcher.logits(scorer, window(k, num))) for k, num in enumerate(nums)
    ]
    while not scorer.calls:
        await asyncio.sleep(0)
    scorer.may_run.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_waiting_requests_share_a_call_and_get_their_own_answer() -> None:
    batcher, sizes = make_batcher()
    scorer = Counting()
    answers = asyncio.run(ask_all(batcher, scorer, [1, 1, 2, 1]))
    batcher.close()
    assert [len(a) for a in answers] == [1, 1, 2, 1]
    assert [float(a[0, 0]) for a in answers] == [0.0, 1.0, 2.0, 3.0]
    assert scorer.calls == sizes == [4, 1]


def test_a_large_request_runs_alone_and_a_queue_has_an_end() -> None:
    batcher, sizes = make_batcher(max_waiting=2)
    answers = asyncio.run(ask_all(batcher, Counting(), [9, 1, 1]))
    batcher.close()
    assert isinstance(answers[2], Overloaded)
    assert [len(a) for a in answers[:2]] == [9, 1]
    assert sizes == [9, 1]


def test_a_failing_call_fails_its_requests_only() -> None:
    batcher, _ = make_batcher()
    scorer = Counting()
    scorer.may_run.set()

    async def ask() -> list:
        bad = await asyncio.gather(batcher.logits(scorer, window(-1.0)), return_exceptions=True)
        return [*bad, await batcher.logits(scorer, window(2.0))]

    failed, answer = asyncio.run(ask())
    batcher.close()
    assert isinstance(failed, RuntimeError)
    assert answer[0, 0] == 2.0


class Registry:
    """A source that does what it is told."""

    def __init__(self) -> None:
        self.version: str | None = "1"
        self.refused: set[str] = set()
        self.away = False
        self.loads: list[str] = []

    def wanted(self) -> str | None:
        if self.away:
            raise TrackingError("away")
        return self.version

    def check(self, served: Served) -> None:
        if served.version in self.refused:
            raise Refused("no longer")

    def load(self, version: str) -> Served:
        self.loads.append(version)
        if version in self.refused:
            raise Refused("tampered")
        return Served(scorer=None, version=version, sha256="0", proven=True)


def test_a_refused_version_leaves_the_old_one_and_is_not_loaded_at_every_look() -> None:
    registry = Registry()
    registry.refused.add("2")
    follower = Follower(registry, poll_seconds=3600)
    follower.start()
    registry.version = "2"
    follower.look()
    follower.look()
    assert follower.current.version == "1"
    assert registry.loads == ["1", "2"]
    registry.version = "3"
    follower.look()
    assert follower.current.version == "3"
    registry.away = True
    with pytest.raises(TrackingError):
        follower.look()
    assert follower.current.version == "3"
    registry.away = False
    registry.refused.add("3")
    follower.look()
    assert follower.current is None
    follower.stop()


def test_nothing_to_serve_is_refused_at_the_start() -> None:
    registry = Registry()
    registry.version = None
    with pytest.raises(Refused, match="nothing is in Production"):
        Follower(registry, poll_seconds=1).start()


def test_lists_and_tables_become_the_same_windows() -> None:
    X = np.arange(2 * 3 * 4, dtype=np.float64).reshape(2, 3, 4)
    table = pd.DataFrame(X.reshape(2, -1), columns=window_columns(3))
    assert (from_lists(X.tolist()) == X).all()
    assert (windows_of(table) == X).all()
    assert (windows_of(table[table.columns[::-1]]) == X).all()
    for cells in (X.tolist(), list(X.reshape(2, -1)), [[list(bar) for bar in x] for x in X]):
        assert (windows_of(pd.DataFrame({"window": cells})) == X).all()
    assert window_columns(2)[:5] == ["open_0", "high_0", "low_0", "close_0", "open_1"]


@pytest.mark.parametrize(
    "values",
    [[], [[]], [[[]]], [[[1, 2, 3, "4"]]], [[[1, 2, 3, None]]], [["abcd"]], "abcd", [1], {"a": 1},
     [[[1, 2, 3, 4]], [[1, 2, 3, 4]] * 2], [[[1, 2, 3, 10**400]]], [{"a": 1, "b": 2}], None, 7,
     *(pd.DataFrame({"window": [cell]}) for cell in (1.0, "abcd", None, [], [1.0] * 5, ["1"] * 4))],
)  # fmt: skip
def test_lists_of_another_form_are_refused(values: object) -> None:
    with pytest.raises(BadInput):
        windows_of(values)


@given(st.text(max_size=2000))
def test_a_message_is_one_line_of_bounded_length(message: str) -> None:
    import orjson

    line = orjson.loads(error_body("BAD_REQUEST", message.encode("utf-8", "replace").decode(), "1"))
    assert len(line["message"]) <= MESSAGE_LIMIT
    assert "\n" not in line["message"]


@pytest.mark.parametrize("wrong", [{"port": 0}, {"workers": 0}, {"poll_seconds": 0.0}])
def test_settings_are_checked(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        ServeConfig(**wrong)


def test_an_answer_that_cannot_be_kept_does_not_end_the_keeping(tmp_path: Path) -> None:
    X = np.full((2, 12, 4), 100.0, dtype=np.float32)
    log = PredictionLog(tmp_path)
    log.add(Answered(request_id="odd", X=X, columns={"label": [0]}))  # one label, two windows
    log.add(Answered(request_id="good", X=X, columns={"label": [0, 1]}))
    log.close()
    (written,) = tmp_path.glob("predictions-*.parquet")
    assert pq.read_table(written).column("request_id").to_pylist() == ["good", "good"]


def test_moola_states_its_version_where_it_runs_from_its_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`mlflow run` puts ``src`` on the path and installs nothing of that name."""

    def version(package: str) -> str:
        if package in {"moola", "moola-ml"}:
            raise metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    assert pyfunc.requirements()[:2] == [f"moola-ml=={moola.__version__}", "torch==1.0"]


def test_versions_that_ask_for_the_former_name_stay_valid() -> None:
    from moola.promotion.versions.packaging_words import _are_pins

    lines = pyfunc.requirements()
    assert _are_pins(lines)
    assert _are_pins(["moola==0.1.0", *lines[1:]])
    assert not _are_pins(["moola-x==0.1.0", *lines[1:]])
    assert not _are_pins(["moola==0.1.0", *lines])
