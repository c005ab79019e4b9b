"""What a promotion freezes, and one spelling for every place that files can be addressed by."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore


@dataclass(frozen=True, kw_only=True)
class Places:
    """The artifact store of one server.

    Parameters
    ----------
    destination
        Where the server keeps the files of ``mlflow-artifacts:`` addresses.
    root
        Default artifact root of new experiments.
    """

    destination: str
    root: str

    def of(self, address: str) -> str:
        """Return the one spelling of the place that an artifact address means on this server.

        ``mlflow-artifacts:`` addresses are followed to where their files are, symbolic links of
        local paths resolved, ``.``, ``..`` and empty parts dropped.
        """
        parts = urlsplit(address)
        if parts.scheme == "mlflow-artifacts":
            return _joined(self.of(self.destination), unquote(parts.path))
        if parts.scheme in ("", "file"):
            path = address if parts.scheme == "" else unquote(parts.path)
            return os.path.realpath(path)
        return _joined(f"{parts.scheme}://{parts.netloc}", unquote(parts.path))

    def holds(self, place: str) -> bool:
        """Return whether a place is inside this server's artifact store."""
        return any(is_inside(place, self.of(base)) for base in (self.destination, self.root))

    def why_not_new(self, address: str, others: Iterable[str]) -> str | None:
        """Return why a new experiment may not keep its files at an address, None if it may.

        A new place has to be spelt as the server spells its own root, below that root, and apart
        from every other place: neither inside one, nor above, nor equal.

        Parameters
        ----------
        address
            The address asked for.
        others
            Addresses and places that are taken.
        """
        if urlsplit(address).scheme != urlsplit(self.root).scheme or not _is_plain(address):
            return "is outside this server's artifact root, or spelt in another way than it"
        place, root = self.of(address), self.of(self.root)
        below = place.removeprefix(root + "/") if place.startswith(root + "/") else ""
        if not below:
            return "is outside this server's artifact root"
        if below.split("/")[0].isdigit():
            return "is where experiments without a location of their own keep their files"
        places = (self.of(other) for other in others)
        if any(overlaps(place, other) for other in places):
            return "overlaps a place that is taken"
        return None


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """Experiments, runs, logged models and places that a promotion has frozen."""

    experiments: frozenset[str] = field(default_factory=frozenset)
    runs: frozenset[str] = field(default_factory=frozenset)
    models: frozenset[str] = field(default_factory=frozenset)
    places: frozenset[str] = field(default_factory=frozenset)

    def covers(self, place: str) -> bool:
        """Return whether changing `place` would touch something frozen, inside it or above it."""
        return any(overlaps(place, p) for p in self.places)

    def contains(self, place: str) -> bool:
        """Return whether `place` is frozen: equal to a frozen place or inside one."""
        return any(place == p or is_inside(place, p) for p in self.places)


def is_inside(place: str, other: str) -> bool:
    """Return whether one place lies strictly inside another."""
    return place.startswith(other.rstrip("/") + "/")


def overlaps(place: str, other: str) -> bool:
    """Return whether two places are equal or one lies inside the other."""
    return place == other or is_inside(place, other) or is_inside(other, place)


def find_frozen(places: Places, moved: Iterable[tuple[str, str]]) -> Frozen:
    """Look up what belongs to versions that ever held Production.

    Parameters
    ----------
    places
        The server's artifact store.
    moved
        Name and version of each.

    Raises
    ------
    MlflowException
        If the stores cannot say: what is unknown is not taken as free.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.server import handlers

    registry: SqlAlchemyStore = handlers._get_model_registry_store()
    tracking = handlers._get_tracking_store()
    experiments, runs, models, where = set(), set(), set(), set()
    for name, version in moved:
        try:
            model_version = registry.get_model_version(name, version)
            where.add(places.of(registry.get_model_version_download_uri(name, version)))
        except MlflowException as error:
            _require_absence(error)
            continue
        try:
            if model_id := _logged_model(model_version.source):
                models.add(model_id)
                experiments.add(str(tracking.get_logged_model(model_id).experiment_id))
            if model_version.run_id:
                runs.add(model_version.run_id)
                info = tracking.get_run(model_version.run_id).info
                experiments.add(str(info.experiment_id))
                where.add(places.of(info.artifact_uri))
        except MlflowException as error:
            _require_absence(error)
    return Frozen(
        experiments=frozenset(experiments),
        runs=frozenset(runs),
        models=frozenset(models),
        places=frozenset(where),
    )


def _logged_model(source: str | None) -> str | None:
    if not (source or "").startswith("models:/m-"):
        return None
    return str(source).removeprefix("models:/").split("/")[0]


def _require_absence(error: MlflowException) -> None:
    """Raise what a store answers but that a thing is gone: unknown is not unfrozen."""
    if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        raise error


def _is_plain(address: str) -> bool:
    """Return whether an address has one reading: no host, escape, empty part, ``..`` or query."""
    parts = urlsplit(address)
    proxied_elsewhere = parts.scheme == "mlflow-artifacts" and parts.netloc
    odd = unquote(address) != address or "\\" in address or not address.isprintable()
    steps = [part in ("", ".", "..") for part in parts.path.strip("/").split("/")]
    return not (proxied_elsewhere or odd or any(steps) or parts.query or parts.fragment)


def _joined(base: str, path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join([base.rstrip("/"), *parts])
