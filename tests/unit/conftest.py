"""Fixtures of several unit test modules."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from data_kit import small_registry

from moola.config.data import WindowRecipe
from moola.data.store.data_store import DataStore


@pytest.fixture(scope="session")
def built_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small registry with one labelled set, one corpus and one split; take copies of it."""
    root = tmp_path_factory.mktemp("registry") / "data"
    registry = small_registry(root)
    corpus = WindowRecipe(
        source="walk", window_bars=12, step_bars=1, label="none", horizon_bars=0,
        end="2020-01-08T00:00",
    )  # fmt: skip
    registry.build_set("unlabeled_windows/v1", corpus)
    return root


@pytest.fixture
def registry(built_registry: Path, tmp_path: Path) -> DataStore:
    """A copy of the small registry, to tamper with."""
    shutil.copytree(built_registry, tmp_path / "data")
    return DataStore(tmp_path / "data")
