"""JSON from strangers has one meaning and known bounds, or is refused with a sentence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moola.errors import BadInput
from moola.hashing import canonical_json
from moola.promotion.ledger.bounded_json import MAX_CHARS, MAX_DEPTH, read_json
from moola.promotion.ledger.content import EVENTS, Unreadable, content_of, read_payload
from moola.promotion.ledger.entry import Draft, Entry, plain_text, plain_version, printable

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18) + 1, 10**18 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
)  # fmt: skip


@given(PLAIN)
def test_plain_values_are_read_as_they_were_written(value: object) -> None:
    assert read_json(canonical_json(value)) == value


@given(st.text() | PLAIN.map(json.dumps))
def test_whatever_is_stored_is_read_or_refused(text: str) -> None:
    payload = read_payload(text)
    if isinstance(payload, Unreadable):
        assert payload.why.startswith("its payload")
    else:
        for event in (*EVENTS, "party"):
            content_of(event, "1", payload)


@given(st.text(), st.text(), st.text())
def test_a_draft_is_refused_or_read_back_as_it_was(who: str, name: str, reason: str) -> None:
    try:
        draft = Draft(event="refusal", who=who, name=name, reason=reason)
    except BadInput:
        return
    assert draft.reason == printable(reason)
    draft.name.encode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * (MAX_DEPTH + 1), "nested 33 deep"),
        ('"' + "x" * MAX_CHARS + '"', "at most 262144 are read"),
        ("1" * 19, "an integer of 19 digits"),
        ("1e400", "not finite"),
        ("NaN", "holds NaN"),
        ("-Infinity", "holds -Infinity"),
        ('{"a": 1, "a": 1}', "a key twice"),
        ("{", "is no JSON"),
        ("", "is no JSON"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_json(text)
    assert read_json('"[[[["') == "[[[["  # brackets in a text are no depth


def test_an_entry_of_wrong_types_is_an_entry_and_not_believed() -> None:
    row = {"seq": "x", "at": 5, "event": None, "name": b"\xff", "text": 1.5, "entry_hash": []}
    entry = Entry.from_row(row)
    assert entry.seq == 0
    assert entry.entry_hash != entry.computed_hash()
    assert isinstance(entry.content, Unreadable)
    assert entry.to_dict()["payload"] is None


def test_spellings() -> None:
    assert [plain_version(v) for v in (7, "7", "007", " 7\n")] == ["7"] * 4
    assert printable("a\x1b[2J\u202eb\n") == r"a\x1b[2J\u202eb\n"
    for odd in ("\x00", "\ud800"):
        with pytest.raises(BadInput, match="control character"):
            plain_text("who", odd, control=True)
