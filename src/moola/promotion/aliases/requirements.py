"""Whether the attestations about a version meet the rules for an alias."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from moola.config.policy import Policy, Rule
from moola.config.promotion import folded
from moola.config.requirements import (
    Approve,
    Better,
    Metric,
    PassingTests,
    Profile,
    Requirement,
    keyword_of,
)
from moola.errors import PromotionRefused
from moola.promotion.evidence.keys import TrustedKeys
from moola.promotion.evidence.predicates import (
    Approval,
    Attestation,
    Compared,
    Content,
    MetricValues,
    Order,
    SuiteRun,
    read_attestation,
)

_CLOCKS_APART = timedelta(minutes=5)
_BREAK_GLASS_COUNTS = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A version that asks for an alias.

    Parameters
    ----------
    name, version
        The registered model and the version.
    alias
        The alias.
    run_id
        The run that made it; None where there is none.
    champion
        Who holds the alias; None: nobody.
    files
        SHA-256 of each of its files, by path; None leaves them out, for a caller that reads them
        once all else is good.
    registered_by
        Who registered the version; None where nobody knows.
    """

    name: str
    version: str
    alias: str
    run_id: str | None
    champion: str | None
    files: Mapping[str, str] | None
    registered_by: str | None

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True)
class RuleAnswer:
    """One requirement of one rule: whether it is met, why, and what to do where it is not.

    Parameters
    ----------
    rule, requirement
        Name of the rule, word of the requirement.
    mode
        Of the rule.
    met
        Whether it is met; None where this program cannot tell (profile ``ohlc``).
    why
        One sentence.
    remedy
        The next command; None where there is none.
    attestations
        Digests of what it rests on.
    """

    rule: str
    requirement: str
    mode: str
    met: bool | None
    why: str
    remedy: str | None = None
    attestations: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Attested:
    """The attestations about one version that count, and how many do not.

    Parameters
    ----------
    counting
        Newest last.
    ignored
        Why each of the others does not count.
    """

    counting: tuple[Attestation, ...]
    ignored: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, texts: Iterable[str], subject: Subject, keys: TrustedKeys, now: datetime
    ) -> Attested:
        """Read stored envelopes; those without a signature that counts are ignored, and counted."""
        counting, ignored = [], []
        for text in texts:
            try:
                attestation = read_attestation(text, keys)
            except PromotionRefused as refusal:
                ignored.append(str(refusal))
                continue
            if why := _not_about(attestation, subject, now):
                ignored.append(f"an attestation of {attestation.signer} does not count: {why}")
            else:
                counting.append(attestation)
        counting.sort(key=lambda one: one.about.time)
        return cls(counting=tuple(counting), ignored=tuple(ignored))


def _not_about(attestation: Attestation, subject: Subject, now: datetime) -> str | None:
    about = attestation.about
    if (about.model, about.version) != (subject.name, subject.version):
        return f"it is about version {about.version} of {about.model}"
    if about.run_id != (subject.run_id or ""):
        return f"it is about run {about.run_id or 'none'}, the version has {subject.run_id}"
    if about.time > now + _CLOCKS_APART:
        return f"it is of {about.created_at}, which is not yet"
    if subject.files is not None and dict(attestation.files) != dict(subject.files):
        return "the version's files are others than it names"
    return None


def findings(
    rules: Sequence[Rule], subject: Subject, attested: Attested, now: datetime
) -> list[RuleAnswer]:
    """Return each requirement of each rule, met or not.

    The newest attestation of a kind counts, so that a test run that failed since takes away what
    one before it gave.

    Parameters
    ----------
    rules
        That match model and alias.
    subject
        The version.
    attested
        What counts about it.
    now
        The ledger's time.
    """
    return [
        _finding(rule, requirement, subject, attested, now)
        for rule in rules
        for requirement in rule.require
    ]


def rule_in_words(rule: Rule) -> str:
    """Return a rule as one line for people."""
    models = ", ".join(rule.models).replace("*", "every model", 1 if rule.models == ("*",) else 0)
    of = f"{models} that `moola train` made" if rule.made_by == "moola" else models
    asks = ", ".join(_in_words(requirement) for requirement in rule.require)
    does = "require" if rule.mode == "enforce" else "report mode, nothing is refused; would require"
    return f"{rule.name}: {', '.join(rule.aliases)} of {of}: {does} {asks}"


def unmeetable(policy: Policy, keys: TrustedKeys) -> list[str]:
    """Return each rule that nobody can meet, because it names a signer without a trusted key."""
    names = {keys.named(identity) for identity in keys.attesters if identity not in keys.revoked}
    return [
        f"NOBODY CAN MEET {', '.join(rules)}: signer {signer} has no key in .moola/trusted"
        for signer, rules in policy.signers().items()
        if signer not in names
    ]


