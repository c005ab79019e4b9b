"""Requests that are hostile or nearly valid, over every route, many about what is guarded."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from fuzz_routes import Route

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "MOOLA")
JSON = "application/json"
TYPES = (
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    f"{JSON}; charset=utf-16",
    "multipart/form-data; boundary=x",
    "application/x-protobuf",
    f"{JSON}, {JSON}",
)
TAGS = (
    "mlflow.prompt.is_prompt",
    "MLFLOW.PROMPT.IS_PROMPT",
    "mlflow.prompt.text",
    "moola.evidence",
    "moola.promotion.evidence",
    "mlflow.user",
    "mlflow.note.content",
    "_mlflow_prompt_type",
    "mlflow.source.name",
    "mlflow.experimentKind",
    "mlflow.runName",
    "k",
)
TEXTS = (
    "",
    " ",
    "0",
    "true",
    "None",
    "../..",
    "%00",
    "\x00",
    "\u202e",
    "\ud800",
    "\u0130",
    "a" * 300,
    "x" * 70_000,
    "'; DROP TABLE runs; --",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "\U0001f600" * 9,
    "\r\nX-Evil: 1",
    "\x1b[2J",
    "NaN",
    "1e999",
    "%s%n",
    "name = 'x' OR 1=1",
    "[" * 500,
)
NUMBERS = (
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    True,
)
LEDGER_EVENTS = ("test_look", "refusal", "challenger", "promotion", "intent", "TEST_LOOK")
FULL_WIDTH = str.maketrans(
    "0123456789", "\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19"
)


@dataclass(frozen=True)
class Sent:
    """A request as it goes out."""

    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]
    route: Route

    def __str__(self) -> str:
        body = "" if self.body is None else repr(self.body[:400])
        kind = self.headers.get("Content-Type", "-")
        return f"{self.method} {self.path[:300]} [{kind}] {body}"


@dataclass
class Fuzzer:
    """A source of requests.

    Parameters
    ----------
    routes
        What the server offers.
    targets
        Values by what a field of a request is called: ``run``, ``experiment``, ``model``, ...
    seed
        Where the random numbers start.
    """

    routes: list[Route]
    targets: Mapping[str, tuple[str, ...]]
    seed: int = 0
    random: random.Random = field(init=False)
    _left: list[Route] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def next(self) -> Sent:
        """Return the next request; every route comes before any comes again as often."""
        if not self._left:
            often = [route for route in self.routes for _ in range(_weight(route))]
            self._left = self.random.sample(often, len(often))
        route = self._left.pop()
        method, headers = route.method, {"Content-Type": JSON}
        if self._now(0.1):
            method = self.random.choice(METHODS)
        if self._now(0.04):
            headers["X-HTTP-Method-Override"] = self.random.choice(METHODS)
        if self._now(0.08):
            headers["Content-Type"] = self.random.choice(TYPES)
        path = self._path(route)
        if method in ("GET", "HEAD") or self._now(0.05):
            path += self._query(route)
        body = None if method in ("GET", "HEAD") and self._now(0.9) else self._body(route)
        return Sent(method, path, body, headers, route)

    def _now(self, probability: float) -> bool:
        return self.random.random() < probability

    def _path(self, route: Route) -> str:
        path = re.sub(
            r"<(?:(\w+):)?(\w+)(?::path)?>",
            lambda m: quote(self._wire(self._value(m[2], "string")), safe="/:@$,;=%+ "),
            route.path,
        )
        if self._now(0.2):
            path = self.random.choice(_PATHS)(path, self.random)
        return quote(path.replace("?", "%3F").replace("#", "%23"), safe="/:@$,;=%+.~!*'()[]\\")

    def _query(self, route: Route) -> str:
        names = [n for n in route.fields if self._now(0.8)] or ["path", "run_uuid", "name"]
        names += [n for n in names if self._now(0.1)]  # the same key twice
        pairs = [f"{n}={quote(self._wire(self._value(n, 'string')), safe='')}" for n in names]
        return f"?{'&'.join(pairs)}"

    def _wire(self, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return text.encode("utf-8", "replace").decode()[:2000]

    def _body(self, route: Route) -> bytes:
        if "artifacts/<" in route.path and route.method == "PUT":
            return self.random.choice((b"", b"evil", b"x" * 10_000))
        values = self._object(route.fields, route.path)
        text = json.dumps(values)
        chance = self.random.random()
        if chance < 0.86:
            return text.encode()
        return self.random.choice(_BODIES)(text, self.random)

    def _object(self, fields: Mapping[str, Any], path: str = "") -> dict[str, Any]:
        if not fields:
            names = [n for n in _FIELDS if self._now(0.3)]
            return {name: self._value(name, "string") for name in names}
        found = {n: self._value(n, kind, path) for n, kind in fields.items() if self._now(0.85)}
        if self._now(0.05):
            found[self.random.choice(TAGS)] = self._hostile()
        return found

    def _value(self, name: str, kind: Any, path: str = "") -> Any:
        if self._now(0.12):
            return self._hostile()
        if isinstance(kind, list):
            return [
                self._value(name, kind[0], path) for _ in range(self.random.choice((0, 1, 1, 2)))
            ]
        if isinstance(kind, dict):
            return self._object(kind, path)
        if kind in ("integer", "number"):
            small = (0, 1, 2, 10, 1700000000000)
            return self.random.choice(small if self._now(0.7) else NUMBERS)
        if kind == "boolean":
            return self._now(0.5)
        if "|" in kind:
            return self.random.choice(kind.split("|"))
        return self._text(name, path)

    def _text(self, name: str, path: str) -> Any:
        if name == "event" and "/moola/" in path:
            return self.random.choice(LEDGER_EVENTS)
        if name == "name":
            kind = "experiment name" if "/experiments" in path else "model"
        else:
            kind = next((kind for words, kind in _KINDS if re.search(words, name)), "text")
        values = self.targets.get(kind, ())
        if kind == "tag":
            values = TAGS
        if not values or self._now(0.1):
            return self.random.choice(TEXTS)
        return self._spelled(self.random.choice(values))

    def _spelled(self, text: str) -> Any:
        return text if self._now(0.5) else self.random.choice(_SPELLINGS)(text)

    def _hostile(self) -> Any:
        return self.random.choice(
            (
                lambda: self.random.choice(TEXTS),
                lambda: self.random.choice(NUMBERS),
                lambda: None,
                list,
                dict,
                lambda: [[[{"a": [None]}]]],
                lambda: {"value": self.random.choice(TEXTS)},
                lambda: [self.random.choice(NUMBERS)] * 3,
                lambda: nested(self.random.choice((30, 200, 490))),
            )
        )()


def _weight(route: Route) -> int:
    """Return how often a route is asked while another is asked once."""
    if "/moola/" in route.path:
        return 10
    return 3 if re.search(_GUARDED, route.path) and route.method != "GET" else 1


def nested(depth: int) -> Any:
    """Return lists within mappings within lists."""
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


_GUARDED = r"registered-models|model-versions|experiments|/runs/|logged-models|artifact"
_FIELDS = (
    "name",
    "version",
    "alias",
    "stage",
    "key",
    "value",
    "run_id",
    "experiment_id",
    "path",
    "model_id",
    "new_name",
    "trace_id",
    "source",
    "features",
    "query",
)
_KINDS = (
    (r"new_name", "model"),
    (r"run_?(id|uuid)|^run$", "run"),
    (r"experiment_?id", "experiment"),
    (r"model_?id", "logged model"),
    (r"^name$|model_name|registered", "model"),
    (r"version", "version"),
    (r"alias", "alias"),
    (r"stage", "stage"),
    (r"key", "tag"),
    (r"source$|location|uri|^url$", "place"),
    (r"path|filename", "file"),
)
_SPELLINGS: tuple[Callable[[str], Any], ...] = (
    lambda t: f" {t}",
    lambda t: f"{t} ",
    lambda t: f"+{t}",
    lambda t: f"0{t}",
    lambda t: f"{t}.0",
    lambda t: f"{t}\u00a0",
    lambda t: f"\ufeff{t}",
    lambda t: f"{t}_0",
    lambda t: f"{t}\n",
    lambda t: f"{t}\x00",
    lambda t: t.translate(FULL_WIDTH),
    str.upper,
    str.lower,
    str.title,
    str.swapcase,
    lambda t: f"{t}/",
    lambda t: f"/{t}",
    lambda t: f"./{t}",
    lambda t: t.replace("/", "//"),
    lambda t: t.replace("/", "%2f"),
    lambda t: t.replace("/", "/x/../"),
    lambda t: quote(t, safe=""),
    lambda t: quote(quote(t, safe=""), safe=""),
    lambda t: "".join(f"%{ord(c) % 256:02x}" for c in t[:40]),
    lambda t: int(t) if t.isdecimal() else t,
    lambda t: float(t) if t.isdecimal() else [t],
    lambda t: {"": t},
    lambda t: f"{t};x",
    lambda t: t.replace("mlflow-artifacts:/", "mlflow-artifacts:///"),
    lambda t: t.replace("i", "\u0131"),
    lambda t: t.replace("S", "\u017f"),
)


def _somewhere(path: str, draw: random.Random, words: str) -> str:
    at = draw.choice([k for k, c in enumerate(path) if c == "/"])
    return path[:at] + words + path[at:]


_PATHS: tuple[Callable[[str, random.Random], str], ...] = (
    lambda p, r: _somewhere(p, r, "/"),
    lambda p, r: _somewhere(p, r, "/."),
    lambda p, r: _somewhere(p, r, "/x/.."),
    lambda p, r: _somewhere(p, r, "/%2e"),
    lambda p, r: _somewhere(p, r, "/x/%2e%2e"),
    lambda p, r: _somewhere(p, r, ";a=1"),
    lambda p, r: _somewhere(p, r, "%20"),
    lambda p, r: _somewhere(p, r, "%00"),
    lambda p, r: p + "/",
    lambda p, r: p + "//",
    lambda p, r: p + "%2f",
    lambda p, r: p + ";",
    lambda p, r: p + ".json",
    lambda p, r: p[:-1],
    lambda p, r: p.upper(),
    lambda p, r: p.title(),
    lambda p, r: p.replace("/", "\\"),
    lambda p, r: p.replace("/mlflow/", "%2fmlflow%2f"),
    lambda p, r: p.replace("2.0", "3.0"),
    lambda p, r: p.replace("3.0", "2.0"),
    lambda p, r: p.replace("3.0", "4.0"),
    lambda p, r: p.replace("/api/", "/ajax-api/"),
    lambda p, r: p.replace("/ajax-api/", "/api/"),
    lambda p, r: p.replace("m", "%6d").replace("a", "%61"),
    lambda p, r: p.replace("create", "delete"),
    lambda p, r: p.replace("get", "update"),
)
_BODIES: tuple[Callable[[str, random.Random], bytes], ...] = (
    lambda t, r: json.dumps(t).encode(),
    lambda t, r: f"[{t}]".encode(),
    lambda t, r: f"{t}{t}".encode(),
    lambda t, r: t[:-1].encode(),
    lambda t, r: t.encode("utf-16"),
    lambda t, r: t.encode() + b"\xff\xfe",
    lambda t, r: b"",
    lambda t, r: b"null",
    lambda t, r: b"7",
    lambda t, r: b'"\\ud800"',
    lambda t, r: b"[" * 20_000 + b"]" * 20_000,
    lambda t, r: b'{"a":' * 3_000 + b"1" + b"}" * 3_000,
    lambda t, r: b'{"x": "' + b"y" * (2 << 20) + b'"}',
    lambda t, r: t.replace("{", '{"name": "x", ', 1).encode(),
    lambda t, r: t.replace("}", ', "version": "3"}', 1).encode(),
    lambda t, r: bytes(r.randrange(256) for _ in range(200)),
)
