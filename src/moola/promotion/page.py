"""The page ``/moola`` of the guarded server, and the ledger over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moola.errors import BadInput, MoolaError, TrackingError
from moola.html import render
from moola.promotion.aliases.requirements import rule_in_words
from moola.promotion.evidence.attestation import SignedEvidence, verify
from moola.promotion.evidence.envelope import MAX_ENVELOPE
from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.evidence.predicates import kind_of, read_attestation
from moola.promotion.guard.core import Guard, deny
from moola.promotion.ledger.belief import GENESIS, sign_head
from moola.promotion.ledger.bounded_json import read_json
from moola.promotion.ledger.client_events import (
    MAX_BODY,
    RateLimits,
    claimed,
    read_event,
    require_known,
    require_signed_look,
)
from moola.promotion.ledger.content import EVENTS, Move
from moola.promotion.ledger.entry import (
    MAX_NAME,
    MOVES,
    Draft,
    Entry,
    plain_name,
    plain_text,
    plain_version,
)
from moola.promotion.ledger.lines import alias_of, open_intent

if TYPE_CHECKING:
    import flask
    from mlflow.entities.model_registry import ModelVersion

    from moola.promotion.guard.registry import GuardedRegistryStore

PAGE_ROUTE = "/moola"
LEDGER_ROUTE = "/moola/api/ledger"
ATTESTATIONS_ROUTE = "/moola/api/attestations"
CHECK_ROUTE = "/moola/api/check"
ROUTES = (
    (PAGE_ROUTE, "GET"),
    (LEDGER_ROUTE, "GET"),
    (LEDGER_ROUTE, "POST"),
    (ATTESTATIONS_ROUTE, "GET"),
    (ATTESTATIONS_ROUTE, "POST"),
    (CHECK_ROUTE, "GET"),
)
_LINES_PER_PAGE = 200
_REPEATED = "it was sent twice"
_CODES = {
    403: "PERMISSION_DENIED", 429: "REQUEST_LIMIT_EXCEEDED", 503: "TEMPORARILY_UNAVAILABLE",
}  # fmt: skip
_LAST_SEQ = 1 << 62


def add_pages(app: flask.Flask, guard: Guard) -> None:
    """Add Moola's routes to MLflow's Flask application, behind its log-in if there is one."""
    import flask

    limits = RateLimits()

    def page() -> flask.Response:
        query = flask.request.args
        number = query.get("page", default=1, type=int)
        values = page_values(guard, _name(query.get("name")), page=number)
        text = render("promotion/page.html.j2", **values)
        return flask.Response(text.encode("utf-8", "replace"))

    def read_ledger() -> Any:
        query = flask.request.args
        return flask.jsonify(
            ledger_answer(
                guard,
                name=_name(query.get("name")),
                events=tuple(query.getlist("event")) or None,
                after=query.get("after", default=0, type=int),
                schema="schema" in query,
            )
        )

    def write_ledger() -> Any:
        if not limits.take(_caller()):
            return _error(
                "too many lines from you at once; wait a few seconds and send it again", 429
            )
        if (flask.request.content_length or 0) > MAX_BODY:
            return _error(f"the body is larger than {MAX_BODY} bytes", 413)
        entry = append_for_client(guard, flask.request.get_data(cache=False))
        return flask.jsonify(entry.to_dict())

    def read_attestations() -> Any:
        name, version = _asked_version()
        _require_may(name, "read")
        return flask.jsonify({"envelopes": guard.ledger.attestations(name, version)})

    def write_attestation() -> Any:
        if not limits.take(_caller()):
            return _error(
                "too many attestations from you at once; wait a few seconds and send it again", 429
            )
        if (flask.request.content_length or 0) > 2 * MAX_ENVELOPE:
            return _error(f"the body is larger than {2 * MAX_ENVELOPE} bytes", 413)
        return flask.jsonify(take_attestation(guard, flask.request.get_data(cache=False)))

    def check() -> Any:
        name, version = _asked_version()
        _require_may(name, "read")
        alias = flask.request.args.get("alias")
        alias = None if alias is None else plain_text("alias", alias, limit=MAX_NAME)
        answers = _registry().aliases.answers(name, version, alias)
        return flask.jsonify({"aliases": [dataclasses.asdict(answer) for answer in answers]})

    for address, name, view, method in (
        (PAGE_ROUTE, "moola_page", page, "GET"),
        (LEDGER_ROUTE, "moola_ledger", read_ledger, "GET"),
        (LEDGER_ROUTE, "moola_ledger_append", write_ledger, "POST"),
        (ATTESTATIONS_ROUTE, "moola_attestations", read_attestations, "GET"),
        (ATTESTATIONS_ROUTE, "moola_attest", write_attestation, "POST"),
        (CHECK_ROUTE, "moola_check", check, "GET"),
    ):
        app.add_url_rule(address, name, _answering_errors(view), methods=[method])


def _answering_errors(view: Callable[[], Any]) -> Callable[[], Any]:
    """Return a view that answers every refusal with one sentence."""
    from mlflow.exceptions import MlflowException

    @functools.wraps(view)
    def answer() -> Any:
        try:
            return view()
        except MlflowException as error:
            return _error(str(error.message), error.get_http_status_code())
        except MoolaError as error:
            return _error(str(error), 503 if isinstance(error, TrackingError) else 400)

    return answer


def append_for_client(guard: Guard, body: bytes) -> Entry:
    """Append a client's line to the ledger, if it is an event that clients may write.

    Parameters
    ----------
    guard
        The server's rules.
    body
        The request's body.

    Returns
    -------
    Entry
        The line, with `who` as the server knows it.

    Raises
    ------
    BadInput
        If it may not be written; the message is one sentence.
    MlflowException
        With 403, if the user may not edit the registered model.
    """
    draft = read_event(body)
    _require_may_edit(draft.name)
    require_known(draft, _find_version, _find_model)
    if draft.event in ("test_look", "tried"):
        looks = guard.ledger.entries(draft.name, events=(draft.event,))
        belief = guard.ledger.belief(guard.trusted_keys())
        require_signed_look(draft, belief, looks, _find_version)
    return guard.write_down(_with_server_name(draft))


def take_attestation(guard: Guard, body: bytes) -> dict[str, str]:
    """Keep an attestation that a client sends, if a trusted key signed it.

    Returns
    -------
    dict
        Its digest, kind and signer.

    Raises
    ------
    PromotionRefused
        In one sentence: too large, no envelope, changed, no trusted key, no such version.
    """
    try:
        values = read_json(body.decode("utf-8"), max_chars=2 * MAX_ENVELOPE)
    except ValueError as error:
        raise BadInput(f"the body cannot be read: {error}") from None
    text = values.get("envelope") if isinstance(values, dict) else None
    if not isinstance(text, str) or set(values) != {"envelope"}:
        raise BadInput("the body must be an object with one text, envelope")
    attestation = read_attestation(text, guard.trusted_keys())
    about = attestation.about
    plain_name(about.model)
    _require_may(about.model, "read")
    _find_version(about.model, about.version)
    digest = guard.ledger.attest(text)
    return {
        "digest": digest, "kind": kind_of(attestation.content), "signer": attestation.signer,
    }  # fmt: skip


def _with_server_name(draft: Draft) -> Draft:
    """Return a client's line under the name the server knows, with the client's claim beside it."""
    from moola.promotion.guard.caller import attributed, authenticated_user

    claim = {} if authenticated_user() is None else {"claim": claimed(draft.who)}
    payload = {**draft.payload, **claim}
    return dataclasses.replace(draft, who=attributed(draft.who), payload=payload)


def ledger_answer(
    guard: Guard,
    *,
    name: str | None = None,
    events: tuple[str, ...] | None = None,
    after: int = 0,
    schema: bool = False,
) -> dict[str, Any]:
    """Return JSON-ready lines of the ledger, with its id, signed head, and the server's key."""
    ledger = guard.ledger
    if events is not None:
        events = tuple(event for event in events if event in EVENTS)
    lines = ledger.entries(name, events=events, after=min(max(0, after), _LAST_SEQ))
    first, last = ledger.ends()
    head = {"size": last.seq if last else 0, "hash": last.entry_hash if last else GENESIS}
    answer: dict[str, Any] = {
        "entries": [entry.to_dict() for entry in lines],
        "ledger_id": first.entry_hash if first else GENESIS,
        "head": head,
    }
    if ledger.signer is not None:
        answer["server_key"] = ledger.signer.public_key().public_bytes_raw().hex()
        answer["head"] = {**head, "signature": sign_head(head, ledger.signer)}
    if schema:
        answer["schema"] = ledger.schema_findings()
    return answer


