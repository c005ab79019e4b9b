"""Messages are one printable line, whatever foreign words stand in them."""

from __future__ import annotations

import pytest

from moola.errors import ConfigError, one_line, printable, printable_lines, shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("as it is: Größe, 大きさ", "as it is: Größe, 大きさ"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\u202etxt\u2066", r"\u202etxt\u2066"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\ud800", r"\ud800"),
        ("\u2028\u200b", r"\u2028\u200b"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, said: str) -> None:
    assert printable(text) == said
    assert str(ConfigError(f"it is {text}")) == f"it is {said}."
    assert one_line(ValueError(f"x{text}")).isprintable()


def test_lines_stay_lines() -> None:
    assert printable_lines("a\n\x1bb") == "a\n\\x1bb"


def test_a_strangers_value_is_cut_and_a_collection_is_only_named() -> None:
    assert shown("x" * 100) == "'" + "x" * 80 + "' [...]"
    assert shown(["x"] * 10**6) == "a value of type list"
    assert shown(10**5000) == "a number of 16610 bits"
    assert [shown(v) for v in (None, True, 5e-324, 3)] == ["None", "True", "5e-324", "3"]
