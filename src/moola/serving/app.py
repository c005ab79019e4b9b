"""The application of `moola serve`: MLflow's paths, answered fast and in short lines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from moola import __version__
from moola.config.serving import NO_VERSION, ServeConfig
from moola.errors import BadInput, MoolaError
from moola.serving.batching import Batcher, Overloaded
from moola.serving.bodies import JSON, READERS, BodyLimits
from moola.serving.envelope import Envelope
from moola.serving.follow import Follower, Served, Source
from moola.serving.kept import Answered, PredictionLog
from moola.serving.observe import Metrics
from moola.serving.openapi import INVOCATIONS
from moola.serving.readers import Readers
from moola.serving.replies import RefusedRequest, error_body, write_reply

LOG = logging.getLogger("moola.serve")
_UTF_8 = ("charset=utf-8", 'charset="utf-8"')
_CODES = {400: "BAD_REQUEST", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}


class Service:
    """What the paths share: the version that answers, the batcher, metrics, kept predictions."""

    def __init__(self, config: ServeConfig, source: Source, metrics: Metrics):
        self.config = config
        self.metrics = metrics
        self.max_bytes = int(config.max_body_mib * 2**20)
        self.readers = Readers(
            max_bytes=self.max_bytes,
            seconds=config.timeout_seconds,
            max_waiting=config.max_waiting,
        )
        self.batcher = Batcher(
            batch_windows=config.batch_windows,
            max_waiting=config.max_waiting,
            on_batch=metrics.batch.observe,
        )
        self.kept = PredictionLog(config.log_predictions) if config.log_predictions else None
        self.follower = Follower(
            source,
            poll_seconds=config.poll_seconds,
            on_change=self._changed,
            on_refusal=self._refused,
        )

    async def answer(self, request: Request, content_type: str, body: bytes) -> Response:
        """Answer a body that was read whole."""
        served = self.follower.current
        if served is None:
            raise RefusedRequest(
                503, "TEMPORARILY_UNAVAILABLE", "no proven version is in Production"
            )
        limits = BodyLimits(
            window_bars=served.scorer.window_bars,
            max_windows=self.config.max_windows,
            max_bytes=self.max_bytes,
        )
        question = await self.readers.read(content_type, body, dict(request.query_params), limits)
        if question.return_set:
            served.scorer.require_conformal()
        try:
            logits = await self.batcher.logits(served.scorer, question.X)
        except Overloaded as error:
            raise RefusedRequest(503, "TEMPORARILY_UNAVAILABLE", str(error)) from None
        scores = served.scorer.scores(
            logits, calibrated=question.calibrated, return_set=question.return_set
        )
        content, media = write_reply(served.scorer, scores, request.headers.get("accept", ""))
        request.state.facts = {"version": served.version, "windows": len(question.X)}
        for label in set(scores.name):
            self.metrics.windows.labels(served.version, label).inc(scores.name.count(label))
        if self.kept is not None:
            self.kept.add(
                Answered(
                    request_id=request.state.request_id,
                    X=question.X,
                    columns=served.scorer.columns(scores),
                )
            )
        return Response(content, media_type=media, headers={"x-model-version": served.version})

    def _changed(self, served: Served | None) -> None:
        self.metrics.serving.set(int(served is not None))
        if served is None:
            LOG.error("no version answers")
            return
        self.metrics.changes.inc()
        fields = {"version": served.version, "sha256": served.sha256, "proven": served.proven}
        LOG.info("version answers", extra={"fields": fields})

    def _refused(self, version: str, reason: str) -> None:
        self.metrics.refusals.inc()
        LOG.error("version refused", extra={"fields": {"version": version, "reason": reason}})


def create_app(config: ServeConfig, source: Source, *, token: str | None = None) -> FastAPI:
    """Return the application; the version to serve is loaded and verified before it returns.

    Parameters
    ----------
    config
        BodyLimits.
    source
        Where versions come from, and what they must show.
    token
        Bearer token to ask for.

    Returns
    -------
    FastAPI
        The application, its follower at work.

    Raises
    ------
    MoolaError
        If there is nothing to serve or it is refused.
    """
    metrics = Metrics()
    service = Service(config, source, metrics)
    try:
        service.follower.start()
    except MoolaError:
        service.readers.close()
        raise

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.readers.ready()
        yield
        service.readers.close()
        await asyncio.to_thread(service.follower.stop)
        service.batcher.close()
        if service.kept is not None:
            await asyncio.to_thread(service.kept.close)

    app = FastAPI(title="moola serve", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    _add_paths(app, service)
    _add_refusals(app, config)
    app.add_middleware(Envelope, metrics=metrics, token=token)
    return app


def _add_paths(app: FastAPI, service: Service) -> None:
    async def ping() -> Response:  # on the loop: a thread would only make it wait
        return Response("\n", 200 if service.follower.current else 503, media_type=JSON)

    def version() -> Response:
        served = service.follower.current
        headers = {
            "x-model-version": served.version if served else NO_VERSION,
            "x-model-sha256": served.sha256 if served else NO_VERSION,
            "x-model-proven": str(bool(served and served.proven)).lower(),
            "x-moola-version": __version__,
        }
        return Response(metadata.version("mlflow"), media_type=JSON, headers=headers)

    async def invocations(request: Request) -> Response:
        async with asyncio.timeout(service.config.timeout_seconds):
            content_type = _content_type(request)
            body = await _read_body(request, service.max_bytes)
            return await service.answer(request, content_type, body)

    app.get("/ping")(ping)
    app.get("/health", include_in_schema=False)(ping)
    app.get("/version")(version)
    app.get("/metrics", include_in_schema=False)(
        lambda: Response(service.metrics.page(), media_type="text/plain; version=0.0.4")
    )
    app.add_route("/invocations", invocations, methods=["POST"])  # FastAPI's own takes longer
    app.post("/invocations", **INVOCATIONS)(invocations)  # states the schema


def _add_refusals(app: FastAPI, config: ServeConfig) -> None:
    def refuse(request: Request, status: int, code: str, message: str) -> Response:
        headers = {"retry-after": "1"} if status == 503 else {}
        body = error_body(code, message, request.state.request_id)
        return Response(body, status, media_type=JSON, headers=headers)

    async def on_refusal(request: Request, error: RefusedRequest) -> Response:
        return refuse(request, error.status, error.code, str(error))

    async def on_bad_input(request: Request, error: BadInput) -> Response:
        return refuse(request, 400, "BAD_REQUEST", str(error))

    async def on_timeout(request: Request, error: TimeoutError) -> Response:
        message = f"not answered within {config.timeout_seconds:g} s"
        return refuse(request, 504, "DEADLINE_EXCEEDED", message)

    async def on_http(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, "BAD_REQUEST")
        response = refuse(request, error.status_code, code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    async def on_disconnect(request: Request, error: ClientDisconnect) -> Response:
        return refuse(request, 400, "BAD_REQUEST", "the body did not arrive whole")

    handlers: dict[type[Exception], Any] = {
        RefusedRequest: on_refusal,
        BadInput: on_bad_input,
        TimeoutError: on_timeout,
        HTTPException: on_http,
        ClientDisconnect: on_disconnect,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _content_type(request: Request) -> str:
    header = request.headers.get("content-type", "")
    mime, *parameters = (part.strip().lower() for part in header.split(";"))
    if mime not in READERS or any(p not in _UTF_8 for p in parameters):
        types = ", ".join(READERS)
        raise RefusedRequest(
            415, "BAD_REQUEST", f"content type is {header[:60]!r}; expected {types}"
        )
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RefusedRequest(415, "BAD_REQUEST", "the body is compressed; expected it as it is")
    return mime


async def _read_body(request: Request, limit: int) -> bytes:
    stated = request.headers.get("content-length", "")
    message = f"the body is larger than {limit} bytes"
    if stated.isdecimal() and int(stated[:20]) > limit:
        raise RefusedRequest(413, "BAD_REQUEST", message)
    body = bytearray()  # a list of parts would take many times the bytes of a body sent in crumbs
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise RefusedRequest(413, "BAD_REQUEST", message)
    return bytes(body)
