"""Guarded artifact repositories: the files of a version that held Production cannot be changed.

The check stands where MLflow has already resolved the path and is about to write, so that no
spelling of the path in the request can go round it.
"""

from __future__ import annotations

import posixpath
from typing import Any

import mlflow
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from moola.errors import ConfigError
from moola.promotion.guard_core import Guard, deny

# Resolved by other repositories, which are guarded themselves, or never written by a server.
_INDIRECT = ("runs", "models", "http", "https", "mlflow-artifacts", "dbfs")
# Private, so a version of MLflow may rename them: the checks would then never run.
_OVERRIDDEN_LOCALLY = ("_publish_staged_artifact", "_create_staging_artifact")


def guard_all_repositories(guard: Guard) -> None:
    """Replace the artifact repositories of this server process by guarded ones."""
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    known = dict(_artifact_repository_registry.get_registered_artifact_repositories())
    for scheme, repository in known.items():
        if scheme not in _INDIRECT and isinstance(repository, type):
            _artifact_repository_registry.register(scheme, guarded(repository, guard))


def guarded(base: type[ArtifactRepository], guard: Guard) -> type[ArtifactRepository]:
    """Return a subclass of an artifact repository that refuses to change what is frozen.

    Raises
    ------
    ConfigError
        If the repository of this MLflow lacks a method in which the check would stand.
    """
    for method in _OVERRIDDEN_LOCALLY if issubclass(base, LocalArtifactRepository) else ():
        if not callable(getattr(base, method, None)):
            raise ConfigError(
                f"{base.__name__} of MLflow {mlflow.__version__} lacks {method}",
                limit="a method that writes a file, so that frozen files can be kept",
                remedy="Install the version of MLflow that Moola is tested with",
            )
    mixin = _local_mixin(guard) if issubclass(base, LocalArtifactRepository) else _mixin(guard)
    return type(f"Guarded{base.__name__}", (mixin, base), {})


def _refuse_frozen(guard: Guard, place: str) -> None:
    if guard.frozen().covers(place):
        deny("these files belong to a version that held Production; they are frozen")


def _mixin(guard: Guard) -> type:
    """Return the checks for any store: before the write, on the resolved key."""

    class Guarded:
        artifact_uri: str

        def _check(self, *parts: str | None) -> None:
            path = posixpath.join(self.artifact_uri, *(part for part in parts if part))
            _refuse_frozen(guard, guard.place(path))

        def log_artifact(self, local_file: str, artifact_path: str | None = None) -> Any:
            self._check(artifact_path, posixpath.basename(local_file))
            return super().log_artifact(local_file, artifact_path)  # type: ignore[misc]

        def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> Any:
            self._check(artifact_path)
            return super().log_artifacts(local_dir, artifact_path)  # type: ignore[misc]

        def delete_artifacts(self, artifact_path: str | None = None) -> Any:
            self._check(artifact_path)
            return super().delete_artifacts(artifact_path)  # type: ignore[misc]

        def create_multipart_upload(
            self, local_file: str, num_parts: int = 1, artifact_path: str | None = None
        ) -> Any:
            self._check(artifact_path, posixpath.basename(local_file))
            return super().create_multipart_upload(  # type: ignore[misc]
                local_file, num_parts, artifact_path
            )

        def complete_multipart_upload(
            self, local_file: str, upload_id: str, parts: Any = None, artifact_path: Any = None
        ) -> Any:
            self._check(artifact_path, posixpath.basename(local_file))
            return super().complete_multipart_upload(  # type: ignore[misc]
                local_file, upload_id, parts, artifact_path
            )

    return Guarded


def _local_mixin(guard: Guard) -> type:
    """Return the checks for a local store: as the finished file takes its name, under the lock."""

    class GuardedLocal:
        artifact_dir: str

        def _publish_staged_artifact(
            self, temp_file_path: str, destination_file_path: str, *args: Any, **kwargs: Any
        ) -> Any:
            with guard.files_held():
                _refuse_frozen(guard, guard.place(destination_file_path))
                return super()._publish_staged_artifact(  # type: ignore[misc]
                    temp_file_path, destination_file_path, *args, **kwargs
                )

        def _create_staging_artifact(
            self, artifact_file_name: str, artifact_path: str | None = None
        ) -> Any:
            where = posixpath.join(self.artifact_dir, artifact_path or "", artifact_file_name)
            _refuse_frozen(guard, guard.place(where))  # before a folder is made or a byte read
            return super()._create_staging_artifact(  # type: ignore[misc]
                artifact_file_name, artifact_path
            )

        def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> Any:
            with guard.files_held():
                _refuse_frozen(
                    guard, guard.place(posixpath.join(self.artifact_dir, artifact_path or ""))
                )
                return super().log_artifacts(local_dir, artifact_path)  # type: ignore[misc]

        def delete_artifacts(self, artifact_path: str | None = None) -> Any:
            with guard.files_held():
                _refuse_frozen(
                    guard, guard.place(posixpath.join(self.artifact_dir, artifact_path or ""))
                )
                return super().delete_artifacts(artifact_path)  # type: ignore[misc]

    return GuardedLocal
