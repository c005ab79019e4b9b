"""The guarded server: `mlflow server` with Moola's rules in its stores, and Moola's own page.

``mlflow server --app-name moola`` finds `create_app` by its entry point in group ``mlflow.app``.
The rules are in the registry store, the tracking store and the artifact repositories, below every
HTTP route, so that no spelling of a request goes round them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moola.config.names import ARTIFACT_ROOT, DEFAULT_TRACKING_URI
from moola.config.policy import Policy
from moola.config.promotion import (
    ENV_POLICY,
    ENV_SERVER_AUTH,
    ENV_TRUSTED,
    ENV_WEBHOOK_SECRET,
    GUARD_LOCK,
    POLICY_FILE,
    TRUSTED_FOLDER,
)
from moola.errors import ConfigError
from moola.promotion.aliases.requirements import rule_in_words, unmeetable
from moola.promotion.evidence.keys import TrustedKeys, ensure_server_key, load_trusted_keys
from moola.promotion.guard.core import Guard
from moola.promotion.guard.doors import (
    Doors,
    close_flask_routes,
    native_routes,
    report_unknown,
    unknown_native_routes,
)
from moola.promotion.ledger.checkpoint import CheckpointFile, address_of
from moola.promotion.ledger.local import SCHEMES, LocalLedger, is_database
from moola.promotion.webhooks import Webhooks

if TYPE_CHECKING:
    from fastapi import FastAPI

APP_NAME = "moola"


@dataclass(frozen=True, kw_only=True)
class ServerCommand:
    """How to start the guarded server: arguments, additions to the environment, its rules."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    enforces: tuple[str, ...]


