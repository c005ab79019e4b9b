"""The guard for any registered model: begin, ask, approve, move, export."""

from __future__ import annotations

import getpass
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moola.config.names import ALIAS_PRODUCTION, STAGE_PRODUCTION
from moola.config.policy import DEFAULT_ALIASES, Policy
from moola.config.promotion import (
    POLICY_FILE,
    TRUSTED_FOLDER,
)
from moola.errors import BadInput, ConfigError, PromotionRefused
from moola.promotion.aliases import move, proof
from moola.promotion.aliases.proof import AliasAnswer
from moola.promotion.aliases.requirements import Attested
from moola.promotion.calls import mlflow_call
from moola.promotion.decision import Decision
from moola.promotion.evidence.envelope import DsseEnvelope
from moola.promotion.evidence.keys import (
    PrivateKey,
    ensure_signing_key,
    key_id,
    load_attester_key,
    load_trusted_keys,
)
from moola.promotion.evidence.predicates import (
    Approval,
    Order,
    kind_of,
)
from moola.promotion.production import Production, signing_key
from moola.promotion.versions.named import named_version
from moola.tracking.store import connect, store_exists

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
    signer = _signer(project, signer)
    policy = project / POLICY_FILE
    is_new = not policy.exists()
    if is_new:
        guarded = [alias for alias in used if alias not in (*DEFAULT_ALIASES, STAGE_PRODUCTION)]
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text(_first_policy((*DEFAULT_ALIASES, *guarded), signer))
    Policy.from_yaml(policy)
    return Begun(
        models=models, aliases=used, policy=policy, made_policy=is_new, key=key, signer=signer
    )


def _signer(project: Path, name: str) -> str:
    """Return the name of the public key that belongs to the key that signs here.

    Raises ConfigError if no key does: whoever took it off the trusted keys meant it.
    """
    key = signing_key(project)
    trusted = load_trusted_keys(project / TRUSTED_FOLDER)
    identity = name if key is None else key_id(key.public_key())
    if identity not in trusted.attesters or identity in trusted.revoked:
        raise ConfigError(
            f"key {identity}, which signs here, is not trusted",
            limit="a key that counts",
            remedy="Put its public half into .moola/trusted, or remove the key",
        )
    return trusted.named(identity)


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


def production_of(
    text: str, *, ledger_url: str | None = None, project: Path = Path()
) -> tuple[Production, str]:
    """Return the production of the model that ``churn/7`` names, and the version."""
    client = connect()
    named = named_version(client, text)
    production = Production.of_project(client, named.name, ledger_url=ledger_url, project=project)
    return production, named.version


def check(
    text: str, *, alias: str | None = None, ledger_url: str | None = None, project: Path = Path()
) -> list[AliasAnswer]:
    """Return what each guarded alias requires of a version; a guarded server asks its own rules."""
    production, version = production_of(text, ledger_url=ledger_url, project=project)
    return proof.check(production, version, alias)


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
    signing = signing_key_of(production, key)
    if not reason.strip() or len(reason) > 2000:
        raise BadInput("reason is empty or long", limit="1 to 2,000 characters")
    subject = proof.subject_of(production, version, ALIAS_PRODUCTION)
    return proof.attest_version(production, subject, Approval(reason=reason), signing)


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
        return move.move_alias(production, version, alias, dry_run=dry_run)
    if not reason:
        raise BadInput("no reason is given", limit="--reason, which goes into the ledger")
    order = Order(action="break-glass", alias=alias, champion="", reason=reason)
    return move.move_alias(
        production,
        version,
        alias,
        dry_run=dry_run,
        order=order,
        key=signing_key_of(production, key),
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
    version = to or move.previous_holder(production, alias)
    order = Order(action="rollback", alias=alias, champion="", reason=reason)
    return move.move_alias(
        production,
        version,
        alias,
        dry_run=dry_run,
        order=order,
        key=signing_key_of(production, key),
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
    subject = proof.subject_of(production, version, ALIAS_PRODUCTION)
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
    envelopes = {DsseEnvelope.from_json(text).digest: text for text in texts}
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


def signing_key_of(production: Production, path: Path | None) -> PrivateKey:
    """Return the key of a file, or the project's own."""
    return production.require_signing_key() if path is None else load_attester_key(path)
