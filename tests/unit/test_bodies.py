"""Bodies of `moola serve`: what is read alike, what is refused, and what reading may take."""

from __future__ import annotations

import asyncio
import io
import json

import numpy as np
import pytest

from moola.errors import BadInput
from moola.serving.bodies import CSV, JSON, NPZ, BodyLimits, TooLarge, read_question
from moola.serving.inputs import window_columns
from moola.serving.readers import Readers
from moola.serving.replies import RefusedRequest

T = 3
LIMITS = BodyLimits(window_bars=T, max_windows=5, max_bytes=1 << 20)
X = np.arange(1, 25, dtype=np.float32).reshape(2, T, 4)
X[..., 1], X[..., 2] = 100, 0.5
NAMES = window_columns(T)
ROWS = X.reshape(2, -1).tolist()


def read(content: object, content_type: str = JSON) -> np.ndarray:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_question(content_type, body, {}, LIMITS).X


def csv(*, names: list[str] = NAMES, end: str = "\n", quote: str = "") -> bytes:
    lines = [names, *([str(value) for value in row] for row in ROWS)]
    return end.join(",".join(f"{quote}{cell}{quote}" for cell in line) for line in lines).encode()


def records(*names: str) -> dict:
    rows = [dict(zip(names, row, strict=True)) for row in ROWS]
    return {"dataframe_records": rows}


SAME = {
    "split": {"dataframe_split": {"columns": NAMES, "index": [0, 1], "data": ROWS}},
    "window, flat": {"dataframe_split": {"columns": ["window"], "data": [[row] for row in ROWS]}},
    "window, by bars": {
        "dataframe_split": {"columns": ["window"], "data": [[x] for x in X.tolist()]}
    },
    "records": records(*NAMES),
    "records of one column": {"dataframe_records": [{"window": row} for row in ROWS]},
}


@pytest.mark.parametrize("name", list(SAME))
def test_tables_in_json_are_the_same_windows(name: str) -> None:
    np.testing.assert_array_equal(read(SAME[name]), X)


@pytest.mark.parametrize(
    "body",
    [
        csv(),
        csv(end="\r\n"),
        csv(end="\r"),
        csv(quote='"'),
        b"\xef\xbb\xbf" + csv(),
        b"\n" + csv() + b"\n\n",
    ],
    ids=["plain", "CRLF", "CR", "quoted", "BOM", "empty lines around"],
)
def test_csv_is_read_however_it_was_written(body: bytes) -> None:
    np.testing.assert_array_equal(read(body, CSV), X)


def test_columns_come_in_any_order() -> None:
    turned = NAMES[::-1]
    rows = [row[::-1] for row in ROWS]
    np.testing.assert_array_equal(read({"dataframe_split": {"columns": turned, "data": rows}}), X)
    lines = "\n".join(",".join(map(str, row)) for row in [turned, *rows])
    np.testing.assert_array_equal(read(lines.encode(), CSV), X)


def test_npz_of_either_order() -> None:
    for values in (X, np.asfortranarray(X), X.astype(">f8")):
        file = io.BytesIO()
        np.savez(file, X=values)
        np.testing.assert_array_equal(read(file.getvalue(), NPZ), X)


REFUSED = {
    "true for a price": {"dataframe_split": {"columns": NAMES, "data": [[True] * 12]}},
    "text for a price": {"dataframe_split": {"columns": NAMES, "data": [["1"] * 12]}},
    "a number beyond floats": {"dataframe_split": {"columns": NAMES, "data": [[10**400] * 12]}},
    "a row too short": {"dataframe_split": {"columns": NAMES, "data": [ROWS[0], ROWS[1][:-1]]}},
    "a name twice": {"dataframe_split": {"columns": [*NAMES[:-1], NAMES[0]], "data": ROWS}},
    "a further key": {"dataframe_split": {"columns": NAMES, "data": ROWS, "dtype": "f4"}},
    "records that differ": {"dataframe_records": [{"window": ROWS[0]}, {"windows": ROWS[1]}]},
    "a record has more": {"dataframe_records": [{"window": ROWS[0]}, {"window": 1, "b": 1}]},
    "no records": {"dataframe_records": []},
    "a bar more": {"dataframe_split": {"columns": window_columns(4), "data": [[1] * 16]}},
    "a hole": b",".join(name.encode() for name in NAMES) + b"\n" + b"1," * 11,
    "rows of two lengths": csv() + b"\n1,2,3",
    "an open quote": csv()[:-3] + b'"1',
    "underscores": csv()[:-3] + b"1_0",
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_no_table_of_windows_is_refused(name: str) -> None:
    content = REFUSED[name]
    with pytest.raises(BadInput):
        read(content, CSV if isinstance(content, bytes) else JSON)


def test_what_no_request_needs_is_counted_before_it_is_read() -> None:
    for unit, what in ((b"1,", "values"), (b"[]", "lists"), (b"{}", "objects")):
        with pytest.raises(TooLarge, match=f"holds 10000 {what}"):
            read(unit * 10_000)  # no JSON at all: it was not parsed


@pytest.mark.medium
def test_a_reader_out_of_memory_says_so_and_goes_on() -> None:
    wide = BodyLimits(window_bars=T, max_windows=10**8, max_bytes=1)
    many = b'{"inputs":[' + b"1.5," * 12_000_000 + b"1]}"  # 32 bytes a number, once read

    async def ask() -> None:
        readers = Readers(max_bytes=1, seconds=60, max_waiting=1)
        try:
            await readers.ready()
            with pytest.raises(RefusedRequest, match="more than memory") as refused:
                await readers.read(JSON, many, {}, wide)
            assert refused.value.status == 413
            found = await readers.read(
                JSON, json.dumps({"inputs": X.tolist()}).encode(), {}, LIMITS
            )
            np.testing.assert_array_equal(found.X, X)
        finally:
            readers.close()

    asyncio.run(ask())


@pytest.mark.medium
def test_a_queue_of_bodies_has_an_end() -> None:
    body = json.dumps({"inputs": X.tolist()}).encode()

    async def ask() -> list[object]:
        readers = Readers(max_bytes=1 << 20, seconds=60, max_waiting=2)
        try:
            await readers.ready()
            asked = [readers.read(JSON, body, {}, LIMITS) for _ in range(5)]
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            readers.close()

    answers = asyncio.run(ask())
    assert [type(answer).__name__ for answer in answers] == ["Question"] * 3 + [
        "RefusedRequest"
    ] * 2
    assert {answer.status for answer in answers[3:]} == {503}
