"""The guard for any registered model: begin, ask, attest, approve, move, export."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from moola.config.names import ALIAS_PRODUCTION, STAGE_PRODUCTION
from moola.config.policy import DEFAULT_ALIASES, Policy
from moola.config.promotion import (
    ENV_SERVER_KEY,
    ENV_SIGNING_KEY,
    ENV_SIGNING_KEY_COMMAND,
    POLICY_FILE,
    TRUSTED_FOLDER,
)
from moola.errors import BadInput, ConfigError, PromotionRefused, shown
from moola.hashing import sha256_file
from moola.promotion import aliases
from moola.promotion.calls import mlflow_call
from moola.promotion.decision import Decision
from moola.promotion.evidence.envelope import Envelope
from moola.promotion.evidence.keys import (
    PrivateKey,
    ensure_signing_key,
    load_attester_key,
)
from moola.promotion.evidence.predicates import (
    Approval,
    Metrics,
    Order,
    SuiteRun,
    kind_of,
)
from moola.promotion.ledger.bounded_json import read_json
from moola.promotion.production import Production
from moola.promotion.requirements import Attested
from moola.tracking.store import connect, store_exists

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MOST_METRICS = 1 << 20
_MOST_JUNIT = 1 << 26
_MOST_NAMES = 500
_TEST_FILES = 1000


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What `moola guard init` found and made.

    Parameters
    ----------
    models
        Registered models, prompts left out.
    aliases
        How many models use each alias; stage Production under its own name.
    policy
        The policy file.
    made_policy
        Whether it was made now.
    key
        The file of the signing key.
    signer
        Its name in rules.
    """

    models: int
    aliases: Mapping[str, int]
    policy: Path
    made_policy: bool
    key: Path
    signer: str


def begin(*, backend_store_uri: str | None = None, project: Path = Path()) -> Begun:
    """Read the registry, write a policy in report mode and a key; nothing is refused yet.

    A policy and a key that are there stay as they are.

    Raises
    ------
    TrackingError
        If the registry cannot be read.
    """
    models, used = 0, dict[str, int]()
    if store_exists(backend_store_uri):
        models, used = _in_use(connect(backend_store_uri))
    signer = re.sub(r"[^A-Za-z0-9._@-]", "-", getpass.getuser()).lstrip("._@-") or "gate-runner"
    key = ensure_signing_key(project, name=signer)
    policy = project / POLICY_FILE
    made = not policy.exists()
    if made:
        guarded = [alias for alias in used if alias not in (*DEFAULT_ALIASES, STAGE_PRODUCTION)]
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text(_first_policy((*DEFAULT_ALIASES, *guarded), signer))
    Policy.from_yaml(policy)
    return Begun(
        models=models, aliases=used, policy=policy, made_policy=made, key=key, signer=signer
    )


def _in_use(client: MlflowClient) -> tuple[int, dict[str, int]]:
    from mlflow.prompt.constants import IS_PROMPT_TAG_KEY

    used: Counter[str] = Counter()
    models, token = 0, None
    with mlflow_call("the registered models", reads=True):
        while True:
            page = client.search_registered_models(page_token=token)
            for model in page:
                if str(model.tags.get(IS_PROMPT_TAG_KEY, "")).lower() == "true":
                    continue
                models += 1
                used.update(model.aliases)
                stages = {v.current_stage for v in model.latest_versions or ()}
                used.update([STAGE_PRODUCTION] if STAGE_PRODUCTION in stages else ())
            token = page.token
            if not token:
                return models, dict(used.most_common())


def _first_policy(guarded: Sequence[str], signer: str) -> str:
    names = ", ".join(json.dumps(alias) for alias in guarded)
    return f"""\
# What an alias of a registered model requires. `moola guard check MODEL/VERSION` says what is met.
version: 2

# report: nothing is refused, and the ledger says what would have been. enforce: it is refused.
mode: report

rules:
  - name: tested
    models: ["*"]
    aliases: [{names}]      # production is the stage too
    signed_by: [{signer}]   # names of the public keys in {TRUSTED_FOLDER}
    require:
      - tests               # moola attest MODEL/VERSION -- pytest tests/model
      # - metric: {{name: log_loss, at_most: 0.4, counts: interval}}
      # - better: {{metric: log_loss}}          # than the version that holds the alias
      # - approve: {{by: [alice, bob], people: 1}}
"""


