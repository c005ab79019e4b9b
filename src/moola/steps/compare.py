"""Compare two versions of any MLflow model on a table of rows."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import moola
from moola.config.names import ALIAS_PRODUCTION
from moola.errors import ConfigError, DataError, PromotionRefused, one_line, shown
from moola.evaluation.pages.rows import rows_page
from moola.evaluation.row_comparison import (
    NON_INFERIOR,
    SUPERIOR,
    Comparison,
    judged,
    row_losses,
    row_metric,
)
from moola.evaluation.rows import LEAST_ROWS
from moola.hashing import sha256_file, sha256_json
from moola.promotion.aliases.proof import attest_version, subject_of
from moola.promotion.aliases.requirements import Subject
from moola.promotion.answers.ask import AnswerLimits, VersionAnswers, answers_of
from moola.promotion.evidence.keys import load_attester_key
from moola.promotion.evidence.predicates import Compared
from moola.promotion.ledger.tries import note_judgement
from moola.promotion.production import Production, signing_key
from moola.promotion.versions.digest import downloaded, model_files_digest
from moola.promotion.versions.named import NamedVersion, model_in, named_version
from moola.tracking.store import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MOST_SHOWN = 20
_IGNORED = 1e-12  # answers closer than this are the same answer


@dataclass(frozen=True, kw_only=True)
class ComparedRows:
    """A comparison, the differences of its rows, and the rows with the largest ones.

    `counted` says whether the look is a line in the ledger.
    """

    comparison: Comparison
    differences: NDArray[np.float64]
    disagreements: list[Mapping[str, Any]]
    counted: bool = False

    def page(self) -> str:
        """Return the comparison as an HTML page."""
        return rows_page(self.comparison, self.differences, self.disagreements)


def compare(
    candidate: str,
    other: str,
    *,
    data: Path,
    target: str,
    group: str | None = None,
    time: str | None = None,
    metric: str = "log_loss",
    margin: float = 0.0,
    look: int = 1,
    limits: AnswerLimits | None = None,
    client: MlflowClient | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> ComparedRows:
    """Compare two versions of any MLflow model on the same rows, by the paired difference.

    Parameters
    ----------
    candidate, other
        ``churn/7``, ``churn@champion``, or ``@production`` of the other's model.
    data
        Parquet or CSV file: features, target, and columns of roles.
    target
        Column of the true values.
    group
        Column that says which rows belong together.
    time
        Column that orders the rows, which then may depend on those before them.
    metric
        See `moola.evaluation.row_comparison.row_metric`.
    margin
        Above 0: is the candidate at most this much worse? 0: is it better?
    look
        Number of this look at these data, from 1; wider intervals for later looks.
    limits
        What each version may use while it answers.
    client
        Client of the registry; None connects as ``MLFLOW_TRACKING_URI`` says.
    tell
        Told what is done next, one line each.

    Returns
    -------
    ComparedRows
        The comparison.

    Raises
    ------
    BadInput
        If versions, data or metric cannot be used.
    PromotionRefused
        If a version does not exist, or cannot answer.
    """
    chosen = row_metric(metric)
    if group is not None and time is not None:
        raise ConfigError("--group and --time are both given", limit="one of them")
    data_sha256 = _digest(data)
    table = read_rows(data, target=target, group=group, time=time)
    client = client or connect()
    first, second = named_versions(client, candidate, other)
    y = _values(table[target])
    features = table.drop(columns=[c for c in (target, group, time) if c is not None])
    answers: list[VersionAnswers] = []
    losses: list[NDArray[np.float64]] = []
    digests: list[str] = []
    with _as_parquet(features) as path:
        for version in (first, second):
            tell(f"{version} answers {len(table):,} rows")
            with downloaded(client, version.name, version.version) as folder:
                digests.append(model_files_digest(folder))
                answers.append(
                    answers_of(
                        folder, path, num_rows=len(table), what=str(version), limits=limits,
                        proba=chosen.wants == "probabilities",
                    )
                )  # fmt: skip
            last = answers[-1]
            losses.append(row_losses(chosen, y, last.values, last.classes, what=str(version)))
    if _digest(data) != data_sha256:
        raise DataError(
            f"{data} was changed while it was read",
            limit="a file that stays as it is",
            remedy="Compare again on a copy",
        )
    tell("the paired difference")
    comparison = Comparison(
        model=first.name,
        version=first.version,
        version_sha256=digests[0],
        other_model=second.name,
        other_version=second.version,
        other_sha256=digests[1],
        other_alias=second.alias,
        data_sha256=data_sha256,
        target=target,
        group=group,
        time=time,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=moola.__version__,
        not_cut=tuple(dict.fromkeys(wall for answer in answers for wall in answer.not_cut)),
        **judged(
            losses[0], losses[1], metric=metric, identical=_same(answers[0], answers[1]),
            clusters=None if group is None else pd.factorize(table[group])[0],
            in_time=time is not None, look=look, margin=margin,
            kind=NON_INFERIOR if margin else SUPERIOR,
        ),
    )  # fmt: skip
    difference = losses[0] - losses[1]
    worst = np.argsort(-np.abs(difference), kind="stable")[:_MOST_SHOWN]
    rows: list[Mapping[str, Any]] = [
        {
            "row": int(table.index[row]),
            "target": str(y[row]),
            "candidate": _answer_text(answers[0].values[row]),
            "other": _answer_text(answers[1].values[row]),
            "difference": float(difference[row]),
        }
        for row in worst
        if difference[row] != 0
    ]
    return ComparedRows(comparison=comparison, differences=difference, disagreements=rows)


def compare_and_note(
    candidate: str,
    other: str,
    *,
    data: Path,
    attests: bool = False,
    key: Path | None = None,
    ledger_url: str | None = None,
    project: Path = Path(),
    **about: Any,
) -> ComparedRows:
    """Compare as `compare`, with the look written into the ledger first, and attest the result.

    Every different comparison on the same data file is a look, whatever the model: the interval of
    a later one is wider. The same comparison made again is the same look.

    Parameters
    ----------
    candidate, other, data, about
        As for `compare`.
    attests
        Whether the result is signed and kept, so that rules may ask for it.
    key
        File of the key that signs the attestation; None: the project's.
    ledger_url, project
        As everywhere.

    Raises
    ------
    ConfigError
        If it is to be attested and there is no signing key, or the versions are of two models.
    PromotionRefused
        If what is to be attested has no interval.
    """
    client = connect()
    first, second = named_versions(client, candidate, other)
    if attests and first.name != second.name:
        raise ConfigError(
            f"{first} and {second} are of two models",
            limit="versions of one model, of which one holds the alias",
        )
    if not attests and signing_key(project) is None:  # nothing is claimed, so nothing is counted
        return compare(candidate, other, data=data, client=client, **about)
    production = Production.of_project(client, first.name, ledger_url=ledger_url, project=project)
    signing = production.require_signing_key()
    roles = {name: about.get(name) for name in ("target", "group", "time", "metric", "margin")}
    data_sha256 = _digest(data)
    tries = note_judgement(
        production.ledger,
        {"split_sha256": data_sha256},
        [sha256_json({"versions": [str(first), str(second)], **roles})],
        name=first.name,
        who=production.who,
        key=signing,
        keys=production.keys,
    )
    outcome = compare(candidate, other, data=data, look=tries.judgement, client=client, **about)
    if outcome.comparison.data_sha256 != data_sha256:
        raise DataError(f"{data} was changed after its look was counted", limit="one file")
    if attests:
        subject = subject_of(production, first.version, second.alias or ALIAS_PRODUCTION)
        _require_same(subject, outcome.comparison)
        content = _attested(outcome.comparison)
        signer = signing if key is None else load_attester_key(key)
        attest_version(production, subject, content, signer, data=(data_sha256,))
    return replace(outcome, counted=True)


def _require_same(subject: Subject, result: Comparison) -> None:
    """Raise PromotionRefused unless a version's files are those that answered."""
    if subject.files is None or sha256_json(dict(subject.files)) != result.version_sha256:
        raise PromotionRefused(
            f"the files of {subject} changed while they were compared",
            limit="files that stay as they are",
            remedy="Compare again",
        )


