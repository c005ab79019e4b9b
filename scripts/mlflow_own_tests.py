"""Run MLflow's own REST and client tests against the plain and the guarded server, and compare.

Moola holds none of MLflow's tests; give the folder of a checkout of MLflow's repository that has
``tests/``. The server under test is the installed MLflow.

    python scripts/mlflow_own_tests.py CHECKOUT --output results.json

Ends with 1 if a test that passes on the plain server fails on the guarded one and is not one of the
differences listed in `EXPECTED`.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

FILES = (
    "tests/tracking/test_model_registry.py",
    "tests/tracking/test_client_webhooks.py",
    "tests/tracking/test_mlflow_artifacts.py",
    "tests/tracking/test_rest_tracking.py",
)
ENV_KIND = "MOOLA_TESTED_SERVER"
# What the guard refuses on purpose, and the tests that do it (without their parameters).
EXPECTED = {
    "test_create_get_search_experiment": "asks for artifact_location my_location, outside the root",
    "test_latest_models": "moves a version without evidence to stage Production",
}
# Stands in for the command `mlflow`: both servers run under uvicorn, with one worker.
SHIM = """#!{python}
import sys
words = sys.argv[1:]
if "--gunicorn-opts" in words:
    at = words.index("--gunicorn-opts")
    del words[at : at + 2]
if words[:1] == ["server"]:
    words += ["--workers", "1"] + {extra}
sys.argv = ["mlflow", *words]
from mlflow.cli import cli
cli()
"""
ENTRY_POINT = "[mlflow.app]\nmoola = moola.promotion.guard.server:create_app\n"


def pytest_configure(config: pytest.Config) -> None:
    """As a pytest plugin: put the guarded application where the tests find MLflow's."""
    for mark in ("asyncio", "timeout", "repeat"):  # of plugins that need not be installed here
        config.addinivalue_line("markers", mark)
    if os.environ.get(ENV_KIND) == "guarded":
        _guard_this_process()


def _guard_this_process() -> None:
    import mlflow.server.fastapi_app as application
    from mlflow.server import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR, handlers
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    from moola.promotion.guard.server import server as guard

    folder = Path(tempfile.mkdtemp(prefix="moola-own-tests-"))
    plain = dict(_artifact_repository_registry.get_registered_artifact_repositories())
    os.environ[guard.ENV_TRUSTED] = str(folder / "trusted")

    def guarded(address: str, root: str) -> object:
        for scheme, repository in plain.items():  # never guard a guarded repository
            _artifact_repository_registry.register(scheme, repository)
        env = {**os.environ, BACKEND_STORE_URI_ENV_VAR: address, ARTIFACT_ROOT_ENV_VAR: root}
        rules = guard.guard_from_environment(env)
        guard._install(rules)
        return rules

    first = {BACKEND_STORE_URI_ENV_VAR: f"sqlite:///{folder}/first.db"}
    first[ARTIFACT_ROOT_ENV_VAR] = folder.as_uri()
    os.environ.update(first)
    application.app = guard.create_app()
    for name in first:
        del os.environ[name]
    original = handlers.initialize_backend_stores

    def initialize_backend_stores(
        backend_store_uri: str, *args: object, default_artifact_root: str, **kwargs: object
    ) -> None:
        guarded(backend_store_uri, default_artifact_root)
        original(backend_store_uri, *args, default_artifact_root=default_artifact_root, **kwargs)

    handlers.initialize_backend_stores = initialize_backend_stores


def main() -> int:
    """Run both, print the differences, and return the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("checkout", type=Path)
    arguments.add_argument("--output", type=Path, default=None)
    arguments.add_argument("--files", nargs="*", default=list(FILES))
    arguments.add_argument("-k", dest="select", default="", help="as for pytest")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="moola-own-tests-") as folder, ThreadPool(2) as pool:
        kinds = ("plain", "guarded")
        words = [*chosen.files, *(["-k", chosen.select] if chosen.select else [])]
        both = [(kind, chosen.checkout.resolve(), words, Path(folder)) for kind in kinds]
        results = dict(zip(kinds, pool.starmap(_run, both), strict=True))
    if chosen.output is not None:
        chosen.output.write_text(json.dumps(results, indent=1, sort_keys=True))
    return _compare(results["plain"], results["guarded"])


def _run(kind: str, checkout: Path, words: list[str], folder: Path) -> dict[str, str]:
    home = folder / kind
    site = home / "site" / "moola_entry-0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: moola-entry\nVersion: 0\n")
    (site / "entry_points.txt").write_text(ENTRY_POINT)
    shim = home / "bin" / "mlflow"
    shim.parent.mkdir()
    extra = ["--app-name", "moola"] if kind == "guarded" else []
    shim.write_text(SHIM.format(python=sys.executable, extra=extra))
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    report = home / "report.xml"
    here = Path(__file__).resolve()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", here.stem]
    command += [f"--junit-xml={report}", f"--basetemp={home / 'tmp'}", *words]
    source = here.parents[1] / "src"
    env = {
        **os.environ,
        ENV_KIND: kind,
        "PATH": os.pathsep.join([str(shim.parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(map(str, [site.parent, source, here.parent])),
        "MLFLOW_TELEMETRY_DISABLED": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    }
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        env.pop(name, None)
    with (folder / f"{kind}.log").open("w") as log:
        subprocess.run(command, cwd=checkout, env=env, stdout=log, stderr=log, check=False)
    if not report.exists() or "collection failure" in report.read_text():
        raise SystemExit((folder / f"{kind}.log").read_text()[-3000:])
    return _outcomes(report)


def _outcomes(report: Path) -> dict[str, str]:
    found = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {child.tag: child.get("message") or "" for child in case}
        if "skipped" in kinds:
            found[name] = "skipped"
        elif {"failure", "error"} & set(kinds):
            why = kinds.get("failure") or kinds.get("error") or ""
            found[name] = "failed: " + " ".join(why.split())[:300]
        else:
            found[name] = "passed"
    return found


def _compare(plain: dict[str, str], guarded: dict[str, str]) -> int:
    for kind, found in (("plain", plain), ("guarded", guarded)):
        count = {k: sum(v.startswith(k) for v in found.values()) for k in ("passed", "failed")}
        print(f"{kind:<8} {count['passed']} passed, {count['failed']} failed, {len(found)} in all")
    unexplained = 0
    for name in sorted(set(plain) | set(guarded)):
        before, after = plain.get(name, "absent"), guarded.get(name, "absent")
        if before.split(":")[0] == after.split(":")[0]:
            continue
        why = EXPECTED.get(name.split("::")[1].split("[")[0], "")
        unexplained += not why
        print(f"{name}\n  plain {before}\n  guarded {after}\n  {why or 'NOT explained'}")
    print(f"{unexplained} differences are not explained")
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
