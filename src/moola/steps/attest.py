"""Running the tests of a version, or reading its metrics, and signing the result."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from moola.config.names import ALIAS_PRODUCTION
from moola.config.promotion import (
    ENV_SERVER_KEY,
    ENV_SIGNING_KEY,
    ENV_SIGNING_KEY_COMMAND,
)
from moola.errors import BadInput, ConfigError, PromotionRefused, shown
from moola.hashing import sha256_file
from moola.promotion.aliases import proof
from moola.promotion.evidence.predicates import (
    MetricValues,
    SuiteRun,
)
from moola.promotion.ledger.bounded_json import read_json
from moola.steps.guard import production_of, signing_key_of

_MOST_METRICS = 1 << 20
_MOST_JUNIT = 1 << 26
_MOST_NAMES = 500
_TEST_FILES = 1000


def attest_tests(
    text: str,
    command: Sequence[str],
    *,
    junit: Path | None = None,
    seconds: float = 3600.0,
    key: Path | None = None,
    ledger_url: str | None = None,
    project: Path = Path(),
) -> SuiteRun:
    """Run a command that tests a version, and attest how it ended; a failure is attested too.

    The command gets no signing key in its environment, and the version's address as
    ``MOOLA_MODEL_URI``. pytest is asked for a JUnit file, by which tests are counted.

    Parameters
    ----------
    text
        The version, as ``churn/7``.
    command
        Words of the command; no shell.
    junit
        JUnit file that the command writes by itself.
    seconds
        After that the command is stopped, and its failure attested.
    key
        File of the key that signs; None: the project's.
    ledger_url, project
        As everywhere.

    Raises
    ------
    ConfigError
        If the command cannot be started, or there is no key.
    """
    production, version = production_of(text, ledger_url=ledger_url, project=project)
    signing = signing_key_of(production, key)
    subject = proof.subject_of(production, version, ALIAS_PRODUCTION)
    with tempfile.TemporaryDirectory(prefix="moola-attest-") as folder:
        report = Path(folder) / "junit.xml"
        env = _without_keys(os.environ)
        env["MOOLA_MODEL_URI"] = f"models:/{production.name}/{version}"
        env["PYTEST_ADDOPTS"] = f"{env.get('PYTEST_ADDOPTS', '')} --junitxml={report}".strip()
        files, before = _test_files(command), _changes(junit)
        started = time.monotonic()
        code = _exit_code(command, env, seconds)
        spent = time.monotonic() - started
        if _test_files(command) != files:
            raise ConfigError(
                "the test files changed while they ran", remedy="Run it again; nothing was attested"
            )
        if junit is not None and _changes(junit) == before:
            raise ConfigError(
                f"the command wrote no {junit}",
                limit="a JUnit file",
                remedy="Leave --junit out, or have the command write it",
            )
        counts = _counted(junit or report)
    if proof.subject_of(production, version, ALIAS_PRODUCTION).files != subject.files:
        raise PromotionRefused(
            f"the files of {subject} changed while they were tested",
            limit="files that stay as they are",
            remedy="Run it again; nothing was attested",
        )
    run = SuiteRun(
        passed=code == 0 and not counts.get("failed_tests"),
        command=tuple(word[:1000] for word in command),
        exit_code=code,
        seconds=round(spent, 3),
        files=files,
        **counts,
    )
    proof.attest_version(production, subject, run, signing)
    return run


def attest_metrics(
    text: str,
    metrics: Path,
    *,
    data: Sequence[Path] = (),
    key: Path | None = None,
    ledger_url: str | None = None,
    project: Path = Path(),
) -> MetricValues:
    """Attest what any evaluation measured of a version.

    Parameters
    ----------
    text
        The version, as ``churn/7``.
    metrics
        JSON: name to number, or to ``{"estimate": .., "low": .., "high": ..}``.
    data
        The data files it was measured on; their SHA-256 is attested.
    key, ledger_url, project
        As everywhere.

    Raises
    ------
    BadInput
        If a file cannot be read, or a value is no finite number.
    """
    production, version = production_of(text, ledger_url=ledger_url, project=project)
    signing = signing_key_of(production, key)
    content = read_metrics(metrics)
    digests = [_digest_of(path) for path in data]
    subject = proof.subject_of(production, version, ALIAS_PRODUCTION)
    proof.attest_version(production, subject, content, signing, data=digests)
    return content


def read_metrics(path: Path) -> MetricValues:
    """Return the metrics of a JSON file; raises BadInput for what is no number or interval."""
    try:
        if path.stat().st_size > _MOST_METRICS:
            raise BadInput(f"{path} is larger than {_MOST_METRICS} bytes")
        values = read_json(path.read_text("utf-8"), max_chars=_MOST_METRICS)
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path} cannot be read: {error}", limit="JSON: name to number") from None
    if not isinstance(values, dict) or not values:
        raise BadInput(f"{path} holds no metrics", limit="a JSON object: name to number")
    estimates, lows, highs = {}, {}, {}
    for name, value in values.items():
        ends = {"estimate", "low", "high"}
        if isinstance(value, dict) and set(value) == ends and all(map(_number, value.values())):
            estimates[name] = float(value["estimate"])
            lows[name], highs[name] = float(value["low"]), float(value["high"])
        elif _number(value):
            estimates[name] = float(value)
        else:
            raise BadInput(
                f"metric {shown(name)} is {shown(value)}",
                limit="a finite number, or an object of estimate, low and high",
            )
    try:
        return MetricValues(estimates=estimates, lows=lows, highs=highs)
    except PromotionRefused as error:
        raise BadInput(f"{path}: {error}") from None


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _without_keys(env: Mapping[str, str]) -> dict[str, str]:
    keys = (ENV_SIGNING_KEY, ENV_SIGNING_KEY_COMMAND, ENV_SERVER_KEY)
    return {name: value for name, value in env.items() if name not in keys}


def _exit_code(command: Sequence[str], env: Mapping[str, str], seconds: float) -> int | None:
    """Run a command in a session of its own; None where it had to be stopped."""
    try:
        process = subprocess.Popen([*command], env=env, start_new_session=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{command[0]!r} cannot be started: {error}",
            limit="a command on the PATH",
            remedy="Try it in this shell first",
        ) from None
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):  # whatever it left running
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _test_files(command: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of every file that a word of the command names, folders looked into."""
    files: list[Path] = []
    for word in command[1:]:
        path = Path(word.partition("::")[0])
        if path.is_dir():
            files += sorted(
                p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts
            )
        elif path.is_file():
            files.append(path)
        if len(files) > _TEST_FILES:
            raise ConfigError(
                f"the command names more than {_TEST_FILES} files",
                limit="the tests of the model",
                remedy="Name their folder, not the project",
            )
    return {path.as_posix(): sha256_file(path) for path in files}