def _in_words(requirement: Requirement) -> str:
    if isinstance(requirement, PassingTests):
        return (
            f"{requirement.at_least} attested tests" if requirement.at_least else "attested tests"
        )
    if isinstance(requirement, Metric):
        word = "at least" if requirement.at_least is not None else "at most"
        return f"metric {requirement.name} {word} {requirement.bound:g} ({requirement.counts})"
    if isinstance(requirement, Better):
        return f"{requirement.kind} {requirement.metric} (margin {requirement.margin:g})"
    if isinstance(requirement, Approve):
        return f"approval by {requirement.people} of {', '.join(requirement.by)}"
    return "the gates of profile ohlc"


def reasons_in(answers: Iterable[RuleAnswer]) -> list[str]:
    """Return why some requirements are not met; what cannot be told is left to whoever can."""
    return [f"rule {one.rule}: {one.why}" for one in answers if one.met is False]


def enforced(answers: Iterable[RuleAnswer]) -> list[RuleAnswer]:
    """Return the answers of rules that refuse."""
    return [one for one in answers if one.mode == "enforce"]


def broken_glass(
    policy: Policy, subject: Subject, attested: Attested, now: datetime, used: Iterable[str]
) -> Attestation | None:
    """Return an order to break the glass that counts now and was not used before."""
    if policy.break_glass is None:
        return None
    spent = set(used)
    for one in reversed(attested.counting):
        order = one.content
        if (
            isinstance(order, Order)
            and order.action == "break-glass"
            and _is_against(order, subject)
            and one.signer in policy.break_glass.by
            and now - one.about.time <= _BREAK_GLASS_COUNTS
            and one.digest not in spent
        ):
            return one
    return None


def rollback_order(
    subject: Subject, attested: Attested, used: Iterable[str], held_before: bool
) -> Attestation | None:
    """Return an order to go back to a version that held the alias with these very files."""
    spent = set(used)
    for one in reversed(attested.counting if held_before else ()):
        order = one.content
        if (
            isinstance(order, Order)
            and order.action == "rollback"
            and _is_against(order, subject)
            and one.digest not in spent
        ):
            return one
    return None


def _is_against(order: Order, subject: Subject) -> bool:
    same = folded(order.alias) == folded(subject.alias)
    return same and order.champion == (subject.champion or "")


def _finding(
    rule: Rule, requirement: Requirement, subject: Subject, attested: Attested, now: datetime
) -> RuleAnswer:
    if isinstance(requirement, Profile):
        return RuleAnswer(
            rule=rule.name,
            requirement="profile: ohlc",
            mode=rule.mode,
            met=None,
            why="the gates and the locked test windows decide",
            remedy=f"moola promote --name {subject.name} --version {subject.version}",
        )
    counting = [one for one in attested.counting if _why_not_by(rule, one, now) is None]
    others = [one for one in attested.counting if _why_not_by(rule, one, now) is not None]
    met, why, remedy, by = _RULES[type(requirement)](requirement, subject, counting)
    if met is False:
        kinds = _KINDS[type(requirement)]
        late = [_why_not_by(rule, one, now) for one in others if isinstance(one.content, kinds)]
        if late and not isinstance(requirement, Approve):
            why = f"{why} ({late[-1]})"
    return RuleAnswer(
        rule=rule.name,
        requirement=keyword_of(requirement),
        mode=rule.mode,
        met=met,
        why=why,
        remedy=remedy,
        attestations=tuple(by),
    )


def _why_not_by(rule: Rule, one: Attestation, now: datetime) -> str | None:
    """Return why a rule does not take an attestation."""
    signed_by = rule.signed_by and not isinstance(one.content, Approval)
    if signed_by and one.signer not in rule.signed_by:
        return f"one by {one.signer} does not count: signed_by is {', '.join(rule.signed_by)}"
    age = (now - one.about.time) / timedelta(days=1)
    if rule.max_age_days is not None and not age <= rule.max_age_days:
        return f"one of {one.signer} is {age:.1f} days old, at most {rule.max_age_days:g} count"
    return None


def _newest(
    counting: Sequence[Attestation],
    kind: type[Content],
    fits: Callable[[Attestation], bool] = lambda one: True,
) -> Attestation | None:
    fitting = [one for one in counting if isinstance(one.content, kind) and fits(one)]
    return fitting[-1] if fitting else None


_Answer = tuple[bool, str, str | None, Sequence[str]]


