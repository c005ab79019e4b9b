"""What an attestation says about a version: tests, metrics, a comparison, an approval, an order.

Each kind is a dataclass; this is the only place where it becomes the predicate of an in-toto
statement and is read back, every field known and of its type.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from moola.errors import BadInput, PromotionRefused, shown
from moola.promotion.evidence.envelope import DsseEnvelope, Statement, seal
from moola.promotion.evidence.keys import PrivateKey, TrustedKeys
from moola.promotion.ledger.content import HEX_64, VERSION, read_time

_OWN = "https://github.com/moola-ml/moola/attestations"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
_MOST_NAMES = 1000
_RESULTS = ("PASSED", "FAILED")


@dataclass(frozen=True, kw_only=True)
class About:
    """Which version, and when.

    Parameters
    ----------
    model, version, run_id
        The registered model, its version and the run that made it ("" where there is none).
    created_at
        ISO 8601 in UTC.
    data
        SHA-256 of every data file that was read.
    aliases
        Aliases that the version had then.
    champions
        Who held each alias of the model then.
    """

    model: str
    version: str
    run_id: str
    created_at: str
    data: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    champions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not VERSION.fullmatch(self.version):
            raise _wrong(f"version {shown(self.version)}")
        if read_time(self.created_at) is None:
            raise _wrong(f"time {shown(self.created_at)}")
        if strange := [digest for digest in self.data if not HEX_64.fullmatch(digest)]:
            raise _wrong(f"data digest {shown(strange[0])}")

    @property
    def time(self) -> datetime:
        """When it was signed."""
        moment = read_time(self.created_at)
        assert moment is not None
        return moment


@dataclass(frozen=True, kw_only=True)
class SuiteRun:
    """A command that tested a version.

    Parameters
    ----------
    passed
        Whether it ended with exit code 0, and no test that was counted failed.
    command
        The command's words.
    exit_code
        Its exit code; None where it was stopped.
    seconds
        How long it took.
    files
        SHA-256 of each file of the tests, by path.
    passed_tests, failed_tests, skipped_tests
        Counts; None where the command wrote no JUnit file.
    names
        Tests that passed, by name, up to 1,000.
    failed_names
        Tests that failed.
    """

    passed: bool
    command: tuple[str, ...]
    exit_code: int | None
    seconds: float
    files: Mapping[str, str] = field(default_factory=dict)
    passed_tests: int | None = None
    failed_tests: int | None = None
    skipped_tests: int | None = None
    names: tuple[str, ...] = ()
    failed_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MetricValues:
    """Metrics that any evaluation computed: an estimate each, and where known its interval."""

    estimates: Mapping[str, float]
    lows: Mapping[str, float] = field(default_factory=dict)
    highs: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.lows) != set(self.highs) or not set(self.lows) <= set(self.estimates):
            raise _wrong("an interval without an estimate or an end")
        for name, low in self.lows.items():
            if not low <= self.estimates[name] <= self.highs[name]:
                raise _wrong(f"an interval of {shown(name)} that leaves its estimate out")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A version beside another on the same rows.

    Parameters
    ----------
    other
        The other version.
    metric
        The loss; smaller is better.
    difference, low, high
        Mean loss of the version less that of the other, and its interval.
    level
        Of the interval, after what earlier looks at the data spent.
    rows, clusters
        How many; `clusters` is None without groups.
    method
        ``rows``, ``clusters`` or ``time``.
    identical
        Whether both predicted the same on every row.
    look
        Number of this look at the data.
    """

    other: str
    metric: str
    difference: float
    low: float
    high: float
    level: float
    rows: int
    method: str
    identical: bool
    look: int
    clusters: int | None = None

    def __post_init__(self) -> None:
        if not self.low <= self.difference <= self.high or not VERSION.fullmatch(self.other):
            raise _wrong("an interval that leaves its estimate out, or no other version")