def target(client: MlflowClient, text: str) -> tuple[str, str]:
    """Return name and version of ``churn/7`` or ``churn@champion``.

    Raises
    ------
    BadInput
        If it is neither.
    PromotionRefused
        If there is no such version.
    """
    name, mark, rest = text.partition("@")
    if mark:
        with mlflow_call(f"alias {rest} of {name}", reads=True):
            return name, str(client.get_model_version_by_alias(name, rest).version)
    name, mark, rest = text.rpartition("/")
    if not mark or not re.fullmatch(r"[1-9][0-9]{0,8}", rest):
        raise BadInput(
            f"{text!r} names no version", limit="MODEL/VERSION or MODEL@ALIAS, such as churn/7"
        )
    with mlflow_call(f"version {rest} of {name}", reads=True):
        client.get_model_version(name, rest)
    return name, rest


def production_of(
    text: str, *, ledger_url: str | None = None, project: Path = Path()
) -> tuple[Production, str]:
    """Return the production of the model that ``churn/7`` names, and the version."""
    client = connect()
    name, version = target(client, text)
    return Production.of_project(client, name, ledger_url=ledger_url, project=project), version


def check(
    text: str, *, alias: str | None = None, ledger_url: str | None = None, project: Path = Path()
) -> list[dict[str, Any]]:
    """Return what each guarded alias requires of a version; a guarded server asks its own rules."""
    production, version = production_of(text, ledger_url=ledger_url, project=project)
    return aliases.check(production, version, alias)


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
    signing = _key(production, key)
    subject = aliases.subject_of(production, version, ALIAS_PRODUCTION)
    with tempfile.TemporaryDirectory(prefix="moola-attest-") as folder:
        own = Path(folder) / "junit.xml"
        env = _without_keys(os.environ)
        env["MOOLA_MODEL_URI"] = f"models:/{production.name}/{version}"
        env["PYTEST_ADDOPTS"] = f"{env.get('PYTEST_ADDOPTS', '')} --junitxml={own}".strip()
        files = _test_files(command)
        started = time.monotonic()
        code = _exit_code(command, env, seconds)
        spent = time.monotonic() - started
        if _test_files(command) != files:
            raise ConfigError(
                "the test files changed while they ran", remedy="Run it again; nothing was attested"
            )
        counts = _counted(junit or own, required=junit is not None)
    run = SuiteRun(
        passed=code == 0 and not counts.get("failed_tests"),
        command=tuple(word[:1000] for word in command),
        exit_code=code,
        seconds=round(spent, 3),
        files=files,
        **counts,
    )
    aliases.attest_version(production, subject, run, signing)
    return run


def attest_metrics(
    text: str,
    metrics: Path,
    *,
    data: Sequence[Path] = (),
    key: Path | None = None,
    ledger_url: str | None = None,
    project: Path = Path(),
) -> Metrics:
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
    signing = _key(production, key)
    content = read_metrics(metrics)
    digests = [_digest_of(path) for path in data]
    subject = aliases.subject_of(production, version, ALIAS_PRODUCTION)
    aliases.attest_version(production, subject, content, signing, data=digests)
    return content


def read_metrics(path: Path) -> Metrics:
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
        return Metrics(estimates=estimates, lows=lows, highs=highs)
    except PromotionRefused as error:
        raise BadInput(f"{path}: {error}") from None


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def approve(
    text: str,
    *,
    reason: str,
    key: Path | None = None,
    ledger_url: str | None = None,
    project: Path = Path(),
) -> str:
    """Approve a version, signed with one's own key; returns the digest of the attestation."""
    production, version = production_of(text, ledger_url=ledger_url, project=project)
    signing = _key(production, key)
    if not reason.strip() or len(reason) > 2000:
        raise BadInput("reason is empty or long", limit="1 to 2,000 characters")
    subject = aliases.subject_of(production, version, ALIAS_PRODUCTION)
    return aliases.attest_version(production, subject, Approval(reason=reason), signing)


