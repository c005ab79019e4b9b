"""The census: every route and store method of MLflow that the guarded server knows.

A list of what is forbidden is always a day old, so the guard works the other way round: it knows
what each route and each store method does (`census.tsv`) and refuses what it does not know. A
newer MLflow is closed where it is new.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

READS, FREE, GUARDED, CLOSED = "reads", "free", "guarded", "closed"
UNKNOWN = "unknown"
CLASSES = (READS, FREE, GUARDED, CLOSED)
ROUTE, REGISTRY, TRACKING, FILES = "route", "registry", "tracking", "files"
_TABLE = "census.tsv"
_PARAMETER = re.compile(r"<[^<>]*>|\{[^{}]*\}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the census.

    Parameters
    ----------
    kind
        ``route``, or the store a method belongs to: ``registry``, ``tracking``, ``files``.
    rule
        ``reads``, ``free``, ``guarded`` or ``closed``.
    name
        ``METHOD path`` of a route, or a method's name.
    check
        ``store.method`` that checks what is guarded; empty otherwise.
    """

    kind: str
    rule: str
    name: str
    check: str = ""


@dataclass(frozen=True)
class Census:
    """The rows of the table by kind and name."""

    rows: Mapping[tuple[str, str], Row]

    @classmethod
    def of(cls, rows: list[Row]) -> Census:
        """Return the census of some rows; raises ValueError for a name that is there twice."""
        by_name = {(row.kind, row.name): row for row in rows}
        if len(by_name) != len(rows):
            raise ValueError("the census names something twice")
        return cls(by_name)

    def rule(self, kind: str, name: str) -> str:
        """Return the class of a route or method, ``unknown`` if it is not in the table."""
        row = self.rows.get((kind, name))
        return UNKNOWN if row is None else row.rule

    def refuses(self, kind: str, name: str) -> bool:
        """Return whether a route or method is closed or unknown."""
        return self.rule(kind, name) in (CLOSED, UNKNOWN)

    def route_rule(self, method: str, pattern: str) -> str:
        """Return the class of a route, its pattern as Flask or FastAPI writes it."""
        return self.rule(ROUTE, route_name(method, pattern))


@cache
def census() -> Census:
    """Read the table."""
    text = resources.files("moola.promotion.guard").joinpath(_TABLE).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    fields = ("kind", "rule", "name", "check")
    return Census.of([Row(**dict(zip(fields, line.split("\t"), strict=False))) for line in lines])


def route_name(method: str, pattern: str) -> str:
    """Return a route as the table writes it.

    Parameters
    ----------
    method
        The HTTP method; HEAD is looked up as GET.
    pattern
        The path of a Flask rule or a FastAPI route, with its parameters.

    Returns
    -------
    str
        ``METHOD path``, parameters as ``{}``, without the server's static prefix, ``/ajax-api`` as
        ``/api``.
    """
    path = pattern.removeprefix(os.environ.get("_MLFLOW_STATIC_PREFIX", "").rstrip("/"))
    path = _PARAMETER.sub("{}", path)
    path = re.sub(r"^/ajax-api(?=/)", "/api", path)
    return f"{'GET' if method == 'HEAD' else method} {path}"


def public_methods(store: type) -> list[str]:
    """Return the names of a class's public methods, its base classes included."""
    return sorted(n for n in dir(store) if not n.startswith("_") and callable(getattr(store, n)))


def close_unknown(store: type, kind: str, refuse: Callable[[str], Any]) -> list[str]:
    """Replace what the census does not let through on a guarded class by a refusal.

    Parameters
    ----------
    store
        The guarded class; changed in place.
    kind
        Its kind in the census.
    refuse
        Called with a sentence when a closed method is called; raises.

    Returns
    -------
    list of str
        The methods that the table does not know.
    """
    table = census()
    for name in public_methods(store):
        if table.refuses(kind, name):
            setattr(store, name, _refusing(name, kind, refuse))
    return [n for n in public_methods(store) if table.rule(kind, n) == UNKNOWN]


def _refusing(name: str, kind: str, refuse: Callable[[str], Any]) -> Any:
    def refused(*args: Any, **kwargs: Any) -> Any:
        refuse(f"{name} of MLflow's {kind} store is not open on a guarded server")

    refused.__name__ = name
    return refused
