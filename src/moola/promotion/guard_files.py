"""A version's files, as they lie in the store the guarded server reads and writes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from moola.errors import PromotionRefused


@contextmanager
def version_files(address: str) -> Iterator[Path]:
    """Yield a temporary folder with a copy of the files at an artifact address.

    Parameters
    ----------
    address
        Where the registry says the files are.

    Yields
    ------
    Path
        The folder with the copy.

    Raises
    ------
    PromotionRefused
        If the address lies outside this server's store, or its files cannot be read.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.server import handlers
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    parts = urlsplit(address)
    proxied = parts.scheme == "mlflow-artifacts"
    if parts.scheme in ("runs", "models", "http", "https") or (proxied and parts.netloc):
        raise PromotionRefused(
            f"the files lie at {address}", limit="an address in this server's artifact store"
        )
    with tempfile.TemporaryDirectory(prefix="moola-guard-") as temporary:
        try:
            if proxied:
                repository = handlers._get_artifact_repo_mlflow_artifacts()
                folder = repository.download_artifacts(parts.path.strip("/"), temporary)
            else:
                folder = get_artifact_repository(address).download_artifacts("", temporary)
        except (MlflowException, OSError) as error:
            line = " ".join(str(error).split())
            raise PromotionRefused(f"the files at {address} cannot be read: {line}") from error
        yield Path(folder)
