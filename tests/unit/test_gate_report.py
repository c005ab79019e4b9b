"""The report of a gate: it survives JSON, and another schema, NaN or no reason is refused."""

import json

import pytest
from gates_kit import CONTEXT, world
from jsonschema import Draft202012Validator

from moola.errors import BadInput
from moola.evaluation.gates import GateReport, blocked, deferred, gate_2_control
from moola.evaluation.gates.report import JSON_SCHEMA


def test_reports_survive_json_and_refuse_another_schema():
    y, weak, strong = world(0.4, 1.0, n=60)
    found = gate_2_control(y, weak, {"minirocket": strong}, context=CONTEXT)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert GateReport.from_dict(json.loads(text)) == found
    schema = Draft202012Validator(JSON_SCHEMA)
    assert schema.is_valid(json.loads(text))
    for change, match in (
        ({"schema_version": 2}, "version 2"),
        ({"schema_version": None}, "version None"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"verdict": "maybe"}, "maybe"),
        ({"gate": 8}, "gate is 8"),
        ({"gate": True}, "gate is True"),
        ({"reasons": []}, "no reason"),
    ):
        with pytest.raises(BadInput, match=match):
            GateReport.from_dict(found.to_dict() | change)
        assert not schema.is_valid(json.loads(text) | change)
    short = found.to_dict()
    del short["figures"]
    with pytest.raises(BadInput, match="lacks key 'figures'"):
        GateReport.from_dict(short)


def test_reports_refuse_nan():
    with pytest.raises(BadInput, match=r"figures\.a\.b\[1\] is nan"):
        GateReport(
            gate=1,
            name="x",
            question="?",
            verdict="passed",
            figures={"a": {"b": [1.0, float("nan")]}},
            reasons=("because",),
        )


def test_blocked_and_deferred_reports():
    assert blocked(3, "why").to_dict()["name"] == "encoder"
    assert deferred("promotion", "why").verdict == "deferred"
