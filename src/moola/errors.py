"""The errors Moola raises on purpose.

    MoolaError
    ├── BadInput (also ValueError)            exit 2: the caller can mend it
    │   ├── ConfigError                       an option or a configuration file
    │   ├── DataError                         a bar file, a window set, a split file
    │   ├── CheckpointError                   a checkpoint that cannot be loaded as asked
    │   │   └── CheckpointNotFound            (also FileNotFoundError)
    │   ├── DeviceError                       the device asked for is not there
    │   ├── LauncherError                     the workers cannot be reached, or died
    │   ├── MissingExtra                      (also ModuleNotFoundError) an extra is not installed
    │   └── TrackingError                     the tracking server cannot be reached or used
    └── Refused                               exit 1: the input is readable, the answer is no
        ├── AuditError                        the data audit found a leak or a tampered set
        ├── ProofError                        a run did not do what it said it would do
        └── PromotionRefused                  a gate, the policy or the ledger forbids it
            └── Unsettled                     alias, stage and ledger name different versions

Anything else that escapes is a bug (exit 70). Every message names the value, the limit and the
remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

_SHOWN_CHARACTERS = 80
DISTRIBUTION = "moola-ml"  # `moola` on PyPI is another project's
_EXTRA_OF = {
    "arch": "train",
    "boto3": "s3",
    "fastapi": "serve",
    "joblib": "train",
    "matplotlib": "train",
    "numba": "train",
    "orjson": "serve",
    "prometheus_client": "serve",
    "psycopg": "postgres",
    "safetensors": "train",
    "sklearn": "train",
    "sktime": "train",
    "threadpoolctl": "train",
    "torch": "train",
    "uvicorn": "serve",
}


def printable(text: str) -> str:
    """Return a text in which every character that does not print is escaped.

    Control characters, terminal escapes, line ends, characters that turn the direction of writing
    and lone surrogates would let foreign words change what a reader sees.
    """
    if text.isprintable():
        return text
    escapes = (c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return "".join(escapes)


def printable_lines(text: str) -> str:
    """Return a text of several lines, each as `printable` gives it."""
    return "\n".join(printable(line) for line in text.split("\n"))


def shown(value: object, *, limit: int = _SHOWN_CHARACTERS) -> str:
    """Return a stranger's value as a message may show it: escaped, cut at `limit`.

    A text is quoted; a list or an object is shown as its type, because it may be of any size.
    """
    if isinstance(value, str):
        cut = value[:limit]
        return f"'{printable(cut)}'" + ("" if cut == value else " [...]")
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() < 256 else f"a number of {value.bit_length()} bits"
    return f"a value of type {type(value).__name__}"


def one_line(error: BaseException, *, limit: int = 400) -> str:
    """Return what an error says, on one printable line cut at `limit` characters; else its type."""
    line = printable(" ".join(str(error).split())) or type(error).__name__
    return line if len(line) <= limit else line[:limit] + " [...]"


def _open_ended(text: str) -> str:
    """Return a text without its full stop; the three dots of a list that goes on stay."""
    return text if text.endswith("...") else text.rstrip(".")


def _ended(text: str) -> str:
    return text if text.endswith("...") else f"{text.rstrip('.')}."


class MoolaError(Exception):
    """Base of all deliberate errors.

    Parameters
    ----------
    problem
        What is wrong, with the offending value in it.
    limit
        What would have been accepted.
    remedy
        What to do about it.
    """

    exit_code = 2
    proof: tuple[str, Mapping[str, Any]] | None = None
    """The proof of a run that the error is about, by its name, such as a load report."""

    def __init__(self, problem: str, *, limit: str | None = None, remedy: str | None = None):
        self.problem, self.limit, self.remedy = problem, limit, remedy
        parts = [_open_ended(problem)]
        if limit:
            parts.append(_open_ended(f"expected {limit}"))
        line = _ended("; ".join(parts))
        if remedy:
            line += f" {_ended(remedy)}"
        super().__init__(printable(line))


class BadInput(MoolaError, ValueError):
    """The caller gave something that cannot be used."""


class ConfigError(BadInput):
    """An option or a configuration file is wrong."""


class DataError(BadInput):
    """A bar file, a window set or a split file is missing or malformed."""


class CheckpointError(BadInput):
    """A checkpoint cannot be loaded as asked; the model is unchanged."""


class CheckpointNotFound(CheckpointError, FileNotFoundError):
    """The checkpoint file does not exist."""


class DeviceError(BadInput):
    """The device asked for is not available."""


class LauncherError(BadInput):
    """The workers that should run the tasks cannot be reached, or died."""


class MissingExtra(BadInput, ModuleNotFoundError):
    """A package that an extra brings is not installed."""


class TrackingError(BadInput):
    """The tracking or registry server cannot be reached or refused the call."""


class Refused(MoolaError):
    """Understood, checked, and refused."""

    exit_code = 1


class AuditError(Refused):
    """The data audit failed: the run must not be believed."""


class ProofError(Refused):
    """A run did not do what it stated."""


class PromotionRefused(Refused):
    """The version may not be promoted."""


class Unsettled(PromotionRefused):
    """Alias, stage and ledger do not name one version: a move is under way, or went past Moola."""


def missing_extra(error: BaseException) -> MissingExtra | None:
    """Return the error that names the extra whose package an import did not find.

    Parameters
    ----------
    error
        What an import raised.

    Returns
    -------
    MissingExtra or None
        None if the error is another one, or of a package that no extra brings.
    """
    if not isinstance(error, ModuleNotFoundError):
        return None
    package = (error.name or "").partition(".")[0]
    if (extra := _EXTRA_OF.get(package)) is None:
        return None
    return MissingExtra(
        f"this needs the package {package}, which is not installed",
        limit=f"the extra '{extra}'",
        remedy=f"Run pip install '{DISTRIBUTION}[{extra}]'",
    )


def imported(module: str, name: str) -> Any:
    """Import a name from a module, which may need an extra.

    Parameters
    ----------
    module
        Full name of the module.
    name
        What to take from it.

    Returns
    -------
    Any
        What the module calls so.

    Raises
    ------
    MissingExtra
        If the module needs a package of an extra that is not installed.
    """
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from None
