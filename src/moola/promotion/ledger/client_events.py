"""What clients may write into a guarded server's ledger: four typed events, and nothing else."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from moola.config.names import ALIAS_CHALLENGER
from moola.config.promotion import TAG_EVIDENCE
from moola.data.market import MAX_CHARS
from moola.errors import BadInput, PromotionRefused
from moola.promotion.evidence.attestation import SignedEvidence, verify
from moola.promotion.ledger.belief import Belief
from moola.promotion.ledger.bounded_json import read_json
from moola.promotion.ledger.content import HEX_64, TRIED, Event, LookLine, content_of
from moola.promotion.ledger.entry import (
    Draft,
    Entry,
    plain_name,
    plain_text,
    plain_version,
    printable,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

MAX_BODY = 64 << 10
_MAX_REASON = 4000
_MAX_REASONS = 50
_TOP = {
    "event",
    "who",
    "name",
    "reason",
    "version_from",
    "version_to",
    "evidence_digest",
    "payload",
}
_LOOK_FIELDS = {
    "split": 200, "split_sha256": 64, "source": 200, "market": MAX_CHARS,
    "first_bar": 40, "last_bar": 40, "ledger": 64, "nonce": 32, "key_id": 32, "signature": 88,
}  # fmt: skip

FindVersion = Callable[[str, str], "ModelVersion"]
FindModel = Callable[[str], object]


def read_event(body: bytes) -> Draft:
    """Return what a client asks to be written down, every field known and of its type.

    Parameters
    ----------
    body
        The request's body, JSON.

    Returns
    -------
    Draft
        The line; its `who` is the client's own word.

    Raises
    ------
    BadInput
        In one sentence: what is unknown, missing, of another type, too long or too deep.
    """
    values = _mapping(body)
    event = values.get("event")
    if not isinstance(event, str) or event not in _PAYLOADS:
        raise BadInput(f"event must be one of {', '.join(_PAYLOADS)}")
    if unknown := set(values) - _TOP:
        raise BadInput(f"{sorted(unknown)[0][:40]!a} is no field of a {event}")
    payload = values.get("payload", {})
    if not isinstance(payload, dict):
        raise BadInput("payload must be an object")
    versions = {k: _version(k, values.get(k)) for k in ("version_from", "version_to")}
    if event not in ("refusal", "tried") and versions["version_to"] is None:
        raise BadInput(f"version_to of a {event} must be given")
    digest = values.get("evidence_digest")
    if digest is not None and not (isinstance(digest, str) and HEX_64.fullmatch(digest)):
        raise BadInput("evidence_digest must be 64 hex digits")
    return Draft(
        event=cast(Event, event),  # one of the four above
        who=plain_text("who", _given(values, "who"), limit=200),
        name=plain_name(_given(values, "name")),
        reason=plain_text("reason", _given(values, "reason"), limit=_MAX_REASON, control=True),
        **versions,
        evidence_digest=digest,
        payload=_PAYLOADS[event](payload),
    )


def require_known(draft: Draft, find: FindVersion, find_model: FindModel) -> None:
    """Raise BadInput unless the registry knows the model and the versions a client names.

    Parameters
    ----------
    draft
        The line.
    find
        Returns a version of the registry, by name and version; raises MLflow's exception where
        there is none.
    find_model
        Returns a registered model in the same way.
    """
    from mlflow.exceptions import MlflowException

    try:
        find_model(draft.name)
    except MlflowException as error:
        raise BadInput(f"{draft.name} is not in the registry") from error
    for version in (draft.version_from, draft.version_to):
        if version is None:
            continue
        try:
            model_version = find(draft.name, version)
        except MlflowException as error:
            raise BadInput(f"version {version} of {draft.name} is not in the registry") from error
        if draft.event == "challenger" and version == draft.version_to:
            _require_challenger(model_version)


def require_signed_look(
    draft: Draft, belief: Belief, looks: list[Entry], find: FindVersion
) -> None:
    """Raise BadInput unless a gate runner signed a look; a test look as its evidence names it.

    Parameters
    ----------
    draft
        The line, an event ``test_look`` or ``tried``.
    belief
        What counts in the ledger.
    looks
        The lines of this event in the ledger so far.
    find
        Returns a version of the registry.
    """
    content = content_of(draft.event, draft.version_to, draft.payload)
    if not isinstance(content, LookLine):
        raise BadInput("the look cannot be understood")
    if why := belief.why_no_look(content, draft.name, draft.evidence_digest, is_first=False):
        raise BadInput(f"the look does not count: {why}", remedy="`moola promote` signs it")
    nonce = draft.payload["nonce"]
    if any(nonce == entry.payload.get("nonce") for entry in looks):
        raise BadInput("the look was sent before; each counts once")
    if draft.event == "tried":
        return
    text = find(draft.name, str(draft.version_to)).tags.get(TAG_EVIDENCE)
    try:
        evidence = verify(SignedEvidence.from_json(text or ""), belief.keys)
    except PromotionRefused as refusal:
        raise BadInput(f"the look cannot be held against evidence: {refusal}") from None
    about = (evidence.name, evidence.version, evidence.digest)
    if about != (draft.name, draft.version_to, draft.evidence_digest):
        raise BadInput("the look names other evidence than the version carries")
    if evidence.data.get("split_sha256") != draft.payload.get("split_sha256"):
        raise BadInput("the look is at another split than the evidence names")


class RateLimits:
    """How much each caller may write: a number at once, then one in a while.

    Parameters
    ----------
    at_once
        Lines a caller may write without a pause.
    seconds_each
        Seconds after which a further line is free.
    clock
        Returns seconds that only grow.
    """

    def __init__(
        self,
        *,
        at_once: int = 200,
        seconds_each: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._at_once, self._seconds_each, self._clock = at_once, seconds_each, clock
        self._free: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, caller: str) -> bool:
        """Return whether a caller may write one more line, and count it."""
        now = self._clock()
        with self._lock:
            free, last = self._free.pop(caller, (float(self._at_once), now))
            free = min(float(self._at_once), free + (now - last) / self._seconds_each)
            allowed = free >= 1
            self._free[caller] = (free - allowed, now)
            while len(self._free) > 10_000:  # callers are many only where somebody makes them up
                self._free.popitem(last=False)
        return allowed


def claimed(who: str) -> str:
    """Return a client's word of who it is, so that it cannot pass for the server's."""
    return printable(who).replace("(", "[").replace(")", "]")[:80]


def _mapping(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY:
        raise BadInput(f"the body has {len(body)} bytes", limit=f"at most {MAX_BODY}")
    try:
        values = read_json(body.decode("utf-8"))
    except ValueError as error:
        raise BadInput(f"the body cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise BadInput("the body must be a JSON object")
    return values


def _given(values: Mapping[str, Any], field: str) -> str:
    value = values.get(field)
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{field} must be given, as a text")
    return value


def _version(field: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadInput(f"{field} must be a text of digits")
    return plain_version(value)


def _look(payload: Mapping[str, Any]) -> dict[str, Any]:
    for field, value in payload.items():
        limit = _LOOK_FIELDS.get(field)
        if limit is None:
            raise BadInput(f"{field[:40]!a} is no field of a look")
        if value is not None:
            plain_text(field, value, limit=limit)
    if not isinstance(digest := payload.get("split_sha256"), str) or not HEX_64.fullmatch(digest):
        raise BadInput("split_sha256 of a look must be 64 hex digits")
    return dict(payload)


def _tried(payload: Mapping[str, Any]) -> dict[str, Any]:
    more = {k: plain_text(k, payload[k], limit=8000) for k in TRIED if k in payload}
    if len(more) != 1:
        raise BadInput(f"the payload of a tried holds one of {', '.join(TRIED)}")
    return {**_look({k: v for k, v in payload.items() if k not in TRIED}), **more}


def _refusal(payload: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := set(payload) - {"reasons", "alias"}:
        raise BadInput(f"{sorted(unknown)[0][:40]!a} is no field of a refusal")
    reasons = payload.get("reasons", [])
    if not isinstance(reasons, list) or len(reasons) > _MAX_REASONS:
        raise BadInput(f"reasons must be a list of at most {_MAX_REASONS} texts")
    texts = [plain_text("a reason", r, limit=_MAX_REASON, control=True) for r in reasons]
    alias = (
        {"alias": plain_text("alias", payload["alias"], limit=256)} if "alias" in payload else {}
    )
    return {"reasons": [printable(text) for text in texts], **alias}


def _challenger(payload: Mapping[str, Any]) -> dict[str, Any]:
    if payload not in ({}, {"alias": ALIAS_CHALLENGER}):
        raise BadInput(f"the payload of a challenger is its alias, {ALIAS_CHALLENGER}")
    return dict(payload)


_PAYLOADS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "test_look": _look,
    "tried": _tried,
    "refusal": _refusal,
    "challenger": _challenger,
}


def _require_challenger(model_version: ModelVersion) -> None:
    if ALIAS_CHALLENGER not in model_version.aliases:
        raise BadInput(
            f"version {model_version.version} of {model_version.name} has no alias "
            f"{ALIAS_CHALLENGER}"
        )
