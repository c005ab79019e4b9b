"""The doors of the guarded server: only routes that the census knows, and bodies of bounded size.

Flask and FastAPI resolve a request to one of their own route objects; the census is asked about
that object, never about the text of the request. What it does not know is refused in one sentence.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moola.errors import one_line
from moola.promotion.guard.census import CLOSED, UNKNOWN, census, route_name

if TYPE_CHECKING:
    from fastapi import FastAPI
    from flask import Flask

_REGISTRY = re.compile(r"/(registered-models|model-versions)/")
_NAMES = ("name", "new_name")
_LOG = logging.getLogger(__name__)
_ARTIFACT_ROUTES = "/mlflow-artifacts/artifacts/"
_JSON = {"Content-Type": "application/json"}
_SHUT = {
    CLOSED: "this route is closed on a guarded server: it would run commands or pass by the guard",
    UNKNOWN: "this route is not known to the guard of this server, so it is closed",
}


@dataclass(frozen=True, kw_only=True)
class NativeRoute:
    """A route that FastAPI serves itself, beside those of the mounted Flask application.

    `route` answers ``matches(scope)``; `rules` are its classes in the census by method, empty for a
    route whose path cannot be read.
    """

    path: str
    route: Any
    rules: dict[str, str]


def close_flask_routes(app: Flask) -> list[str]:
    """Have Flask ask the census before every request; return the routes that it does not know."""
    import flask
    from graphql import GraphQLError
    from werkzeug.exceptions import HTTPException

    def check() -> Any:
        rule = flask.request.url_rule
        if rule is None or _answers_options_itself(rule, flask.request.method):
            return None
        shut = _SHUT.get(census().route_rule(flask.request.method, rule.rule))
        if shut is not None:
            return _body("PERMISSION_DENIED", shut), 403, _JSON
        body = flask.request.get_json(silent=True) if flask.request.is_json else None
        if isinstance(body, int | float):  # MLflow's handlers end in 500 over them
            return _body("BAD_REQUEST", "the body is JSON but no object"), 400, _JSON
        if _REGISTRY.search(rule.rule) and (complaint := _why_no_text(flask.request)):
            return _body("INVALID_PARAMETER_VALUE", complaint), 400, _JSON
        return None

    def in_a_sentence(error: HTTPException) -> Any:
        if error.code is None or error.code < 400:
            return error
        code = {404: "ENDPOINT_NOT_FOUND", 500: "INTERNAL_ERROR"}.get(error.code, "BAD_REQUEST")
        return _body(code, f"{error.name}: {error.description}"), error.code, _JSON

    def too_deep(error: RecursionError) -> Any:
        return _body("BAD_REQUEST", "the body is nested too deep"), 400, _JSON

    def no_query(error: GraphQLError) -> Any:
        return _body("BAD_REQUEST", one_line(error)), 400, _JSON

    # Before the log-in: a closed route is closed to everybody.
    app.before_request_funcs.setdefault(None, []).insert(0, check)
    app.register_error_handler(HTTPException, in_a_sentence)
    app.register_error_handler(RecursionError, too_deep)
    app.register_error_handler(GraphQLError, no_query)
    unknown = {
        route_name(method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if not _answers_options_itself(rule, method)
        and census().route_rule(method, rule.rule) == UNKNOWN
    }
    return sorted(unknown)


def native_routes(app: FastAPI) -> list[NativeRoute]:
    """Return every route of a FastAPI application but the Flask application mounted at its root."""
    return [_native(path, route) for path, route in _leaves(app.routes)]


def unknown_native_routes(app: FastAPI) -> list[str]:
    """Return the native routes that the census does not know."""
    routes = native_routes(app)
    unknown = {native.path for native in routes if not native.rules}
    unknown |= {
        route_name(method, native.path)
        for native in routes
        for method, rule in native.rules.items()
        if rule == UNKNOWN
    }
    return sorted(unknown)


class Doors:
    """ASGI middleware: no native route but those of the census, no oversized bodies, no WebSockets.

    Parameters
    ----------
    app
        The application behind it.
    routes
        Its native routes.
    max_bytes
        Largest body outside artifact uploads.
    """

    def __init__(self, app: Any, *, routes: list[NativeRoute], max_bytes: int):
        self.app = app
        self.routes = routes
        self.max_bytes = max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, refuse, or pass the request on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif shut := self._shut(scope):
            await _answer(send, 403, "PERMISSION_DENIED", shut)
        elif _ARTIFACT_ROUTES in scope["path"]:
            await self.app(scope, receive, send)
        else:
            await self._bounded(scope, receive, send)

    def _shut(self, scope: Any) -> str | None:
        """Return why a request may not go to a native route, None if it may or goes to Flask.

        One closed or unknown route that fits is enough: a known one that fits as well (a path
        parameter takes anything) does not open it.
        """
        for native in self.routes:
            match, _ = native.route.matches(scope)
            if match.value == 0:  # starlette's Match.NONE
                continue
            rule = native.rules.get(scope["method"]) if native.rules else UNKNOWN
            if rule in _SHUT:
                return _SHUT[rule]
        return None

    async def _bounded(self, scope: Any, receive: Any, send: Any) -> None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            limit = f"the body is larger than {self.max_bytes >> 20} MiB"
            await _answer(send, 413, "BAD_REQUEST", limit)
            return
        num_bytes = 0

        async def counted() -> Any:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                return {"type": "http.disconnect"}
            return message

        await self.app(scope, counted, send)


def report_unknown(unknown: list[str]) -> None:
    """Say in the server's log what stays closed because the census does not know it."""
    if not unknown:
        return
    import mlflow

    _LOG.warning(
        "MLflow %s has %d routes and methods that this guard does not know; they stay closed: %s",
        mlflow.__version__,
        len(unknown),
        ", ".join(unknown),
    )


