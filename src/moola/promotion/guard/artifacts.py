"""Guarded artifact repositories: the files of a version that held Production cannot be changed.

The check is where MLflow has already resolved the path and is about to write, so that no spelling
of the path in the request can go round it.
"""

from __future__ import annotations

import posixpath
from typing import Any

import mlflow
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from moola.errors import ConfigError
from moola.promotion.guard.census import FILES, close_unknown
from moola.promotion.guard.core import Guard, deny
from moola.promotion.guard.uploads import LONGEST_ADDRESS_SECONDS

# Resolved by other repositories, which are guarded themselves, or never written by a server.
_INDIRECT = ("runs", "models", "http", "https", "mlflow-artifacts", "dbfs")
# Private, so a version of MLflow may rename them: the checks would then never run.
_OVERRIDDEN_LOCALLY = ("_publish_staged_artifact", "_get_or_create_artifact_dir")
_MOST_PARTS = 10_000  # of one multipart upload, as S3 has it


def guard_all_repositories(guard: Guard) -> list[str]:
    """Replace the artifact repositories of this server process; return methods that are unknown."""
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    repositories = dict(_artifact_repository_registry.get_registered_artifact_repositories())
    unknown = set()
    for scheme, repository in repositories.items():
        if scheme in _INDIRECT:
            continue
        known_class = isinstance(repository, type)
        replacement = guarded(repository, guard) if known_class else _closed(scheme)
        _artifact_repository_registry.register(scheme, replacement)
        unknown |= set(getattr(replacement, "unknown_methods", ()))
    return sorted(unknown)


def guarded(base: type[ArtifactRepository], guard: Guard) -> type[ArtifactRepository]:
    """Return a subclass of an artifact repository that refuses to change what is frozen.

    Raises
    ------
    ConfigError
        If the repository of this MLflow lacks a method in which a check has to be.
    """
    local = issubclass(base, LocalArtifactRepository)
    for method in _OVERRIDDEN_LOCALLY if local else ():
        if not callable(getattr(base, method, None)):
            raise ConfigError(
                f"{base.__name__} of MLflow {mlflow.__version__} lacks {method}",
                limit="a method that writes a file, so that frozen files can be kept",
                remedy="Install the version of MLflow that Moola is tested with",
            )
    mixin = _local_mixin(guard) if local else _object_store_mixin(guard)
    subclass = type(f"Guarded{base.__name__}", (mixin, base), {})
    subclass.unknown_methods = close_unknown(subclass, FILES, deny)  # type: ignore[attr-defined]
    return subclass


def _closed(scheme: str) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        deny(f"artifact addresses of scheme {scheme} are not open on a guarded server")

    return refuse


def _refuse_frozen(guard: Guard, place: str) -> None:
    if guard.frozen().covers(place):
        deny("these files belong to a version that held Production; they are frozen")