def _digest(data: Path) -> str:
    try:
        return sha256_file(data)
    except OSError as error:
        raise DataError(f"{data} cannot be read: {error.strerror}", limit="a file") from None


def _attested(result: Comparison) -> Compared:
    """Return the part of a comparison that is signed."""
    if result.estimate is None or result.low is None or result.high is None:
        raise PromotionRefused(
            f"the comparison has no interval: {result.reason or 'the answers are the same'}",
            limit="an interval, which a rule is held against",
        )
    return Compared(
        other=result.other_version,
        metric=result.metric,
        difference=result.estimate,
        low=result.low,
        high=result.high,
        level=result.level,
        rows=result.rows,
        method=result.method,
        identical=result.identical,
        look=result.looks,
        clusters=result.clusters,
    )


def named_versions(
    client: MlflowClient, candidate: str, other: str
) -> tuple[NamedVersion, NamedVersion]:
    """Return the two versions that are meant; ``@alias`` and ``7`` alone are of the other's model.

    Raises
    ------
    ConfigError
        If a text names no version, or both are one.
    PromotionRefused
        If there is no such model, version or alias.
    """
    models = [model_in(text) for text in (candidate, other)]
    if not any(models):
        raise ConfigError(
            f"{candidate} and {other} name no model", limit="such as churn/7 @production"
        )
    first = named_version(client, candidate, model=models[1])
    second = named_version(client, other, model=models[0])
    if (first.name, first.version) == (second.name, second.version):
        raise ConfigError(f"{candidate} and {other} are one version, {first}", limit="two versions")
    return first, second


