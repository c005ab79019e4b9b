"""The pretrained encoder of a version, fetched by digest, never from a path that it names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlflow import MlflowClient

from moola.config import names
from moola.config.training import FinetuneConfig
from moola.errors import CheckpointError, MoolaError, PromotionRefused, one_line, shown
from moola.hashing import atomic_folder
from moola.judging.candidate import Candidate
from moola.pretraining.stored_encoder import (
    ENCODER_FILES,
    check_stored_encoder,
    encoder_digest,
    encoder_folder,
)
from moola.promotion.calls import mlflow_call
from moola.promotion.versions.fetched import copy_known
from moola.tracking.mlflow_run import TrackedRun
from moola.training.finetune import with_sizes

_AGAIN = "Train the model again with `moola train`, which keeps the encoder in the run"


def ready_to_start(
    config: FinetuneConfig, cache: Path = Path(names.EVALUATION_FOLDER)
) -> FinetuneConfig:
    """Return a configuration with the encoder's checkpoint folder and explicit sizes.

    Raises CheckpointError if there is no such encoder, or the model takes another kind.
    """
    if config.pretrained_encoder is None:
        return config
    folder = encoder_folder(Path(config.pretrained_encoder), cache / "encoders")
    return with_sizes(replace(config, pretrained_encoder=str(folder)))


def keep_encoder(run: TrackedRun, encoder: Path) -> str:
    """Log the encoder a training starts from into its run; return its digest.

    Parameters
    ----------
    run
        The training run.
    encoder
        Folder of the encoder's checkpoint.

    Raises
    ------
    CheckpointError
        If Moola's pretraining did not write it; no gate could judge the version then.
    """
    if not all((encoder / name).is_file() for name in ENCODER_FILES):
        raise CheckpointError(
            f"encoder {shown(str(encoder))} is not one that Moola wrote",
            limit=f"a folder with {' and '.join(ENCODER_FILES)}",
            remedy="Pretrain it with `moola pretrain-bilstm`",
        )
    check_stored_encoder(encoder)
    for name in ENCODER_FILES:
        run.log_bytes(f"{names.ARTIFACT_STARTED_FROM}/{name}", (encoder / name).read_bytes())
    return encoder_digest(encoder)


def with_encoder(client: MlflowClient, candidate: Candidate, cache: Path) -> Candidate:
    """Copy a version's initial encoder into the cache; return the candidate to train.

    The encoder is read from the run that made the version, and only with the digest that the
    version states; the path in its configuration is not used.

    Parameters
    ----------
    client
        Client of the tracking store.
    candidate
        The version.
    cache
        Folder of encoders by digest.

    Returns
    -------
    Candidate
        Unchanged without an encoder; else with the encoder's folder in `training`.

    Raises
    ------
    PromotionRefused
        If the run has no such encoder, or Moola's pretraining did not write it.
    TrackingError
        If the store cannot be reached.
    """
    digest = candidate.inspection.encoder_sha256
    if digest is None:
        return candidate
    folder = cache / "encoders" / digest[:32]
    try:
        if not folder.is_dir() or encoder_digest(folder) != digest:
            _fetch(client, candidate.run_id, folder)
        if (actual := encoder_digest(folder)) != digest:
            raise PromotionRefused(
                f"the encoder in run {candidate.run_id} has SHA-256 {actual[:12]}",
                limit=f"{digest[:12]}, as version {candidate.version} states",
                remedy=_AGAIN,
            )
    except OSError as error:
        raise PromotionRefused(
            f"the encoder cannot be read: {one_line(error)}",
            limit=f"files in {shown(str(folder))} that can be read",
            remedy="Remove that folder; the encoder is fetched again",
        ) from None
    training = replace(candidate.config, pretrained_encoder=str(folder))
    return replace(candidate, training=training)


def _fetch(client: MlflowClient, run_id: str, folder: Path) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    what = f"the encoder in run {run_id}"
    with mlflow_call(what, reads=True), atomic_folder(folder, overwrite=True) as temporary:
        place = f"{client.get_run(run_id).info.artifact_uri}/{names.ARTIFACT_STARTED_FROM}"
        repository = get_artifact_repository(place, tracking_uri=client.tracking_uri)
        try:
            copy_known(repository, temporary, ENCODER_FILES)
            check_stored_encoder(temporary)
        except MoolaError as error:
            problem = f"{what} cannot be used: {error.problem}"
            raise PromotionRefused(problem, limit=error.limit, remedy=_AGAIN) from None