def _tests(asked: PassingTests, subject: Subject, counting: Sequence[Attestation]) -> _Answer:
    remedy = f"moola attest {subject} -- pytest tests/model"
    newest = _newest(counting, SuiteRun)
    if newest is None or not isinstance(run := newest.content, SuiteRun):
        return False, "no test run is attested", remedy, ()
    counts = "" if run.passed_tests is None else f", {run.passed_tests} passed"
    text = f"test run of {newest.about.created_at[:16]} by {newest.signer}{counts}"
    if not run.passed:
        failed = f", {run.failed_tests} failed" if run.failed_tests else ""
        return False, f"the newest {text}{failed}: it failed", remedy, ()
    if asked.at_least and (run.passed_tests or 0) < asked.at_least:
        return False, f"the {text}: at least {asked.at_least} must", remedy, ()
    return True, text, None, (newest.digest,)


def _metric(asked: Metric, subject: Subject, counting: Sequence[Attestation]) -> _Answer:
    remedy = f"moola attest {subject} --metrics eval.json --data eval.parquet"

    def names_it(one: Attestation) -> bool:
        content = one.content
        named = isinstance(content, MetricValues) and asked.name in content.estimates
        return named and (asked.data is None or asked.data in one.about.data)

    newest = _newest(counting, MetricValues, names_it)
    on_data = f" on data {asked.data[:12]}" if asked.data else ""
    if newest is None or not isinstance(metrics := newest.content, MetricValues):
        return False, f"metric {asked.name}{on_data} is not attested", remedy, ()
    value, which = metrics.estimates[asked.name], asked.name
    if asked.counts == "interval":
        ends = metrics.lows if asked.at_least is not None else metrics.highs
        if asked.name not in ends:
            return False, f"metric {asked.name} is attested without an interval", remedy, ()
        value, which = ends[asked.name], f"the worse end of {asked.name}'s interval"
    met = value >= asked.bound if asked.at_least is not None else value <= asked.bound
    word = "least" if asked.at_least is not None else "most"
    text = f"{which} is {value:g}{on_data}, at {word} {asked.bound:g} required"
    return met, text, None if met else remedy, (newest.digest,) if met else ()


def _better(asked: Better, subject: Subject, counting: Sequence[Attestation]) -> _Answer:
    if subject.champion is None:
        why = f"nobody holds {subject.alias}, so there is nothing to be compared with"
        return True, why, None, ()
    if subject.champion == subject.version:
        return True, f"it holds {subject.alias} itself", None, ()
    remedy = (
        f"moola compare {subject} @{subject.alias} --metric {asked.metric} "
        "--data eval.parquet --target y --attest"
    )

    def fits(one: Attestation) -> bool:
        content = one.content
        same = isinstance(content, Compared) and content.metric == asked.metric
        on_data = asked.data is None or asked.data in one.about.data
        return same and on_data and content.other == subject.champion  # type: ignore[union-attr]

    newest = _newest(counting, Compared, fits)
    beside = f"version {subject.champion}, which holds {subject.alias}"
    if newest is None or not isinstance(compared := newest.content, Compared):
        return False, f"no comparison by {asked.metric} with {beside} is attested", remedy, ()
    interval = f"[{compared.low:.4g}, {compared.high:.4g}]"
    text = f"{asked.metric} less that of {beside}: {compared.difference:.4g} {interval}"
    if compared.identical and asked.kind == "superior":
        return False, f"it predicts as {beside} does, on every row", remedy, ()
    bound = -asked.margin if asked.kind == "superior" else asked.margin
    met = compared.high < bound
    if not met:
        text += f"; the upper end must be below {bound:g}"
    return met, text, None if met else remedy, (newest.digest,) if met else ()


def _approve(asked: Approve, subject: Subject, counting: Sequence[Attestation]) -> _Answer:
    remedy = f"moola approve {subject} --reason ..."
    by: dict[str, str] = {}
    by_registrant = False
    for one in counting:
        if not isinstance(one.content, Approval) or one.signer not in asked.by:
            continue
        if subject.registered_by and folded(one.signer) == folded(subject.registered_by):
            by_registrant = True  # whoever registered a version does not approve it
            continue
        by[one.signer] = one.digest
    names = ", ".join(sorted(by)) or "nobody"
    met = len(by) >= asked.people
    text = f"approved by {names}; {asked.people} of {', '.join(asked.by)} must"
    if by_registrant:
        text += f"; {subject.registered_by} registered it, so that approval does not count"
    return met, text, None if met else remedy, tuple(by.values()) if met else ()


_RULES: Mapping[type, Callable[..., _Answer]] = {
    PassingTests: _tests,
    Metric: _metric,
    Better: _better,
    Approve: _approve,
}
_KINDS: Mapping[type, type] = {
    PassingTests: SuiteRun,
    Metric: MetricValues,
    Better: Compared,
    Approve: Approval,
}