def read_rows(
    path: Path, *, target: str, group: str | None = None, time: str | None = None
) -> pd.DataFrame:
    """Return a table of rows whose columns of roles are there and whole, in time order if asked.

    Raises
    ------
    DataError
        If the file cannot be read, names a column twice, lacks a column, has too few rows, no
        features, or a value missing in a column of a role.
    """
    table = _read(Path(path))
    roles = [role for role in (target, group, time) if role is not None]
    if len(set(roles)) < len(roles):
        raise DataError(f"one column of {path} has two roles: {', '.join(roles)}")
    for role in roles:
        if role not in table.columns:
            raise DataError(
                f"{path} has no column {shown(role)}",
                limit=f"one of {', '.join(shown(str(c)) for c in table.columns[:8])}",
            )
        if missing := int(table[role].isna().sum()):
            raise DataError(
                f"{missing} of {len(table)} rows have no value in column {shown(role)}",
                limit="a value in every row",
                remedy="Leave these rows out, and say so where the result is used",
            )
    if len(table) < LEAST_ROWS:
        raise DataError(f"{path} has {len(table)} rows", limit=f"at least {LEAST_ROWS}")
    if len(table.columns) == len(roles):
        raise DataError(f"{path} has no column of features beside {', '.join(roles)}")
    return table if time is None else table.loc[_times(table[time], time).argsort(kind="stable")]


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} does not exist", limit="a Parquet or CSV file")
    try:
        if path.suffix.lower() == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                header = next(csv.reader(file), [])
            _require_once(path, header)
            return pd.read_csv(path, encoding="utf-8-sig")
        _require_once(path, pq.read_schema(path).names)
        return pd.read_parquet(path).reset_index(drop=True)
    except (OSError, ValueError, pa.ArrowException, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} cannot be read: {one_line(error)}", limit="a Parquet or CSV file"
        ) from None


def _require_once(path: Path, columns: list[str]) -> None:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise DataError(f"{path} names the column {shown(twice[0])} twice", limit="once")


def _times(column: pd.Series, name: str) -> NDArray[Any]:
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy()
    try:
        return np.asarray(pd.to_datetime(column, utc=True, format="ISO8601").astype("int64"))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"column {shown(name)} holds no times: {one_line(error)}",
            limit="times in ISO form, or numbers",
        ) from None


def _values(column: pd.Series) -> NDArray[Any]:
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return column.to_numpy()
    return column.astype(str).to_numpy(dtype=np.str_)


@contextmanager
def _as_parquet(features: pd.DataFrame) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="moola-rows-") as folder:
        path = Path(folder) / "features.parquet"
        features.to_parquet(path, index=False)
        yield path


def _same(one: VersionAnswers, two: VersionAnswers) -> bool:
    if one.values.shape != two.values.shape or one.values.dtype.kind != two.values.dtype.kind:
        return False
    if one.values.dtype.kind == "f":
        return bool(np.allclose(one.values, two.values, rtol=0, atol=_IGNORED))
    return bool((one.values == two.values).all())


def _answer_text(answer: Any) -> str:
    values = np.atleast_1d(answer)
    return ", ".join(str(v) if values.dtype.kind == "U" else f"{v:.4g}" for v in values[:8])
