"""The page ``/moola`` of the guarded server, and the ledger over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moola.errors import MoolaError
from moola.promotion.guard_core import Guard
from moola.promotion.ledger import Draft, Entry

if TYPE_CHECKING:
    import flask

# What a client may write; moves of Production are written by the server itself.
CLIENT_EVENTS = ("test_look", "refusal", "challenger")
PAGE_ROUTE = "/moola"
LEDGER_ROUTE = "/moola/api/ledger"
ROUTES = ((PAGE_ROUTE, "GET"), (LEDGER_ROUTE, "GET"), (LEDGER_ROUTE, "POST"))
_MAX_TEXT = 2000
_SHOWN = 200


def add_pages(app: flask.Flask, guard: Guard) -> None:
    """Add Moola's routes to MLflow's Flask application, under its log-in where there is one."""
    import flask
    from jinja2 import Environment, PackageLoader

    template = Environment(
        loader=PackageLoader("moola.promotion", "."), autoescape=True
    ).get_template("page.html")

    def page() -> str:
        return template.render(**page_values(guard, flask.request.args.get("name")))

    def read_ledger() -> flask.Response:
        events = tuple(flask.request.args.getlist("event")) or None
        entries = guard.ledger.entries(flask.request.args.get("name"), events=events)
        return flask.jsonify({"entries": [dataclasses.asdict(entry) for entry in entries]})

    def write_ledger() -> Any:
        try:
            draft = _client_draft(flask.request.get_json(silent=True))
            entry = guard.write_down(draft)
        except (MoolaError, KeyError, TypeError, ValueError) as error:
            body = {"error_code": "INVALID_PARAMETER_VALUE", "message": str(error)}
            return flask.jsonify(body), 400
        return flask.jsonify(dataclasses.asdict(entry))

    app.add_url_rule(PAGE_ROUTE, "moola_page", page, methods=["GET"])
    app.add_url_rule(LEDGER_ROUTE, "moola_ledger", read_ledger, methods=["GET"])
    app.add_url_rule(LEDGER_ROUTE, "moola_ledger_append", write_ledger, methods=["POST"])


def page_values(guard: Guard, name: str | None) -> dict[str, Any]:
    """Return what the page shows: champions, entries (newest first), chain, keys, policy."""
    everything = guard.ledger.entries()
    try:
        chain, whole = guard.ledger.verify_chain(), True
    except MoolaError as error:
        chain, whole = str(error), False
    trusted = guard.trusted_keys()
    names = sorted({entry.name for entry in everything} - {""})  # keys belong to no model
    shown = [_shown(entry) for entry in everything if name in (None, entry.name)]
    return {
        "names": names,
        "name": name,
        "champions": {n: guard.ledger.champion_at(n) for n in names},
        "entries": shown[: -_SHOWN - 1 : -1],
        "num_hidden": max(0, len(shown) - _SHOWN),
        "chain": chain,
        "whole": whole,
        "keys": [(k, k in trusted.revoked) for k in sorted(trusted.keys)],
        "policy": guard.policy.to_dict(),
    }


def _shown(entry: Entry) -> dict[str, Any]:
    """Return an entry with its signed evidence opened for reading."""
    values = dataclasses.asdict(entry)
    evidence: Mapping[str, Any] = {}
    with contextlib.suppress(KeyError, ValueError, TypeError):
        evidence = json.loads(json.loads(entry.payload["evidence"])["payload"])
    return values | {"evidence": evidence}


def _client_draft(values: Any) -> Draft:
    from moola.promotion.guard_registry import caller

    if not isinstance(values, dict) or values.get("event") not in CLIENT_EVENTS:
        raise ValueError(f"event must be one of {', '.join(CLIENT_EVENTS)}")
    payload = values.get("payload") or {}
    if not isinstance(payload, dict):
        raise ValueError("payload must be a mapping")

    def text(field: str) -> str | None:
        value = values.get(field)
        return None if value is None else str(value)[:_MAX_TEXT]

    missing = [field for field in ("who", "name", "reason") if not text(field)]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given")
    return Draft(
        event=values["event"],
        who=f"{text('who')} ({caller()})",
        name=str(text("name")),
        reason=str(text("reason")),
        version_from=text("version_from"),
        version_to=text("version_to"),
        evidence_digest=text("evidence_digest"),
        payload=payload,
    )
