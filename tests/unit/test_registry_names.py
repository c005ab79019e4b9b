"""Names of sets and splits: none leads out of the registry, and an absent one names those there."""

from __future__ import annotations

import pytest

from moola.errors import DataError


@pytest.mark.parametrize(
    "name",
    ["../v1", "labeled_windows/../v1", "labeled_windows/..", "labeled_windows/.v1", "other/v1",
     "labeled_windows/a/b", "labeled_windows/", "labeled_windows/a\\b", "", "/etc/passwd",
     "labeled_windows/a\0b"],
)  # fmt: skip
def test_names_that_lead_out_are_refused(registry, name):
    with pytest.raises(DataError, match="set name is"):
        registry.load_set(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../fwd", "split name is"),
        ("splits/../../x.json", "split name is"),
        (".hidden", "split name is"),
        ("", "split name is"),
        ("random", "put future bars into training"),
        ("stratified", "put future bars into training"),
        ("splits/random.json", "put future bars into training"),
        ("nothing", "one of: fwd"),
    ],
)
def test_split_names_are_checked(registry, name, message):
    with pytest.raises(DataError, match=message):
        registry.load_split(name)


def test_an_absent_set_names_those_there(registry):
    with pytest.raises(DataError, match=r"labeled_windows/v8 does not exist.*one of: v1"):
        registry.load_labeled("v8", "fwd")
    with pytest.raises(DataError, match="a synthetic set is asked for, but none is named"):
        registry.load_labeled("v1", "fwd", include_synthetic=True)
