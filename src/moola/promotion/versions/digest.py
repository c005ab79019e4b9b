"""One digest over everything in a model folder that decides how the model behaves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from moola.errors import PromotionRefused
from moola.hashing import sha256_file, sha256_json
from moola.promotion.calls import mlflow_call
from moola.promotion.versions.compiled import plain_caches

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow writes this file when it resolves a `models:/` address, also into a local store in place.
_WRITTEN_BY_MLFLOW = "registered_model_meta"


def model_files_digest(folder: Path) -> str:
    """Return the SHA-256 over all files of a model folder that decide how the model behaves.

    Every regular file at any depth counts, by its relative path and its bytes: ``MLmodel``,
    weights, code, requirements. Two kinds do not count: ``registered_model_meta`` at the top,
    which MLflow writes when a version is looked up, and compiled files in ``__pycache__`` that hold
    exactly what the source beside them compiles to, which Python writes when a model is loaded in
    place. Any other compiled file counts, because Python would run it instead of the source.

    Parameters
    ----------
    folder
        The folder that holds ``MLmodel``.

    Returns
    -------
    str
        64 hex digits.

    Raises
    ------
    PromotionRefused
        If the folder holds no ``MLmodel``, or something else than regular files and folders.
    """
    return sha256_json(model_file_digests(folder))


def model_file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that `model_files_digest` counts, by its relative path."""
    root = Path(folder)
    if not (root / "MLmodel").is_file():
        raise PromotionRefused(f"{root} is not a model", limit="a folder with a file MLmodel")
    uncounted = plain_caches(root) | {_WRITTEN_BY_MLFLOW}
    digests: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root).as_posix()
        if path.is_symlink():
            raise PromotionRefused(
                f"{relative} of the model is a symbolic link", limit="regular files only"
            )
        if not (path.is_file() or path.is_dir()):
            raise PromotionRefused(
                f"{relative} of the model is a pipe or a device", limit="regular files only"
            )
        if path.is_file() and relative not in uncounted:
            digests[relative] = sha256_file(path)
    return digests


def version_digest(client: MlflowClient, name: str, version: str) -> str:
    """Download a registered version's files and return their `model_files_digest`.

    The files are copied to a temporary folder, so nothing is written into the store.

    Parameters
    ----------
    client
        Client of the registry.
    name
        The registered model.
    version
        Its version.

    Returns
    -------
    str
        64 hex digits.

    Raises
    ------
    PromotionRefused
        If the version does not exist, has no files, or its files are not a model.
    TrackingError
        If the server or store cannot be reached.
    """
    with downloaded(client, name, version) as folder:
        return model_files_digest(folder)


@contextmanager
def downloaded(client: MlflowClient, name: str, version: str) -> Iterator[Path]:
    """Copy a registered version's files to a private folder that lives as long as the block.

    Parameters
    ----------
    client
        Client of the registry.
    name
        The registered model.
    version
        Its version.

    Yields
    ------
    Path
        The folder that holds ``MLmodel``.

    Raises
    ------
    PromotionRefused
        If the version does not exist or has no files.
    TrackingError
        If the server or store cannot be reached.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with mlflow_call(f"version {version} of {name}", reads=True):
        address = client.get_model_version_download_uri(name, version)
    with tempfile.TemporaryDirectory(prefix="moola-version-") as temporary:
        with mlflow_call(f"the files at {address}", reads=True):
            repository = get_artifact_repository(address, tracking_uri=client.tracking_uri)
            repository.download_artifacts("", dst_path=temporary)
        yield Path(temporary)
