"""The census: every route and store method of MLflow has a class, and what has none is closed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask
from guard_world import local_guard
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore

from moola.promotion.guard.artifacts import _INDIRECT, guarded
from moola.promotion.guard.census import (
    CLASSES,
    FILES,
    GUARDED,
    REGISTRY,
    ROUTE,
    TRACKING,
    UNKNOWN,
    Census,
    census,
    close_unknown,
    public_methods,
    route_name,
)
from moola.promotion.guard.core import deny
from moola.promotion.guard.doors import Doors, close_flask_routes, native_routes
from moola.promotion.guard.registry import GuardedRegistryStore
from moola.promotion.guard.tracking import GuardedTrackingStore

# How many of the installed MLflow, with log-in, and Moola's own three routes.
COUNTED = {
    ROUTE: {"reads": 124, "free": 114, "guarded": 42, "closed": 25},
    REGISTRY: {"reads": 15, "free": 7, "guarded": 25},
    TRACKING: {"reads": 68, "free": 83, "guarded": 22, "closed": 4},
    FILES: {"reads": 16, "free": 1, "guarded": 13},
}

# In a process of its own: the log-in adds its routes to MLflow's one Flask application.
_ROUTES = """
import json
from mlflow.server import app, auth
from mlflow.server.fastapi_app import create_fastapi_app
from moola.promotion.guard.doors import native_routes
auth.create_app(app)
flask = [(m, r.rule) for r in app.url_map.iter_rules() for m in r.methods - {"OPTIONS"}]
native = native_routes(create_fastapi_app(app))
print(json.dumps(flask + [(m, route.path) for route in native for m in route.rules or ["?"]]))
"""


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Every route of MLflow's server with log-in, as the census names it."""
    folder = tmp_path_factory.mktemp("routes")
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = EDIT\nadmin_username = admin\n"
        f"database_uri = sqlite:///{folder}/auth.db\nadmin_password = a-long-enough-password\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    settings = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini")}
    done = subprocess.run(
        [sys.executable, "-c", _ROUTES],
        env={**os.environ, **settings, "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test only"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted({route_name(*pair) for pair in json.loads(done.stdout.splitlines()[-1])})


def methods() -> dict[str, set[str]]:
    repositories = _artifact_repository_registry.get_registered_artifact_repositories()
    written = [r for s, r in repositories.items() if s not in _INDIRECT and isinstance(r, type)]
    return {
        REGISTRY: set(public_methods(RegistryStore)),
        TRACKING: set(public_methods(TrackingStore)),
        FILES: {name for repository in written for name in public_methods(repository)},
    }


def gaps(table: Census, routes: list[str]) -> set[tuple[str, str]]:
    """Return what MLflow has and the table does not know, and the other way round."""
    known = {key for key in table.rows if not key[1].split(" ")[-1].startswith("/moola")}
    there = {(ROUTE, name) for name in routes}
    there |= {(kind, name) for kind, names in methods().items() for name in names}
    return known ^ there


def test_every_route_and_method_of_mlflow_has_a_class(routes: list[str]) -> None:
    assert gaps(census(), routes) == set()
    counted = {
        kind: dict(Counter(row.rule for row in census().rows.values() if row.kind == kind))
        for kind in COUNTED
    }
    assert counted == COUNTED
    assert {row.rule for row in census().rows.values()} == set(CLASSES)


@pytest.mark.parametrize(
    "row",
    [
        (ROUTE, "POST /api/2.0/mlflow/runs/log-metric"),
        (ROUTE, "PUT /api/2.0/mlflow-artifacts/artifacts/{}"),
        (ROUTE, "GET /health"),
        (REGISTRY, "set_registered_model_alias"),
        (TRACKING, "get_run"),
        (FILES, "delete_artifacts"),
    ],
)
def test_a_row_taken_away_is_missed(row: tuple[str, str], routes: list[str]) -> None:
    less = Census({key: value for key, value in census().rows.items() if key != row})
    assert gaps(less, routes) == {row}
    assert less.rule(*row) == UNKNOWN


def test_what_is_guarded_names_a_check_that_is_there(tmp_path: Path) -> None:
    stores: dict[str, tuple[type, type]] = {
        REGISTRY: (GuardedRegistryStore, RegistryStore),
        TRACKING: (GuardedTrackingStore, TrackingStore),
        FILES: (guarded(S3ArtifactRepository, local_guard(tmp_path)), S3ArtifactRepository),
    }
    for row in census().rows.values():
        assert bool(row.check) == (row.rule == GUARDED), row
        kind, _, method = row.check.partition(".")
        if kind in stores and "_stream" not in method:  # streams are of local stores only
            ours, theirs = stores[kind]
            assert getattr(ours, method) is not getattr(theirs, method), row


def test_a_new_method_of_a_store_is_closed() -> None:
    class Newer(RegistryStore):
        def promote_at_once(self, name: str) -> None:
            raise AssertionError("reached")

        def get_run_of_newer(self) -> None:
            raise AssertionError("reached")

    assert close_unknown(Newer, REGISTRY, deny) == ["get_run_of_newer", "promote_at_once"]
    store = Newer.__new__(Newer)
    for call in (lambda: store.promote_at_once("x"), store.get_run_of_newer):
        with pytest.raises(MlflowException, match="not open on a guarded server") as refused:
            call()
        assert refused.value.get_http_status_code() == 403


def test_a_new_route_of_flask_is_closed_whatever_its_spelling() -> None:
    app = Flask("newer")
    reached: list[str] = []

    def view(**_: Any) -> str:
        reached.append("view")
        return "done"

    for rule in ("/health", "/api/2.0/mlflow/registered-models/promote", "/new/<path:x>"):
        app.add_url_rule(rule, rule, view, methods=["GET", "POST"])
    unknown = close_flask_routes(app)
    assert "POST /api/2.0/mlflow/registered-models/promote" in unknown
    assert "GET /health" not in unknown
    assert "POST /health" in unknown
    client = app.test_client()
    for method, path in (
        ("POST", "/api/2.0/mlflow/registered-models/promote"),
        ("GET", "/new/a/b"),
        ("HEAD", "/new/a"),
        ("POST", "/health"),
    ):
        answer = client.open(path, method=method, follow_redirects=True)
        assert answer.status_code == 403, (method, path)
        assert method == "HEAD" or "not known" in answer.get_json()["message"]
    assert reached == []
    assert client.get("/health").get_data(as_text=True) == "done"
    missing = client.get("/nowhere")
    assert (missing.status_code, missing.get_json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")


def test_a_new_native_route_is_closed_and_no_known_one_opens_it() -> None:
    app = FastAPI()
    reached: list[str] = []

    def view() -> str:
        reached.append("view")
        return "done"

    server = "/api/3.0/mlflow/mcp-servers"
    app.get("/health")(view)
    app.post(server + "/{name:path}/tags")(view)
    app.post(server + "/{name}/run-command/tags")(view)  # fits the route above as well
    app.websocket("/live")(view)
    app.mount("/admin", FastAPI())
    doors = Doors(app, routes=native_routes(app), max_bytes=1000)
    assert asked(doors, "GET", "/health") == (200, "done")
    assert asked(doors, "POST", server + "/a/tags") == (200, "done")
    reached.clear()
    for method, path in (
        ("POST", server + "/a/run-command/tags"),
        ("GET", "/admin/anything"),
        ("PATCH", "/admin/"),
    ):
        status, body = asked(doors, method, path)
        assert (status, "not known" in body["message"]) == (403, True), (method, path)
    assert asked(doors, "", "/live", kind="websocket") == (1008, None)
    assert reached == []


def asked(app: Any, method: str, path: str, *, kind: str = "http") -> tuple[int, Any]:
    """Send a request to an ASGI application; return status and body, or a WebSocket's code."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "method": method, "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "headers": [], "root_path": "", "app": app}
    asyncio.run(app(scope, receive, send))
    if kind == "websocket":
        return sent[0]["code"], None
    return sent[0]["status"], json.loads(b"".join(m.get("body", b"") for m in sent))


def test_a_name_is_in_the_table_once(monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(iter(census().rows.values()))
    with pytest.raises(ValueError, match="twice"):
        Census.of([row, row])
    assert route_name("HEAD", "/ajax-api/2.0/<path:x>") == "GET /api/2.0/{}"