def _changes(path: Path | None) -> tuple[int, int] | None:
    """Return size and time of a file, None where there is none."""
    if path is None or not path.is_file():
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _counted(path: Path) -> Mapping[str, Any]:
    """Return the counts and names of a JUnit file; nothing where the command wrote none."""
    if not path.is_file():
        return {}
    if path.stat().st_size > _MOST_JUNIT:
        raise ConfigError(f"{path} is larger than {_MOST_JUNIT} bytes", limit="a JUnit file")
    text = path.read_text("utf-8", errors="replace")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ConfigError(f"{path} declares entities", limit="a plain JUnit file")
    try:
        cases = list(ElementTree.fromstring(text).iter("testcase"))
    except ElementTree.ParseError as error:
        raise ConfigError(f"{path} cannot be read: {error}", limit="a JUnit file") from None
    names: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for case in cases:
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "passed"
        kind = "skipped" if "skipped" in kinds else kind
        names[kind].append(f"{case.get('classname', '')}::{case.get('name', '')}"[:500])
    return {
        **{f"{kind}_tests": len(listed) for kind, listed in names.items()},
        "names": tuple(names["passed"][:_MOST_NAMES]),
        "failed_names": tuple(names["failed"][:_MOST_NAMES]),
    }


def _digest_of(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", limit="a data file") from None
