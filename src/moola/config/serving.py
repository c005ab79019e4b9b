"""Limits and addresses of `moola serve`."""

from __future__ import annotations

from dataclasses import dataclass

from moola.config import names
from moola.config.base import Config, option
from moola.config.training import DEVICES

ENV_TOKEN = "MOOLA_SERVE_TOKEN"
ENV_SETTINGS = "MOOLA_SERVE_SETTINGS"
NO_VERSION = "none"
LIMITS = "Limits"


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Config):
    """What `moola serve` serves, where, and how much it takes.

    Each option explains itself; `project` is the folder that holds ``.moola/trusted``.
    """

    name: str = option(names.REGISTERED_MODEL, "Registered model.")
    version: str | None = option(
        None, "Serve this version, unproven, instead of the one in Production.", none=""
    )
    ledger_url: str | None = option(
        None, "Database of the ledger; empty: the registry's own.", none="", flag="--ledger"
    )
    project: str = "."
    host: str = option("127.0.0.1", "Address to listen on.")
    port: int = option(5001, "Port to listen on.", low=1, high=65535)
    workers: int = option(1, "Processes; each loads, verifies and follows by itself.", low=1)
    device: str = option(
        "auto", "auto, cpu or cuda; cuda without a GPU is an error at once.", suggested=DEVICES
    )
    # One is best for small nets: waking a second thread takes longer than its work.
    threads: int = option(1, "Threads of torch in each process.", low=1)
    log_predictions: str | None = option(
        None, "Folder to keep answers and features in, for `moola drift`.", none=""
    )
    poll_seconds: float = option(
        2.0, "Seconds between looks at Production.", flag="--poll", low=0, open_low=True
    )
    max_body_mib: float = option(
        16.0, "A larger body is answered 413.", panel=LIMITS, low=0, open_low=True
    )
    max_windows: int = option(2048, "Most windows a request.", panel=LIMITS, low=1)
    timeout_seconds: float = option(
        30.0, "Seconds a request may take.", panel=LIMITS, flag="--timeout", low=0, open_low=True
    )
    max_waiting: int = option(
        256, "Requests that may wait; the next one is answered 503.", panel=LIMITS, low=1
    )
    batch_windows: int = option(
        256, "Windows that waiting requests share in one call of the model.", panel=LIMITS, low=1
    )
    grace_seconds: float = option(
        10.0,
        "Seconds that requests under way have to end when the server is stopped.",
        panel=LIMITS, flag="--grace", low=0, open_low=True,
    )  # fmt: skip
