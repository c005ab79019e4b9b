"""Answers of `moola serve`, as JSON in MLflow's form or as an Arrow stream."""

from __future__ import annotations

import orjson
import pyarrow as pa

from moola.serving.bodies import ARROW, JSON
from moola.serving.scoring import Scores, WindowScorer

MESSAGE_LIMIT = 200


class RefusedRequest(Exception):
    """A request that is not answered: status, MLflow's error code, and why."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


def write_reply(scorer: WindowScorer, scores: Scores, accept: str) -> tuple[bytes, str]:
    """Return body and media type: one record a window, Arrow only if that is what is accepted."""
    columns = scorer.columns(scores)
    if ARROW in accept:
        table = pa.table(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return sink.getvalue().to_pybytes(), ARROW
    names = list(columns)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return orjson.dumps({"predictions": rows}), JSON


def error_body(code: str, message: str, request_id: str) -> bytes:
    """Return the body of a refusal; a message longer than 200 characters is cut."""
    line = " ".join(message.split())
    if len(line) > MESSAGE_LIMIT:
        line = line[: MESSAGE_LIMIT - 3] + "..."
    return orjson.dumps({"error_code": code, "message": line, "request_id": request_id})
