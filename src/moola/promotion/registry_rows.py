"""Production in the rows of MLflow's registry, for moves in one transaction with the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Session

from moola.config.names import ALIAS_PRODUCTION, STAGE_ARCHIVED, STAGE_PRODUCTION
from moola.promotion.calls import mlflow_call
from moola.promotion.ledger.base import Ledger
from moola.promotion.ledger.checkpoint import address_of
from moola.promotion.ledger.local import is_database
from moola.promotion.ledger.schema import lock_for_append
from moola.promotion.state import RegistryState

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore


def store_beside(client: MlflowClient, ledger: Ledger) -> SqlAlchemyStore | None:
    """Return the registry's store if it lies in the ledger's database, else None."""
    uri = str(client._registry_uri)
    if ledger.moves_by_server or not is_database(uri) or address_of(uri) != ledger.address:
        return None
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    with mlflow_call(f"the registry at {address_of(uri)}"):
        return SqlAlchemyStore(uri)


@contextmanager
def exclusive(store: SqlAlchemyStore) -> Iterator[Session]:
    """Yield a session that alone may write registry and ledger; commits at its end."""
    with mlflow_call("the registry's database"), Session(store.engine) as session:
        if store.engine.dialect.name == "sqlite":
            session.execute(sa.text("PRAGMA foreign_keys = ON"))
            session.execute(sa.text("PRAGMA busy_timeout = 20000"))
            session.execute(sa.text("BEGIN IMMEDIATE"))
        lock_for_append(session.connection())
        yield session
        session.commit()


def state_in(session: Session, name: str) -> RegistryState:
    """Return who holds Production by alias and stage; on PostgreSQL these rows are locked."""
    stage = sorted(row.version for row in _holders(session, name))
    return RegistryState(
        name=name,
        alias_version=holder_in(session, name, ALIAS_PRODUCTION),
        stage_versions=tuple(str(version) for version in stage),
    )


def origin_in(session: Session, name: str, version: str) -> tuple[str | None, str | None]:
    """Return the run and the address of a version's files."""
    row = _version(session, name, version)
    return row.run_id, row.storage_location or row.source


def holder_in(session: Session, name: str, alias: str) -> str | None:
    """Return who holds an alias; on PostgreSQL the row is locked."""
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias

    version = session.scalar(
        sa.select(SqlRegisteredModelAlias.version)
        .where(SqlRegisteredModelAlias.name == name, SqlRegisteredModelAlias.alias == alias)
        .with_for_update()
    )
    return None if version is None else str(version)


def set_alias_in(session: Session, name: str, version: str, alias: str) -> None:
    """Give an alias to a version; ``production`` is the stage too."""
    if alias == ALIAS_PRODUCTION:
        move_in(session, name, version)
        return
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias

    target = _version(session, name, version)
    session.merge(
        SqlRegisteredModelAlias(
            workspace=target.workspace, name=name, alias=alias, version=int(version)
        )
    )
    session.flush()


def move_in(session: Session, name: str, version: str) -> None:
    """Give stage and alias to one version and archive whoever held the stage."""
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()
    for holder in _holders(session, name):
        holder.current_stage, holder.last_updated_time = STAGE_ARCHIVED, now
    target = _version(session, name, version)
    target.current_stage, target.last_updated_time = STAGE_PRODUCTION, now
    target.registered_model.last_updated_time = now
    session.merge(
        SqlRegisteredModelAlias(
            workspace=target.workspace, name=name, alias=ALIAS_PRODUCTION, version=int(version)
        )
    )
    session.flush()


def _holders(session: Session, name: str) -> list[SqlModelVersion]:
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    holders = sa.select(SqlModelVersion).where(
        SqlModelVersion.name == name, SqlModelVersion.current_stage == STAGE_PRODUCTION
    )
    return list(session.scalars(holders.with_for_update()))


def _version(session: Session, name: str, version: str) -> SqlModelVersion:
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    from moola.errors import PromotionRefused

    row = session.scalar(
        sa.select(SqlModelVersion).where(
            SqlModelVersion.name == name,
            SqlModelVersion.version == int(version),
            SqlModelVersion.current_stage != "Deleted_Internal",
        )
    )
    if row is None:
        raise PromotionRefused(f"version {version} of {name} does not exist")
    return row
