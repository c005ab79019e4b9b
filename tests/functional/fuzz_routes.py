"""Every route of the guarded server with the fields of its request, read from the application.

Run as a script it builds the guarded application over a database and prints the routes as JSON:

    python fuzz_routes.py sqlite:///mlflow.db ./mlartifacts
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Fields = dict[str, Any]
_DEPTH = 3
LEDGER_FIELDS: Fields = {
    **dict.fromkeys(("event", "who", "name", "reason"), "string"),
    **dict.fromkeys(("version_from", "version_to", "evidence_digest"), "string"),
    "payload": {"split_sha256": "string", "intent": "integer", "evidence": "string"},
}


@dataclass(frozen=True)
class Route:
    """A path with its parameters in angle brackets, a method, and the fields of the request."""

    path: str
    method: str
    fields: Fields


def routes_of(backend: str, artifacts: str, env: dict[str, str], cwd: Path) -> list[Route]:
    """Return the routes of the application that a server over this database runs."""
    argv = [sys.executable, __file__, backend, artifacts]
    done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [Route(**values) for values in json.loads(done.stdout.splitlines()[-1])]


def main(backend: str, artifacts: str) -> None:
    """Print the routes."""
    from mlflow.server import app as flask_app
    from mlflow.server import constants, handlers

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = backend
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ["_MLFLOW_SGI_NAME"] = "uvicorn"  # by which log-in knows what application to make
    handlers.initialize_backend_stores(backend, backend, "mlflow-artifacts:/")
    from moola.promotion.guard.server import create_app

    application = create_app()
    known = {
        (path, method): _fields(request.DESCRIPTOR, _DEPTH)
        for path, request, methods in handlers.get_endpoints(lambda request: request)
        if hasattr(request, "DESCRIPTOR")
        for method in methods
    }
    found = set(_flask(flask_app)) | set(_fastapi(application.routes))
    own = {("/moola/api/ledger", "POST"): LEDGER_FIELDS}
    listed = [
        {"path": path, "method": method, "fields": (own | known).get((path, method), {})}
        for path, method in sorted(found)
    ]
    print(json.dumps(listed))


def _flask(app: Any) -> Iterator[tuple[str, str]]:
    for rule in app.url_map.iter_rules():
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            yield rule.rule, method


def _fastapi(routes: Any) -> Iterator[tuple[str, str]]:
    for route in routes:
        if hasattr(route, "effective_candidates"):
            yield from _fastapi(route.effective_candidates())
            yield from _fastapi(route.effective_low_priority_routes())
        else:
            for method in getattr(route, "methods", None) or ():
                yield route.path.replace("{", "<").replace("}", ">"), method


def _fields(descriptor: Any, depth: int) -> Fields:
    """Return the fields of a protobuf message: a type, a list of one, or fields below it."""
    kinds = {1: "number", 2: "number", 8: "boolean", 9: "string", 12: "string"}
    found: Fields = {}
    for field in descriptor.fields:
        kind: Any = kinds.get(field.type, "integer")
        if field.message_type is not None:
            kind = _fields(field.message_type, depth - 1) if depth else {}
        elif field.enum_type is not None:
            kind = "|".join(value.name for value in field.enum_type.values)
        repeated = getattr(field, "is_repeated", None)
        repeated = field.label == 3 if repeated is None else repeated
        found[field.name] = [kind] if repeated else kind
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