def server_command(
    *,
    project: Path,
    backend_store_uri: str = DEFAULT_TRACKING_URI,
    artifacts_destination: str = ARTIFACT_ROOT,
    host: str = "127.0.0.1",
    port: int = 5000,
    workers: int = 1,
    policy_file: Path | None = None,
    auth: bool = False,
    allowed_hosts: str = "",
    more: Sequence[str] = (),
) -> ServerCommand:
    """Return the command that starts the guarded server.

    Parameters
    ----------
    project
        The project directory, whose ``.moola/trusted`` holds the public keys that count.
    backend_store_uri
        SQLite or PostgreSQL database of tracking store, registry and ledger.
    artifacts_destination
        Where the server keeps artifacts.
    host
        Address to listen on.
    port
        Port to listen on.
    workers
        Processes.
    policy_file
        YAML of a `Policy`; None takes the project's ``.moola/policy.yaml``, or the
        policy without a file where there is none.
    auth
        Whether users have to log in (MLflow's basic-auth).
    allowed_hosts
        Names, with commas between them, that clients may call the server by, besides this machine's
        own; empty: MLflow's default, which takes addresses of private networks but no names.
    more
        Further options of ``mlflow server``, passed on as they are.

    Returns
    -------
    ServerCommand
        Arguments, environment and the rules in words.

    Raises
    ------
    ConfigError
        If the database is of another kind, the policy file is wrong, no key is trusted, or one of
        `more` is an option that the guard decides by.
    """
    _check_database(backend_store_uri)
    if policy_file is None and (Path(project) / POLICY_FILE).exists():
        policy_file = Path(project) / POLICY_FILE
    policy = _load_policy(policy_file)
    trusted = Path(project).resolve() / TRUSTED_FOLDER
    if not any(trusted.glob("*.pem")):
        raise ConfigError(
            f"{trusted} holds no key",
            limit="at least one public key of who signs evidence",
            remedy="Run `moola guard init` here, or copy a public key of who attests",
        )
    keys = load_trusted_keys(trusted)
    argv = [sys.executable, "-m", "mlflow", "server", "--app-name", APP_NAME]
    argv += ["--backend-store-uri", backend_store_uri, "--serve-artifacts"]
    argv += ["--artifacts-destination", artifacts_destination, "--host", host]
    argv += ["--port", str(port), "--workers", str(workers)]
    if allowed_hosts:
        named = [*(h.strip() for h in allowed_hosts.split(",")), "localhost", "127.0.0.1"]
        argv += ["--allowed-hosts", ",".join(f"{h},{h}:*" for h in named)]  # at any port
    argv += _passed_on(more)
    env = {ENV_TRUSTED: str(trusted), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if policy_file is not None:
        env[ENV_POLICY] = str(Path(policy_file).resolve())
    if auth:
        env[ENV_SERVER_AUTH] = "true"
    return ServerCommand(argv=tuple(argv), env=env, enforces=_enforces(policy, keys, auth=auth))


def create_app() -> FastAPI:
    """Build the guarded ASGI application; the factory of the entry point ``mlflow.app``.

    Returns
    -------
    FastAPI
        The application.

    Raises
    ------
    ConfigError
        If it is not started under uvicorn over one SQLite or PostgreSQL database, or users' log-in
        lacks its packages.
    """
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    guard = guard_from_environment(os.environ)
    guard.ledger.repair()
    guard.note_keys()
    guard.note_existing()
    unknown = _install(guard)
    from mlflow.server import app as flask_app
    from mlflow.server.fastapi_app import create_fastapi_app

    from moola.promotion.page import add_pages

    add_pages(flask_app, guard)
    if os.environ.get(ENV_SERVER_AUTH) == "true":
        application = _with_log_in(flask_app)
    else:
        application = create_fastapi_app(flask_app)
    routes = native_routes(application)
    application.add_middleware(Doors, routes=routes, max_bytes=guard.policy.ohlc.max_body_mib << 20)
    report_unknown([*unknown, *close_flask_routes(flask_app), *unknown_native_routes(application)])
    return application


def _with_log_in(flask_app: Any) -> FastAPI:
    """Return the application under MLflow's log-in.

    Every user may read the ledger; who may add to it, `moola.promotion.page` decides by the
    registered model that a line is about.
    """
    from mlflow.server import auth

    from moola.promotion.page import ROUTES

    # Without a rule of its own MLflow closes a route to all but administrators.
    auth.BEFORE_REQUEST_VALIDATORS.update(dict.fromkeys(ROUTES, lambda: True))
    application: FastAPI = auth.create_app(flask_app)
    return application


def guard_from_environment(env: Mapping[str, str]) -> Guard:
    """Read what ``mlflow server`` and `server_command` put into the environment."""
    from mlflow.server import constants

    if env.get("_MLFLOW_SGI_NAME", "uvicorn") != "uvicorn":
        raise ConfigError(
            "the guarded server runs under uvicorn only", remedy="Drop --gunicorn-opts"
        )
    if env.get("MLFLOW_ENABLE_WORKSPACES", "").lower() in ("1", "true"):
        raise ConfigError("the guarded server knows no workspaces", remedy="Turn them off")
    backend = env.get(constants.BACKEND_STORE_URI_ENV_VAR, "")
    registry = env.get(constants.REGISTRY_STORE_URI_ENV_VAR) or backend
    _check_database(backend)
    _check_database(registry)
    trusted = Path(env.get(ENV_TRUSTED) or TRUSTED_FOLDER).resolve()
    trusted.mkdir(parents=True, exist_ok=True)
    policy_file = env.get(ENV_POLICY)
    policy = _load_policy(Path(policy_file) if policy_file else None)
    checkpoint = CheckpointFile.in_folder(trusted.parent / "checkpoints", address_of(registry))
    key = ensure_server_key(trusted.parent, env=env)
    return Guard(
        policy=policy,
        trusted_folder=trusted,
        ledger=LocalLedger(registry, checkpoint=checkpoint).signing(key),
        artifacts_destination=env.get(constants.ARTIFACTS_DESTINATION_ENV_VAR) or ARTIFACT_ROOT,
        artifact_root=env.get(constants.ARTIFACT_ROOT_ENV_VAR) or "mlflow-artifacts:/",
        lock_file=trusted.parent / GUARD_LOCK,
        webhooks=Webhooks(policy.ohlc.webhooks, env.get(ENV_WEBHOOK_SECRET)),
    )


def _install(guard: Guard) -> list[str]:
    """Put guarded stores and repositories in the place of MLflow's in this process.

    MLflow's server code also opens stores as a client would (to link prompts, to look up logged
    models), so those are replaced as well. Returns the methods that the census does not know.
    """
    from mlflow.server import handlers
    from mlflow.tracking._model_registry import utils as registry_client
    from mlflow.tracking._tracking_service import utils as tracking_client

    from moola.promotion.guard import registry, tracking
    from moola.promotion.guard.artifacts import guard_all_repositories

    def registry_store(store_uri: str) -> Any:
        return registry.GuardedRegistryStore(store_uri, guard=guard)

    def tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
        return tracking.GuardedTrackingStore(
            store_uri, artifact_uri or guard.artifact_root, guard=guard
        )

    def registry_client_store(store_uri: str, **_: Any) -> Any:
        return registry_store(store_uri)

    for scheme in SCHEMES:
        handlers._model_registry_store_registry.register(scheme, registry_store)
        handlers._tracking_store_registry.register(scheme, tracking_store)
        registry_client._get_store_registry().register(scheme, registry_client_store)
        tracking_client._tracking_store_registry.register(scheme, tracking_store)
    return [
        *registry.UNKNOWN_METHODS,
        *tracking.UNKNOWN_METHODS,
        *guard_all_repositories(guard),
    ]


_OWNED = (
    "--app-name", "--backend-store-uri", "--registry-store-uri", "--serve-artifacts",
    "--no-serve-artifacts", "--artifacts-only", "--artifacts-destination", "--host", "--port",
    "--workers", "--allowed-hosts", "--gunicorn-opts", "--waitress-opts", "--enable-workspaces",
    "--env-file", "--default-artifact-root", "-h", "-p", "-w",
)  # fmt: skip


def _passed_on(words: Sequence[str]) -> list[str]:
    """Return options for ``mlflow server``; raises ConfigError for one the guard decides by."""
    for word in words:
        option = word.split("=")[0]
        short = not word.startswith("--") and option[:2] in _OWNED
        # click takes a beginning of a long option for the whole
        if short or (option.startswith("--") and any(o.startswith(option) for o in _OWNED)):
            raise ConfigError(
                f"option {option} is not passed on to mlflow server",
                limit="an option that the guard does not decide by",
                remedy="`moola server --help` names Moola's own",
            )
    return [*words]


def _check_database(address: str) -> None:
    if not is_database(address):
        raise ConfigError(
            f"the guarded server's database is {address.rpartition('@')[2]!r}",
            limit="a sqlite: or postgresql: address",
            remedy="Give --backend-store-uri",
        )


def _load_policy(path: Path | None) -> Policy:
    return Policy.without_file() if path is None else Policy.from_yaml(path)


def _enforces(rules: Policy, keys: TrustedKeys, *, auth: bool) -> tuple[str, ...]:
    policy = rules.ohlc
    lines = [rule_in_words(rule) for rule in rules.rules]
    if any(rule.is_ohlc for rule in rules.rules):
        gates = ", ".join(str(gate) for gate in policy.required_gates)
        lines += [
            f"ohlc: gates {gates} passed, and those for an encoder or synthetic data where used",
            "ohlc: the promotion gate on the locked test windows passed, its look in the ledger",
        ]
    lines += unmeetable(rules, keys)
    lines += [
        "files, run and name of what held Production cannot be changed or deleted",
        "new experiments keep their files below the server's artifact root",
        f"request bodies up to {policy.max_body_mib} MiB, artifact uploads apart",
        "job execution and the assistant are off",
    ]
    if rules.break_glass is not None:
        by, hours = ", ".join(rules.break_glass.by), rules.break_glass.hours
        lines.append(f"{by} may break the glass: what they move is to be proven within {hours:g} h")
    if policy.referee_data is not None:
        lines.append(f"a referee scores every version itself, on {policy.referee_data}")
    if policy.promoters:
        lines.append(f"only {', '.join(policy.promoters)} may move Production")
    if policy.webhooks:
        lines.append(f"promotions, refusals and rollbacks go to {len(policy.webhooks)} webhooks")
    if not policy.thresholds_sha256 and any(rule.is_ohlc for rule in rules.rules):
        lines.append("NOT pinned: the gate thresholds (set thresholds_sha256 in the policy)")
    lines.append("users log in" if auth else "NOT on: log-in (start with auth)")
    return tuple(lines)
