"""A user who has never heard of Moola does on a guarded server what they do on a plain one.

Each flow is taken call by call on a plain `mlflow server`, on a guarded one with the default policy
(every model under guard) and on one whose policy names one model. What differs stands in
`DIFFERENCES` with its reason; a difference that does not stand there fails, and so does one that
stands there and is none.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import flows_genai
import flows_login
import flows_page
import flows_registry
import flows_tracking
import pytest
from cryptography.fernet import Fernet
from flows_kit import Flow, User, differing, take
from guard_server import PASSWORD, USER, Server, running
from guard_world import honest
from promotion_kit import NAME, evaluate, make_version

from moola.promotion.ledger.remote import RemoteLedger

pytestmark = pytest.mark.usefixtures("quick_client")

PARTS = (flows_tracking, flows_registry, flows_genai, flows_page)
FLOWS: dict[str, Flow] = {name: take for part in PARTS for name, take in part.FLOWS.items()}

HEAVY = (  # these take seconds each
    "a sklearn model from log to load",
    "autologging sklearn",
    "a large artifact",
    "images tables and figures",
    "registering by address",
    "the demo",
)
MARKED = [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in FLOWS]

EVERY_MODEL, ONE_MODEL = "every model guarded", "one model guarded"
POLICIES = {EVERY_MODEL: "{}", ONE_MODEL: f"models: [{NAME}]"}

_OUTSIDE = "an experiment outside the server's artifact root could name any folder of the host"
_UNPROVEN = "Production is what the server guards, and this version shows no evidence"
_AFTER = "follows from the step before: nothing holds Production here"
_STANDS = "nothing may take away what stands for Production, by a name nobody has to learn"
_BESIDE = "the demo works on stores of its own inside the server, past what is guarded"
_SENTENCE = "an error is a sentence in JSON instead of a page or of an internal error"
_NO_WORKSPACES = "workspaces are closed; the guarded server does not start with them"
_COMMANDS = "jobs and the assistant run commands on the server's host"
# What comes out differently, by flow and step, and why. First for every policy, ...
ALWAYS: dict[tuple[str, str], str] = {
    ("experiments with a place of their own", "a folder elsewhere"): _OUTSIDE,
    ("experiments with a place of their own", "a bucket"): _OUTSIDE,
    ("what is off on both", "job"): _COMMANDS,
    ("what is off on both", "scorer"): _COMMANDS,
    ("what is off on both", "workspace"): _NO_WORKSPACES,
    ("the demo", "generate"): _BESIDE,
    ("the demo", "delete"): _BESIDE,
    ("the pages of the server", "a route that is not there"): _SENTENCE,
    ("the pages of the server", "a method that is not there"): _SENTENCE,
    ("the pages of the server", "a static file that is not there"): _SENTENCE,
    ("bodies that are no requests", "a number"): _SENTENCE,
    ("what runs commands of the host", "assistant"): _COMMANDS,
}
# ... then where every model is guarded, the user's own and their prompts too.
OWN_MODELS: dict[tuple[str, str], str] = {
    ("production of a model of ones own", "Production"): _UNPROVEN,
    ("production of a model of ones own", "Production of the next"): _UNPROVEN,
    ("production of a model of ones own", "alias production"): _UNPROVEN,
    ("production of a model of ones own", "latest"): _AFTER,
    ("production of a model of ones own", "delete alias production"): _STANDS,
    ("production of a prompt", "alias production"): _UNPROVEN,
    ("production of a prompt", "load"): _AFTER,
    ("production of a prompt", "delete alias production"): _STANDS,
}
DIFFERENCES = {EVERY_MODEL: ALWAYS | OWN_MODELS, ONE_MODEL: ALWAYS}


def where(server: Server) -> User:
    """Return a stranger to the server."""
    folder = server.folder / "user"
    folder.mkdir()
    artifacts = server.folder / "mlartifacts"
    return User(server.url, server.backend, artifacts, folder, server.credentials)


def seed(server: Server, *, guarded: bool) -> None:
    """Put one version into Production, as the server's other user has done."""
    client = server.client()
    client.create_experiment("work")
    version = make_version(client, server.folder)
    evaluate(client, server.key, version)
    if guarded:
        honest(server, version, ledger=RemoteLedger(server.url))
    else:
        client.transition_model_version_stage(NAME, version, "Production")
        client.set_registered_model_alias(NAME, "production", version)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace is sent when it ends, and not some seconds later."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")


@contextmanager
def both(
    template: Path, folders: tuple[Path, Path], policy: str, *, auth: bool = False
) -> Iterator[tuple[Server, Server]]:
    """Start a plain server and a guarded one side by side."""
    env = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": "a-passphrase-of-a-test",
    }
    contexts = []
    for folder, chosen in zip(folders, (None, policy), strict=True):
        shutil.copy(template, folder / "mlflow.db")
        contexts.append(running(folder, policy=chosen, auth=auth, more_env=env))
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        plain, guarded = pool.map(lambda context: context.__enter__(), contexts)
        for context in contexts:
            stack.push(context)
        seed(plain, guarded=False)
        seed(guarded, guarded=True)
        yield plain, guarded


@pytest.fixture(
    scope="module", params=[EVERY_MODEL, pytest.param(ONE_MODEL, marks=pytest.mark.slow)]
)
def users(
    request: pytest.FixtureRequest, template_db: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, User, User]]:
    """The policy, and the same stranger at a plain server and at a guarded one."""
    folders = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("guarded")
    with both(template_db, folders, POLICIES[request.param]) as (plain, guarded):
        yield request.param, where(plain), where(guarded)


def compare(flow: Flow, plain: User, guarded: User) -> dict[str, tuple]:
    """Let both users take a flow; return what came out differently."""
    expected, found = take(flow, plain), take(flow, guarded)
    unexpected = {step: outcome for step, outcome in expected.items() if not outcome.expected}
    assert not unexpected, f"on a plain server {unexpected}"
    return differing(expected, found)


@pytest.mark.parametrize("name", MARKED)
def test_flow(users: tuple[str, User, User], name: str) -> None:
    policy, plain, guarded = users
    found = compare(FLOWS[name], plain, guarded)
    listed = {step for flow, step in DIFFERENCES[policy] if flow == name}
    assert set(found) == listed, f"{policy}: {found}"


@pytest.mark.slow
def test_users_who_log_in(
    template_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    folders = tmp_path / "plain", tmp_path / "guarded"
    for folder in folders:
        folder.mkdir()
    with both(template_db, folders, POLICIES[EVERY_MODEL], auth=True) as (plain, guarded):
        users = where(plain), where(guarded)
        found = {name: compare(flow, *users) for name, flow in flows_login.FLOWS.items()}
    assert not {name: steps for name, steps in found.items() if steps}


def test_the_flows_are_enough_and_the_list_names_them() -> None:
    assert len(FLOWS) >= 43
    assert set(HEAVY) <= set(FLOWS)
    for listed in DIFFERENCES.values():
        assert {name for name, _ in listed} <= set(FLOWS)
        assert all(listed.values())