def page_values(guard: Guard, name: str | None, *, page: int = 1) -> dict[str, Any]:
    """Return the values of the page: champions, moves, other lines page by page, keys, policy.

    Moves of Production and open intents are on every page, so that no number of other lines can
    hide them.
    """
    everything = guard.ledger.entries()
    trusted = guard.trusted_keys()
    belief = guard.ledger.belief(trusted)
    findings = [*guard.ledger.findings(everything), *guard.ledger.schema_findings()]
    champions = {(e.name, alias_of(e)): e.version_to for e in belief.moves(everything)}
    entries = [entry for entry in everything if name in (None, entry.name)]
    intents = [open_intent([e for e in entries if e.name == n], belief) for n in _names(entries)]
    on_every_page = {e.seq for e in entries if e.event in MOVES}
    on_every_page |= {intent.seq for intent in intents if intent is not None}
    rest = [entry for entry in reversed(entries) if entry.seq not in on_every_page]
    pages = max(1, -(-len(rest) // _LINES_PER_PAGE))
    page = min(max(1, page), pages)
    counting = {entry.seq for entry in belief.counting(everything)}

    def lines(entries: list[Entry]) -> list[dict[str, Any]]:
        return [
            _line(e, trusted, None if e.seq in counting else belief.why_not(e) or _REPEATED)
            for e in entries
        ]

    return {
        "name": name,
        "champions": sorted((*about, version) for about, version in champions.items()),
        "moves": lines([entry for entry in reversed(entries) if entry.seq in on_every_page]),
        "entries": lines(rest[(page - 1) * _LINES_PER_PAGE : page * _LINES_PER_PAGE]),
        "num_rest": len(rest),
        "page": page,
        "pages": pages,
        "chain": everything[-1].entry_hash if everything else GENESIS,
        "findings": findings,
        "keys": [(k, trusted.named(k), k in trusted.revoked) for k in sorted(trusted.attesters)],
        "rules": [rule_in_words(rule) for rule in guard.policy.rules],
        "policy": guard.policy.ohlc.to_dict(),
    }


def _names(entries: list[Entry]) -> list[str]:
    return sorted({entry.name for entry in entries if entry.event == "intent"})


def _line(entry: Entry, trusted: TrustedKeys, why_not: str | None) -> dict[str, Any]:
    """Return a line with its evidence, if that is signed by a trusted key."""
    evidence = None
    with contextlib.suppress(MoolaError):
        text = entry.payload.get("evidence")
        evidence = verify(SignedEvidence.from_json(text), trusted) if type(text) is str else None
    more = {"evidence": evidence, "why_not": why_not, "alarm": _alarm(entry)}
    return dataclasses.asdict(entry) | more


def _alarm(entry: Entry) -> str | None:
    """Return what a reader has to see first: broken glass, and its time."""
    content = entry.content
    if isinstance(content, Move) and content.unproven_until is not None:
        until = f"{content.unproven_until:%Y-%m-%d %H:%M}"
        return f"the glass was broken; to be proven or replaced by {until}"
    return None


def _name(value: str | None) -> str | None:
    return None if value is None else plain_text("name", value, limit=MAX_NAME)


def _error(sentence: str, status: int) -> Any:
    import flask

    code = _CODES.get(status, "INVALID_PARAMETER_VALUE")
    return flask.jsonify({"error_code": code, "message": sentence}), status


def _caller() -> str:
    from moola.promotion.guard.caller import caller

    return caller()


def _asked_version() -> tuple[str, str]:
    import flask

    query = flask.request.args
    name, version = query.get("name"), query.get("version")
    if name is None or version is None:
        raise BadInput("name and version must be given")
    return plain_name(name), plain_version(version)


def _registry() -> GuardedRegistryStore:
    from mlflow.server import handlers

    store: GuardedRegistryStore = handlers._get_model_registry_store()
    return store


def _find_version(name: str, version: str) -> ModelVersion:
    from mlflow.server import handlers

    store = handlers._get_model_registry_store()
    model_version: ModelVersion = store.get_model_version(name, version)
    return model_version


def _find_model(name: str) -> object:
    from mlflow.server import handlers

    return handlers._get_model_registry_store().get_registered_model(name)


def _require_may_edit(name: str) -> None:
    """Refuse users with a log-in who may not edit the registered model; administrators may."""
    _require_may(name, "update")


def _require_may(name: str, what: str) -> None:
    from moola.promotion.guard.caller import authenticated_user

    user = authenticated_user()
    if user is None:
        return
    from mlflow.exceptions import MlflowException
    from mlflow.server import auth

    try:
        may = auth.sender_is_admin() or getattr(
            auth._get_registered_model_permission(name), f"can_{what}"
        )
    except MlflowException:  # there is no such model, or nothing says what the user may
        may = False
    if not may:
        verb = {"update": "edit", "read": "read"}[what]
        deny(
            f"user {claimed(user)} may not {verb} {name}, so not {verb} what the ledger says of it"
        )
