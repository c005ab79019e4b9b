"""What `moola serve` tells about itself: Prometheus metrics and one line of JSON an event."""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime

import orjson
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class Metrics:
    """Counters of one process; with several, Prometheus' own files add them up."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "moola_requests", "Requests by path and status.", ["path", "status"], registry=r
        )
        self.seconds = Histogram(
            "moola_request_seconds", "Time to answer /invocations.", buckets=_SECONDS, registry=r
        )
        self.windows = Counter(
            "moola_windows", "Windows answered, by version and label.", ["version", "label"],
            registry=r,
        )  # fmt: skip
        self.batch = Histogram(
            "moola_batch_windows", "Windows in one call of the model.", buckets=_WINDOWS, registry=r
        )
        self.changes = Counter("moola_version_changes", "Versions put into service.", registry=r)
        self.refusals = Counter(
            "moola_version_refusals", "Versions in Production that were not served.", registry=r
        )
        self.serving = Gauge(
            "moola_serving", "1 while a version answers.", registry=r, multiprocess_mode="livemin"
        )

    def page(self) -> bytes:
        """Return the text that Prometheus reads."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        every = CollectorRegistry()
        multiprocess.MultiProcessCollector(every)
        return generate_latest(every)


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, event, and the record's ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def log_to_stderr() -> None:
    """Send Moola's and uvicorn's records to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("moola.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