def _leaves(routes: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every single route; FastAPI keeps included routers as they are since 0.12x."""
    for route in routes:
        router = getattr(route, "original_router", None)
        path = getattr(route, "path", None)
        if router is not None:
            context = getattr(route, "include_context", None)
            yield from _leaves(router.routes, prefix + (getattr(context, "prefix", "") or ""))
        elif path == "" and not getattr(route, "methods", None):
            continue  # the Flask application at the root, which asks the census itself
        else:
            yield (f"{prefix}{path}" if isinstance(path, str) else repr(route)), route


def _native(path: str, route: Any) -> NativeRoute:
    from starlette.routing import Route

    methods = getattr(route, "methods", None)
    if not methods:
        return NativeRoute(path=path, route=route, rules={})
    whole = Route(path, _never, methods=sorted(methods))  # included routes lack their prefix
    rules = {method: census().route_rule(method, path) for method in sorted(whole.methods or ())}
    return NativeRoute(path=path, route=whole, rules=rules)


async def _never(request: Any) -> None:
    raise AssertionError("a route that only matches is never called")


def _why_no_text(request: Any) -> str | None:
    """Return why a field of a request, in its address or its body, cannot be a text as it must."""
    body = request.get_json(force=True, silent=True)  # MLflow reads it whatever its type is said
    fields = [*request.args.items(), *(body.items() if isinstance(body, dict) else ())]
    for name, value in fields:
        if isinstance(value, str) and "\0" in value:
            return f"{name[:40]!a} holds a NUL character, which not every database keeps"
        if name in _NAMES and isinstance(value, dict | list):
            return f"{name!a} is no text"
    return None


def _answers_options_itself(rule: Any, method: str) -> bool:
    return method == "OPTIONS" and bool(rule.provide_automatic_options)


def _body(code: str, message: str) -> str:
    return json.dumps({"error_code": code, "message": message})


async def _answer(send: Any, status: int, code: str, message: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": _body(code, message).encode()})