def promote(
    text: str,
    *,
    alias: str,
    dry_run: bool = False,
    break_glass: bool = False,
    reason: str | None = None,
    key: Path | None = None,
    ledger_url: str | None = None,
    project: Path = Path(),
) -> Decision:
    """Give an alias to a version if its rules are met, or by breaking the glass with a reason."""
    production, version = production_of(text, ledger_url=ledger_url, project=project)
    if not break_glass:
        return aliases.move_alias(production, version, alias, dry_run=dry_run)
    if not reason:
        raise BadInput("no reason is given", limit="--reason, which goes into the ledger")
    order = Order(action="break-glass", alias=alias, champion="", reason=reason)
    return aliases.move_alias(
        production, version, alias, dry_run=dry_run, order=order, key=_key(production, key)
    )


def rollback(
    name: str,
    *,
    alias: str,
    to: str | None,
    reason: str,
    dry_run: bool = False,
    key: Path | None = None,
    ledger_url: str | None = None,
    project: Path = Path(),
) -> Decision:
    """Give an alias back to a version that held it, whatever its rules require now."""
    production = Production.of_project(connect(), name, ledger_url=ledger_url, project=project)
    production.require_model()
    version = to or aliases.previous_holder(production, alias)
    order = Order(action="rollback", alias=alias, champion="", reason=reason)
    return aliases.move_alias(
        production, version, alias, dry_run=dry_run, order=order, key=_key(production, key)
    )


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A bundle: the folder, its envelopes, and why other attestations were left out."""

    folder: Path
    envelopes: tuple[str, ...]
    ignored: tuple[str, ...]


def export(
    text: str, folder: Path, *, ledger_url: str | None = None, project: Path = Path()
) -> Exported:
    """Write what is attested about a version so that strangers can check it without Moola.

    The folder gets one DSSE envelope a file, ``SHA256SUMS`` of the version's files, and the public
    keys. Docs show how `openssl` and `securesystemslib` check it.

    Raises
    ------
    ConfigError
        If the folder is there and not empty.
    PromotionRefused
        If nothing that counts is attested.
    """
    production, version = production_of(text, ledger_url=ledger_url, project=project)
    subject = aliases.subject_of(production, version, ALIAS_PRODUCTION)
    texts = production.ledger.attestations(production.name, version)
    attested = Attested.read(texts, subject, production.keys, production.ledger.clock())
    if not attested.counting:
        raise PromotionRefused(
            f"nothing that counts is attested about {subject}",
            remedy=f"Run `moola attest {subject} -- pytest tests/model`",
        )
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", remedy="Give a new folder with --output")
    (folder / "keys").mkdir(parents=True, exist_ok=True)
    envelopes = {Envelope.from_json(text).digest: text for text in texts}
    names = []
    for number, one in enumerate(attested.counting, start=1):
        name = f"{number:03d}-{kind_of(one.content)}.dsse.json"
        (folder / name).write_text(envelopes[one.digest])
        names.append(name)
    for signer in {one.signer for one in attested.counting}:
        public = Path(project) / TRUSTED_FOLDER / f"{signer}.pem"
        (folder / "keys" / public.name).write_bytes(public.read_bytes())
    assert subject.files is not None
    sums = [f"{digest}  {path}\n" for path, digest in sorted(subject.files.items())]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return Exported(folder=folder, envelopes=tuple(names), ignored=attested.ignored)


def _key(production: Production, path: Path | None) -> PrivateKey:
    return production.require_signing_key() if path is None else load_attester_key(path)


def _without_keys(env: Mapping[str, str]) -> dict[str, str]:
    keys = (ENV_SIGNING_KEY, ENV_SIGNING_KEY_COMMAND, ENV_SERVER_KEY)
    return {name: value for name, value in env.items() if name not in keys}


def _exit_code(command: Sequence[str], env: Mapping[str, str], seconds: float) -> int | None:
    """Run a command in a session of its own; None where it had to be stopped."""
    try:
        process = subprocess.Popen([*command], env=env, start_new_session=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{command[0]!r} cannot be started: {error}", limit="a command on the PATH"
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
                f"the command names more than {_TEST_FILES} files", limit="the tests of the model"
            )
    return {path.as_posix(): sha256_file(path) for path in files}


def _counted(path: Path, *, required: bool) -> dict[str, Any]:
    """Return the counts and names of a JUnit file; nothing where the command wrote none."""
    if not path.is_file():
        if required:
            raise ConfigError(f"the command wrote no {path}", limit="a JUnit file")
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