@dataclass(frozen=True, kw_only=True)
class Approval:
    """Somebody approves a version."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Order:
    """An order to move an alias without what its rules require.

    Parameters
    ----------
    action
        ``rollback``: back to a version that held the alias; ``break-glass``: by policy.
    alias
        The alias.
    champion
        Who held it then; "" for nobody. The order counts only against this holder.
    reason
        Why.
    """

    action: Literal["rollback", "break-glass"]
    alias: str
    champion: str
    reason: str


Content = SuiteRun | MetricValues | Compared | Approval | Order
_TYPES: Mapping[str, type[Content]] = {
    TEST_RESULT: SuiteRun,
    f"{_OWN}/metrics/v1": MetricValues,
    f"{_OWN}/comparison/v1": Compared,
    f"{_OWN}/approval/v1": Approval,
    f"{_OWN}/order/v1": Order,
}


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """What a trusted key said about a version.

    Parameters
    ----------
    digest
        SHA-256 of the envelope.
    signer
        Name of the key.
    key_id
        Its id.
    files
        SHA-256 of every file of the version, by path.
    about
        The version and the time.
    content
        What was said.
    """

    digest: str
    signer: str
    key_id: str
    files: Mapping[str, str]
    about: About
    content: Content


def attest(
    about: About, content: Content, files: Mapping[str, str], key: PrivateKey
) -> DsseEnvelope:
    """Return a signed attestation about a version with these files (SHA-256 by path)."""
    [predicate_type] = [address for address, kind in _TYPES.items() if type(content) is kind]
    fields = {"about": _written(about), **_written(content)}
    predicate = _test_result(content, fields) if isinstance(content, SuiteRun) else fields
    statement = Statement(subject=files, predicate_type=predicate_type, predicate=predicate)
    return seal(statement, key)


def read_attestation(text: str, keys: TrustedKeys) -> Attestation:
    """Return what an envelope says, if a trusted key signed it.

    Raises
    ------
    PromotionRefused
        In one line: no envelope, no trusted key, changed, of another kind, a field that is
        missing, unknown or of another type.
    """
    envelope = DsseEnvelope.from_json(text)
    if why := envelope.why_not_signed(keys):
        raise PromotionRefused(
            f"the attestation does not count: {why}",
            limit="a key in .moola/trusted that is not revoked",
            remedy="Have it signed again by a key that counts",
        )
    statement = Statement.from_payload(envelope.payload)
    kind = _TYPES.get(statement.predicate_type)
    if kind is None:
        raise _wrong(f"predicate type {shown(statement.predicate_type)}")
    predicate = statement.predicate
    fields = predicate.get("moola") if kind is SuiteRun else predicate
    if type(fields) is not dict:
        raise _wrong("predicate without what Moola says")
    about = _read(About, fields.get("about"))
    content = _read(kind, {key: value for key, value in fields.items() if key != "about"})
    if isinstance(content, SuiteRun) and predicate != _test_result(content, fields):
        raise _wrong("test result that is another than Moola says")
    return Attestation(
        digest=envelope.digest,
        signer=keys.named(envelope.key_id),
        key_id=envelope.key_id,
        files=statement.subject,
        about=about,
        content=content,
    )


def about_in(text: str) -> About:
    """Return which version an envelope is about, whoever signed it; nothing else of it is read."""
    predicate = Statement.from_payload(DsseEnvelope.from_json(text).payload).predicate
    fields = predicate.get("moola") or predicate
    about: About = _read(About, fields.get("about") if type(fields) is dict else None)
    return about


def kind_of(content: Content) -> str:
    """Return the word for a kind of attestation."""
    words = {
        SuiteRun: "tests",
        MetricValues: "metrics",
        Compared: "comparison",
        Approval: "approval",
    }
    return content.action if isinstance(content, Order) else words[type(content)]


def _test_result(run: SuiteRun, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return in-toto's vetted predicate for test results, with Moola's own beside its fields."""
    configuration = [
        {"name": path, "digest": {"sha256": digest}} for path, digest in sorted(run.files.items())
    ]
    return {
        "result": _RESULTS[0] if run.passed else _RESULTS[1],
        "configuration": configuration,
        "passedTests": list(run.names),
        "failedTests": list(run.failed_names),
        "moola": dict(fields),
    }


def _written(value: Any) -> Mapping[str, Any]:
    return {_camel(one.name): _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _read(kind: type, values: Any) -> Any:
    """Return a dataclass of JSON values; every field is there, none is unknown, each has its type.

    Raises PromotionRefused otherwise.
    """
    if type(values) is not dict:
        raise _wrong(f"{kind.__name__} that is no object")
    hints = typing.get_type_hints(kind)
    fields = {_camel(one.name): one.name for one in dataclasses.fields(kind)}
    if set(values) != set(fields):
        odd = sorted(set(values) ^ set(fields))[0]
        raise _wrong(f"field {shown(odd)}, unknown or missing")
    read = {}
    for key, value in values.items():
        if not _fits(value, hints[fields[key]]):
            raise _wrong(f"{key} of {kind.__name__}: {shown(value)}")
        read[fields[key]] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**read)
    except BadInput as error:
        raise _wrong(str(error)) from None


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        few = isinstance(value, list) and len(value) <= _MOST_NAMES
        return few and all(_fits(one, arguments[0]) for one in value)
    if origin is not None:  # a mapping of texts
        return type(value) is dict and all(_fits(one, arguments[1]) for one in value.values())
    if hint is types.NoneType:
        return value is None
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint is str:
        return type(value) is str and len(value) <= 4000
    return type(value) is hint


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _wrong(what: str) -> PromotionRefused:
    return PromotionRefused(f"the attestation cannot be understood: {what}")
