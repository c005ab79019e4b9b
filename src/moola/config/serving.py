"""Limits and addresses of `moola serve`."""

from __future__ import annotations

from dataclasses import dataclass

from moola.config import names
from moola.config.base import Config, check_count, check_range

ENV_TOKEN = "MOOLA_SERVE_TOKEN"
ENV_SETTINGS = "MOOLA_SERVE_SETTINGS"
NO_VERSION = "none"


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Config):
    """What `moola serve` serves, where, and how much it takes.

    Parameters
    ----------
    name
        Registered model.
    version
        A version to serve whatever holds Production, unproven; None follows Production.
    ledger_url
        Database or guarded server that keeps the ledger; None: the registry's own.
    project
        Folder that holds ``.moola/trusted``.
    host, port
        Address to listen on.
    workers
        Processes; each loads, verifies and follows by itself.
    device
        ``auto``, ``cpu`` or ``cuda``.
    threads
        Threads of torch in each process. One is best for small nets: waking a second one takes
        longer than what it does.
    max_body_mib
        Largest body; a larger one is answered 413.
    max_windows
        Most windows in one request.
    max_waiting
        Requests that may wait for the model; the next one is answered 503.
    timeout_seconds
        Longest time for reading a body and for answering it.
    batch_windows
        Windows that waiting requests may bring together in one call of the model.
    poll_seconds
        How often the registry is asked who holds Production.
    grace_seconds
        Time that requests under way have to end when the server is stopped.
    log_predictions
        Folder for what was answered, as parquet; None: nothing is kept.
    """

    name: str = names.REGISTERED_MODEL
    version: str | None = None
    ledger_url: str | None = None
    project: str = "."
    host: str = "127.0.0.1"
    port: int = 5001
    workers: int = 1
    device: str = "auto"
    threads: int = 1
    max_body_mib: float = 16.0
    max_windows: int = 2048
    max_waiting: int = 256
    timeout_seconds: float = 30.0
    batch_windows: int = 256
    poll_seconds: float = 2.0
    grace_seconds: float = 10.0
    log_predictions: str | None = None

    def __post_init__(self) -> None:
        check_count("port", self.port, high=65535)
        for field in ("workers", "threads", "max_windows", "max_waiting", "batch_windows"):
            check_count(field, getattr(self, field))
        for field in ("max_body_mib", "timeout_seconds", "poll_seconds", "grace_seconds"):
            check_range(field, getattr(self, field), low=0, open_low=True)
