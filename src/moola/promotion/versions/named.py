"""The version that a text such as ``churn/7`` or ``churn@champion`` names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moola.errors import BadInput, shown
from moola.promotion.calls import mlflow_call
from moola.promotion.ledger.content import VERSION

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, kw_only=True)
class NamedVersion:
    """A version of a registered model, and the alias it was named by."""

    name: str
    version: str
    alias: str | None = None

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


def model_in(text: str) -> str:
    """Return the model that a text names, "" where it names an alias or a version alone."""
    return _split(text)[0]


def named_version(client: MlflowClient, text: str, *, model: str = "") -> NamedVersion:
    """Return the version that is meant; ``@champion`` alone is of the model given.

    Raises
    ------
    BadInput
        If the text names no version, or no model.
    PromotionRefused
        If there is no such model, version or alias.
    """
    name, version, is_alias = _split(text)
    name = name or model
    if not name:
        raise BadInput(f"{shown(text)} names no model", limit="such as churn/7, churn@champion")
    what = f"{name}@{version}" if is_alias else f"version {version} of {name}"
    with mlflow_call(what, reads=True):
        if is_alias:
            holder = client.get_model_version_by_alias(name, version)
            return NamedVersion(name=name, version=str(holder.version), alias=version)
        client.get_model_version(name, version)
        return NamedVersion(name=name, version=version)


def _split(text: str) -> tuple[str, str, bool]:
    """Return model, version or alias, and whether it is an alias."""
    plain = text.removeprefix("models:/")
    name, mark, alias = plain.rpartition("@")
    if mark and alias:
        return name, alias, True
    name, _, version = plain.rpartition("/")
    if VERSION.fullmatch(version):
        return name, version, False
    raise BadInput(
        f"{shown(text)} names no version", limit="MODEL/VERSION or MODEL@ALIAS, such as churn/7"
    )
