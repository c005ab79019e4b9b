"""A version's files brought to a private folder: listed first, and copied only if all are known."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from moola.config import packaging
from moola.errors import MoolaError, PromotionRefused, one_line, shown
from moola.promotion.calls import mlflow_call
from moola.promotion.versions.packaging_files import known_entries, opened, regular_files

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MOST_LISTED = 64
_STORES = (
    "", "file", "mlflow-artifacts", "models", "runs",
    "s3", "r2", "b2", "gs", "wasb", "wasbs", "abfss", "hdfs", "viewfs", "dbfs",
)  # fmt: skip


@contextmanager
def fetched(client: MlflowClient, name: str, version: str) -> Iterator[Path]:
    """Copy a registered version's files to a private folder that lives as long as the block.

    Unlike `moola.promotion.versions.digest.downloaded`, which copies whatever is there, this lists
    first and copies only what Moola itself writes, up to the largest sizes.

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
        If the version does not exist, or holds other files than Moola writes.
    TrackingError
        If the server or store cannot be reached.
    """
    with mlflow_call(f"version {version} of {name}", reads=True):
        address = client.get_model_version_download_uri(name, version)
    with fetched_from(address, f"version {version} of {name}", client.tracking_uri) as folder:
        yield folder


@contextmanager
def fetched_from(address: str, what: str, tracking_uri: str | None = None) -> Iterator[Path]:
    """Copy the files of a model at an address that MLflow understands; see `fetched`."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    _require_store(address, what, tracking_uri)
    with tempfile.TemporaryDirectory(prefix="moola-version-") as temporary:
        try:
            with mlflow_call(f"the files of {what}", reads=True):
                repository = get_artifact_repository(address, tracking_uri=tracking_uri)
                copy_known(repository, Path(temporary), packaging.FILES)
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, MoolaError):
                raise
            problem = f"the files of {what} cannot be read: {one_line(error)}"
            raise PromotionRefused(problem) from None
        yield Path(temporary)


def _require_store(address: str, what: str, tracking_uri: str | None) -> None:
    """Refuse an address that would make this process call a server of a stranger's choice."""
    parts = urlsplit(address)
    own_host = urlsplit(tracking_uri or "").netloc
    elsewhere = parts.scheme == "mlflow-artifacts" and parts.netloc not in ("", own_host)
    if parts.scheme not in _STORES or elsewhere:
        raise PromotionRefused(
            f"the files of {what} lie at an address of kind {shown(parts.scheme)}",
            limit=f"the tracking server's own store, or one of {', '.join(filter(None, _STORES))}",
        )


def copy_known(repository: Any, folder: Path, files: Mapping[str, int]) -> None:
    """Copy known files of an artifact repository, if it holds these and no others.

    Parameters
    ----------
    repository
        MLflow's artifact repository.
    folder
        Where the copies go.
    files
        Largest size in bytes by relative path; `moola.config.packaging.FILES` also lets in what
        MLflow and Python add when a model is looked up.

    Raises
    ------
    PromotionRefused
        If a file is absent, unknown or too large, or one on this machine is no regular file.
    """
    while hasattr(repository, "repo"):  # an address of a run or model stands for another
        repository = repository.repo
    local = getattr(repository, "artifact_dir", None)
    sizes = _local_sizes(Path(local)) if local else _listed(repository)
    for name in known_entries(list(sizes), files):
        most = files.get(name, packaging.OPTIONAL_FILE_BYTES)
        if sizes[name] > most:
            raise PromotionRefused(f"{name} has {sizes[name]} bytes", limit=f"at most {most}")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if local:
            with opened(Path(local) / name, links=True) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        else:
            repository._download_file(name, str(target))


def _local_sizes(folder: Path) -> dict[str, int]:
    try:
        return {name: (folder / name).lstat().st_size for name in regular_files(folder)}
    except OSError as error:
        raise PromotionRefused(f"the version's files cannot be read: {one_line(error)}") from None


def _listed(repository: Any) -> dict[str, int]:
    """Return the sizes of a repository's files; only folders that Moola makes are looked into."""
    sizes: dict[str, int] = {}
    waiting: list[str | None] = [None]
    while waiting:
        for entry in repository.list_artifacts(waiting.pop()) or []:
            if not entry.is_dir:
                sizes[entry.path] = entry.file_size or 0
            elif entry.path in (*packaging.FOLDERS, packaging.CACHE):
                waiting.append(entry.path)
            else:
                sizes[f"{entry.path}/"] = 0  # no name of a file: refused as unknown
        if len(sizes) > _MOST_LISTED:
            break
    return sizes
