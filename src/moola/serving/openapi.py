"""What `/invocations` takes and answers, as OpenAPI states it (and the fuzzing test reads it)."""

from __future__ import annotations

from typing import Any

from moola.serving.bodies import ARROW, CSV, JSON, NPZ, PARAMS

_WINDOWS = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "array",
        "items": {
            "type": "array",
            "minItems": 4,
            "maxItems": 4,
            "items": {"type": "number", "exclusiveMinimum": 0},
        },
    },
}
_FLAGS = {"type": "object", "properties": {name: {"type": "boolean"} for name in PARAMS}}
_TABLE = {
    "type": "object",
    "required": ["columns", "data"],
    "properties": {"columns": {"type": "array"}, "data": {"type": "array"}},
}
_BODY = {
    "oneOf": [
        {
            "type": "object",
            "required": [field],
            "properties": {field: schema, "params": _FLAGS, **more},
            "additionalProperties": False,
        }
        for field, schema, more in (
            ("inputs", _WINDOWS, {}),
            ("instances", _WINDOWS, {}),
            ("dataframe_split", _TABLE, {}),
            ("dataframe_records", {"type": "array", "items": {"type": "object"}}, {}),
            (
                "inputs_base64",
                {"type": "string", "format": "byte"},
                {"shape": {"type": "array", "items": {"type": "integer"}}},
            ),
        )
    ]
}
_RAW = {"schema": {"type": "string", "format": "binary"}}
_REFUSALS = {
    400: "The windows cannot be used.",
    401: "A bearer token is needed.",
    413: "The body is too large.",
    415: "Another content type is needed.",
    503: "No version answers, or too many requests wait.",
    504: "The time limit was reached.",
}

INVOCATIONS: dict[str, Any] = {
    "responses": {status: {"description": text} for status, text in _REFUSALS.items()},
    "openapi_extra": {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": {"type": "boolean"}}
            for name in PARAMS
        ],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _BODY}, CSV: _RAW, NPZ: _RAW, ARROW: _RAW},
        },
    },
}