def _object_store_mixin(guard: Guard) -> type:
    """Return the checks for a store that is not a local folder: on the resolved key.

    Every write is noted before it begins (`guard_uploads`), because the store may still carry it
    out after the server has promoted a version.
    """

    def refuse(place: str) -> None:
        _refuse_frozen(guard, place)

    class GuardedObjectStore:
        artifact_uri: str

        def _place(self, *parts: str | None) -> str:
            return guard.places.of(posixpath.join(self.artifact_uri, *(p for p in parts if p)))

        def _writing(self, *parts: str | None) -> Any:
            place = self._place(*parts)
            refuse(place)  # what is refused anyway is not noted
            return guard.uploads.writing(place, check=refuse)

        def log_artifact(self, local_file: str, artifact_path: str | None = None) -> Any:
            with self._writing(artifact_path, posixpath.basename(local_file)):
                return super().log_artifact(local_file, artifact_path)  # type: ignore[misc]

        def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> Any:
            with self._writing(artifact_path):
                return super().log_artifacts(local_dir, artifact_path)  # type: ignore[misc]

        def upload_archived_trace_data_bytes(self, data: bytes) -> Any:
            with self._writing():
                return super().upload_archived_trace_data_bytes(data)  # type: ignore[misc]

        def delete_artifacts(self, artifact_path: str | None = None) -> Any:
            with self._writing(artifact_path):
                return super().delete_artifacts(artifact_path)  # type: ignore[misc]

        def create_multipart_upload(
            self, local_file: str, num_parts: int = 1, artifact_path: str | None = None
        ) -> Any:
            # Its parts become a file only when the server completes it, which is checked again.
            refuse(self._place(artifact_path, posixpath.basename(local_file)))
            if not 1 <= num_parts <= _MOST_PARTS:
                deny(f"num_parts is {num_parts}; expected 1 to {_MOST_PARTS}")
            return super().create_multipart_upload(  # type: ignore[misc]
                local_file, num_parts, artifact_path
            )

        def complete_multipart_upload(
            self, local_file: str, upload_id: str, parts: Any = None, artifact_path: Any = None
        ) -> Any:
            with self._writing(artifact_path, posixpath.basename(local_file)):
                return super().complete_multipart_upload(  # type: ignore[misc]
                    local_file, upload_id, parts, artifact_path
                )

        def abort_multipart_upload(
            self, local_file: str, upload_id: str, artifact_path: str | None = None
        ) -> Any:
            refuse(self._place(artifact_path, posixpath.basename(local_file)))
            return super().abort_multipart_upload(  # type: ignore[misc]
                local_file, upload_id, artifact_path
            )

        def create_presigned_upload_url(
            self, artifact_path: str, expiration: int = LONGEST_ADDRESS_SECONDS
        ) -> Any:
            place = self._place(artifact_path)
            refuse(place)
            seconds = min(max(1, int(expiration)), LONGEST_ADDRESS_SECONDS)
            guard.uploads.allow_address(place, seconds, check=refuse)
            return super().create_presigned_upload_url(  # type: ignore[misc]
                artifact_path, expiration=seconds
            )

    return GuardedObjectStore


def _local_mixin(guard: Guard) -> type:
    """Return the checks for a local store: as the finished file takes its name, under the lock."""

    class GuardedLocal:
        artifact_dir: str

        def _place(self, artifact_path: str | None) -> str:
            return guard.places.of(posixpath.join(self.artifact_dir, artifact_path or ""))

        def _get_or_create_artifact_dir(self, artifact_path: str | None = None) -> Any:
            # Every write begins here: before a folder is made or a byte is read.
            place = self._place(artifact_path)
            if guard.frozen().contains(place):
                _refuse_frozen(guard, place)
            return super()._get_or_create_artifact_dir(artifact_path)  # type: ignore[misc]

        def _publish_staged_artifact(
            self, temp_file_path: str, destination_file_path: str, *args: Any, **kwargs: Any
        ) -> Any:
            with guard.files_held():
                _refuse_frozen(guard, guard.places.of(destination_file_path))
                return super()._publish_staged_artifact(  # type: ignore[misc]
                    temp_file_path, destination_file_path, *args, **kwargs
                )

        def log_artifact(self, local_file: str, artifact_path: str | None = None) -> Any:
            _refuse_frozen(guard, self._place(_child(artifact_path, local_file)))
            return super().log_artifact(local_file, artifact_path)  # type: ignore[misc]

        def log_artifact_from_stream(
            self, stream: Any, artifact_file_name: str, artifact_path: str | None = None
        ) -> Any:
            _refuse_frozen(guard, self._place(_child(artifact_path, artifact_file_name)))
            return super().log_artifact_from_stream(  # type: ignore[misc]
                stream, artifact_file_name, artifact_path
            )

        async def log_artifact_from_async_stream(
            self, chunks: Any, artifact_file_name: str, artifact_path: str | None = None
        ) -> Any:
            _refuse_frozen(guard, self._place(_child(artifact_path, artifact_file_name)))
            return await super().log_artifact_from_async_stream(  # type: ignore[misc]
                chunks, artifact_file_name, artifact_path
            )

        def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> Any:
            with guard.files_held():
                _refuse_frozen(guard, self._place(artifact_path))
                return super().log_artifacts(local_dir, artifact_path)  # type: ignore[misc]

        def delete_artifacts(self, artifact_path: str | None = None) -> Any:
            with guard.files_held():
                _refuse_frozen(guard, self._place(artifact_path))
                return super().delete_artifacts(artifact_path)  # type: ignore[misc]

    return GuardedLocal


def _child(artifact_path: str | None, file: str) -> str:
    return posixpath.join(artifact_path or "", posixpath.basename(file))
