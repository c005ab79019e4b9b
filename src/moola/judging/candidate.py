"""A version: registered from a trained model, and found with its configuration."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from moola.config import names
from moola.config.training import FinetuneConfig
from moola.data.labels import class_names
from moola.data.splits import Split
from moola.data.store.data_store import WindowSet
from moola.errors import ConfigError, MoolaError, PromotionRefused, Refused, one_line
from moola.promotion.decision import PromotionDenied
from moola.promotion.ledger.entry import Draft
from moola.promotion.production import ledger_of
from moola.promotion.state import all_versions
from moola.promotion.versions.classes import require_classes
from moola.promotion.versions.digest import version_digest
from moola.promotion.versions.fetched import fetched
from moola.promotion.versions.inspection import Inspection, inspect
from moola.tracking.mlflow_run import TrackedRun

_OTHER_SET = "Give the --data-root with the set and split the version was trained on"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A registered version and its configuration, as stated in its own files.

    `training` is `config` with the local path of the encoder, to train with on this machine.
    """

    name: str
    version: str
    run_id: str
    inspection: Inspection
    training: FinetuneConfig

    @property
    def config(self) -> FinetuneConfig:
        """The configuration the version was trained with."""
        return self.inspection.config

    @property
    def model_sha256(self) -> str:
        """The digest of the version's files."""
        return self.inspection.sha256

    @property
    def uses_encoder(self) -> bool:
        """Whether the candidate started from a pretrained encoder."""
        return self.config.pretrained_encoder is not None


def register(run: TrackedRun, config: FinetuneConfig, name: str, model_id: str) -> str:
    """Register a logged model as the next version; return its number."""
    version = mlflow.register_model(f"models:/{model_id}", name, await_registration_for=None)
    number = str(version.version)
    tags = {
        names.TAG_MODEL_DIGEST: version_digest(run.client, name, number),
        names.TAG_STEP: "finetune",
    }
    for key, value in tags.items():
        run.client.set_model_version_tag(name, number, key, value)
    start = "with the pretrained encoder" if config.pretrained_encoder else "from scratch"
    run.client.update_model_version(
        name,
        number,
        description=f"{config.in_words}, {start}, on `{config.labeled}` under "
        f"`{config.split}`, seed {config.seed}. Its gates and the locked test windows decide "
        "whether `moola promote` lets it into Production.",
    )
    if number == "1":
        run.client.update_registered_model(
            name,
            description="Classifiers of OHLC windows, one version a candidate. Production moves by "
            "`moola promote` alone, when the gates and the locked test windows allow it.",
        )
    run.set_tags({names.TAG_CANDIDATE: f"{name}/{number}"})
    return number


def find_version(client: MlflowClient, name: str, version: str | None) -> str:
    """Return the number of a registered version; None takes the newest.

    Raises ConfigError if there is no such version.
    """
    try:
        if version is not None:
            return str(int(client.get_model_version(name, version).version))
        versions = all_versions(client, name)
    except MlflowException as error:
        numbers = sorted(int(v.version) for v in all_versions(client, name))
        raise ConfigError(
            f"version {version} of {name!r} cannot be read: {one_line(error)}",
            limit=f"one of {', '.join(map(str, numbers)) or 'none registered yet'}",
        ) from None
    if not versions:
        raise ConfigError(
            f"registered model {name!r} has no version",
            remedy="Train a candidate first: `moola train`",
        )
    return str(max(int(v.version) for v in versions))


def model_of(client: MlflowClient, name: str, version: str) -> str | None:
    """Return the kind of model a version's run states; its files are checked later."""
    run_id = client.get_model_version(name, version).run_id
    try:
        return client.get_run(run_id).data.params.get("model") if run_id else None
    except MlflowException:
        return None


def newest_of(client: MlflowClient, name: str, model: str) -> str:
    """Return the number of the newest version of a kind of model.

    Raises ConfigError if there is none.
    """
    numbers = sorted((int(v.version) for v in all_versions(client, name)), reverse=True)
    for number in numbers:
        if model_of(client, name, str(number)) == model:
            return str(number)
    raise ConfigError(
        f"registered model {name!r} has no version of model {model!r}",
        remedy=f"Train a candidate first: `moola train --model {model}`",
    )


def find_candidate(client: MlflowClient, name: str, version: str | None) -> Candidate:
    """Return a registered version with the configuration stated in its own files.

    The files are inspected in a separate process with limits before anything in them is used.
    Digest and configuration come from one copy, so evidence for the digest covers the
    configuration.

    Parameters
    ----------
    client
        Client of the registry.
    name
        The registered model.
    version
        Its version; None takes the newest.

    Raises
    ------
    ConfigError
        If there is no such version.
    PromotionRefused
        If its files are not exactly Moola's packaging, do not load, or do not predict.
    """
    number = find_version(client, name, version)
    with fetched(client, name, number) as folder:
        inspection = inspect(folder)
    return Candidate(
        name=name,
        version=number,
        run_id=str(client.get_model_version(name, number).run_id),
        inspection=inspection,
        training=inspection.config,
    )


def require_answers(
    client: MlflowClient, candidate: Candidate, labeled: WindowSet, split: Split
) -> None:
    """Refuse a version unless it predicts the validation windows of its labelled set.

    Parameters
    ----------
    client
        Client of the registry.
    candidate
        The version.
    labeled, split
        The set and split it is judged on, as stored here.

    Raises
    ------
    PromotionRefused
        If its classes or window length differ from the set's, the split belongs to another set, a
        prediction is not finite, its conformal threshold differs, or its files were changed.
    """
    require_classes(candidate.inspection.class_names, class_names(labeled.recipe), labeled.name)
    bars = candidate.inspection.window_bars
    if bars != labeled.recipe.window_bars:
        limit = f"{labeled.recipe.window_bars}, as {labeled.name} has"
        raise PromotionRefused(
            f"the version takes windows of {bars} bars", limit=limit, remedy=_OTHER_SET
        )
    if split.labeled != labeled.name or not len(split.val) or split.val.max() >= len(labeled):
        limit = f"a split of {labeled.name} with validation windows"
        raise PromotionRefused(
            f"the version's split is of {split.labeled}", limit=limit, remedy=_OTHER_SET
        )
    assert labeled.y is not None
    windows = (np.asarray(labeled.X_ohlc[split.val]), labeled.y[split.val])
    calibrated_here = (
        candidate.config.split.removeprefix("splits/").removesuffix(".json") == split.name
    )
    with fetched(client, candidate.name, candidate.version) as folder:
        inspection = inspect(folder, windows=windows, calibrated_on_them=calibrated_here)
    if inspection.sha256 != candidate.model_sha256:
        raise PromotionRefused(
            f"the files of version {candidate.version} have SHA-256 {inspection.sha256[:12]}",
            limit=f"{candidate.model_sha256[:12]}, as a moment ago",
            remedy="Start again, and find out who writes into the artifact store",
        )


@contextmanager
def refusals_noted(name: str, version: str, ledger_url: str | None = None) -> Iterator[None]:
    """Write a refusal in the block into the ledger, if there is one, unless it is there already."""
    try:
        yield
    except PromotionDenied:
        raise
    except Refused as refusal:
        draft = Draft(
            event="refusal",
            who=getpass.getuser(),
            name=name,
            reason=str(refusal),
            version_to=version,
        )
        with suppress(MoolaError):  # the refusal counts with or without its line
            ledger_of(ledger_url).append(draft)
        raise
