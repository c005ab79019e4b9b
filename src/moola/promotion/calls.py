"""MLflow's exceptions, told as Moola's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moola.errors import MoolaError, PromotionRefused, TrackingError, one_line

_UNREACHABLE = "Start the server, or set MLFLOW_TRACKING_URI to the right one"
_LOG_IN = "Log in as a user who may: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


@contextmanager
def mlflow_call(what: str, *, reads: bool = False) -> Iterator[None]:
    """Translate what MLflow, its HTTP client or its database raise inside the block.

    Parameters
    ----------
    what
        The thing asked for, as the message should name it.
    reads
        Whether nothing is changed: who may not read has no answer from the gates.

    Raises
    ------
    PromotionRefused
        If the server refuses a change, or what was asked for does not exist.
    TrackingError
        If the server or store cannot be reached, may not be read, or answers with something else.
    """
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MoolaError:
        raise
    except MlflowException as error:
        code = str(error.error_code)
        line = one_line(error)
        if code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
            if reads:
                raise TrackingError(f"may not read {what}: {line}", remedy=_LOG_IN) from error
            raise PromotionRefused(f"the server refused {what}: {line}") from error
        if code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND") and "API request to" not in line:
            raise PromotionRefused(f"{what} does not exist: {line}") from error
        raise TrackingError(f"cannot get {what}: {line}", remedy=_UNREACHABLE) from error
    except (requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        line = one_line(error)
        raise TrackingError(f"cannot get {what}: {line}", remedy=_UNREACHABLE) from error
