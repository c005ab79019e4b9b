"""Measure the guarded server: clients that log whole fine-tune runs, and searches by store size.

    python benchmarks/bench_store.py                                     # all of these
    python benchmarks/bench_store.py load --store postgres               # 32 clients, 2 minutes
    python benchmarks/bench_store.py load --store postgres --restart     # restarted half-way
    python benchmarks/bench_store.py load --store sqlite
    python benchmarks/bench_store.py search --runs 100 10000 100000      # on PostgreSQL

Server, database (with fsync), S3 store and clients share one machine. A run is what `moola train`
logs: parameters, tags, three data sets, 60 epochs of figures, 8 files and a registered version.
Exits with 1 if anything a client was told is stored is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "functional"))

EPOCHS, FIGURES, FILES, PROCESSES = 60, 6, 8, 4
PARAMS = {f"option_{i}": f"value {i}" for i in range(25)}
NAME = "EnhancedSimpleLSTM"


@contextmanager
def serving(store: str, folder: Path, workers: int) -> Iterator[tuple[str, str, Any]]:
    """Start every service; yield the server's URL, the database's URL and PostgreSQL or None."""
    from services import DOCKER, guarded_server, postgres, s3_store

    with s3_store(folder / "s3") as s3:
        env = {**s3, "MOOLA_WORKERS": str(workers), "MLFLOW_DISABLE_TELEMETRY": "true"}
        if store == "postgres":
            with (
                postgres(durable=True) as database,
                guarded_server(folder / "server", {**env, **database.env}) as url,
            ):
                yield url, database.url, database
            return
        database_url = f"sqlite:///{folder}/mlflow.db"
        script = (
            (DOCKER / "start-server").read_text().replace("postgresql+psycopg://", database_url)
        )
        start = folder / "start-server"
        start.write_text(script)
        start.chmod(0o755)
        env |= {"PGHOST": "-", "PGUSER": "-", "PGDATABASE": "-"}
        with guarded_server(folder / "server", env, command=[start]) as url:
            yield url, database_url, None


class Client(threading.Thread):
    """Logs runs until the time is over; keeps what was acknowledged, and how long calls took."""

    def __init__(self, url: str, experiment: str, until: float, folder: Path, number: int):
        super().__init__()
        from mlflow import MlflowClient

        self.client = MlflowClient(url)
        self.experiment, self.until, self.number = experiment, until, number
        self.folder = folder / f"client-{number}"
        self.runs: list[str] = []
        self.versions: list[str] = []
        self.batches: list[float] = []
        self.errors: list[str] = []

    def run(self) -> None:
        """Log run after run."""
        while time.time() < self.until:
            try:
                self.log_run()
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {str(error)[:300]}")

    def batch(self, run_id: str, **what: Any) -> None:
        """Log a batch and note its time."""
        start = time.perf_counter()
        self.client.log_batch(run_id, **what)
        self.batches.append(time.perf_counter() - start)

    def log_run(self) -> None:
        """Log one fine-tune run, complete, and register its version."""
        from mlflow.entities import Metric, Param, RunTag

        from moola.tracking.lineage import dataset_input

        client = self.client
        run = client.create_run(self.experiment, run_name=f"c{self.number}-{len(self.runs)}")
        run_id = run.info.run_id
        self.batch(run_id, tags=[RunTag(f"moola.tag_{i}", "x" * 40) for i in range(6)])
        self.batch(run_id, params=[Param(k, v) for k, v in PARAMS.items()])
        inputs = [
            dataset_input(name=f"v1/{part}", sha256="a" * 64, source="bars/btcusd_1h",
                          context=part, shape=(100, 105, 4))
            for part in ("train", "validation", "test")
        ]  # fmt: skip
        client.log_inputs(run_id, inputs)
        now = int(time.time() * 1000)
        history = [
            Metric(f"figure_{k}", 1.0 / (e + k + 1), now, e)
            for e in range(EPOCHS)
            for k in range(FIGURES)
        ]
        self.batch(run_id, metrics=history)
        files = self.folder / "files"
        if not files.exists():
            files.mkdir(parents=True)
            for i in range(FILES):
                (files / f"file_{i}.json").write_bytes(os.urandom(10_000))
            (self.folder / "model").mkdir()
            (self.folder / "model" / "MLmodel").write_text("flavors: {}\n")
            (self.folder / "model" / "model.safetensors").write_bytes(os.urandom(70_000))
        client.log_artifacts(run_id, str(files))
        model = client.create_logged_model(self.experiment, "model", run_id)
        client.log_model_artifacts(model.model_id, str(self.folder / "model"))
        client.finalize_logged_model(model.model_id, "READY")
        version = client.create_model_version(
            f"{NAME}-{self.number}", f"models:/{model.model_id}", run_id, model_id=model.model_id
        )
        client.set_terminated(run_id)
        self.runs.append(run_id)
        self.versions.append(f"{version.name}/{version.version}")


def client_process(url: str, experiment: str, until: float, numbers: list[int]) -> None:
    """Run some clients as threads and print what they were told."""
    with tempfile.TemporaryDirectory() as folder:
        clients = [Client(url, experiment, until, Path(folder), n) for n in numbers]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    found = [{k: getattr(c, k) for k in ("runs", "versions", "batches", "errors")} for c in clients]
    print(json.dumps(found))


def measure_load(options: argparse.Namespace) -> bool:
    """Load the server; print the figures; return whether all that was acknowledged is there."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(options.store, Path(folder), options.workers) as (url, database_url, postgres),
    ):
        from mlflow import MlflowClient

        client = MlflowClient(url)
        experiment = client.create_experiment("load")
        for n in range(options.clients):
            client.create_registered_model(f"{NAME}-{n}")
        warm_seconds = 12  # until every client process has imported MLflow
        until = time.time() + warm_seconds + options.seconds
        share = [list(range(options.clients))[i::PROCESSES] for i in range(PROCESSES)]
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "client", url, experiment, str(until), json.dumps(part)],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            for part in share
        ]  # fmt: skip
        restarted = ""
        if options.restart and postgres is not None:
            time.sleep(warm_seconds + options.seconds / 2)
            start = time.perf_counter()
            postgres.control("-m", "fast", "restart")
            restarted = f", PostgreSQL restarted in {time.perf_counter() - start:.1f} s"
        outputs = [p.communicate()[0] for p in processes]
        seconds = options.seconds + time.time() - until
        found = [
            c for text in outputs for c in json.loads(text.splitlines()[-1])
        ]  # MLflow prints too
        return report(found, database_url, options, seconds, restarted)


def report(
    found: list[dict[str, Any]],
    database_url: str,
    options: argparse.Namespace,
    seconds: float,
    restarted: str,
) -> bool:
    """Compare what clients were told with what the database holds, and print one line."""
    runs = [r for c in found for r in c["runs"]]
    versions = [v for c in found for v in c["versions"]]
    errors = [e for c in found for e in c["errors"]]
    batches = sorted(b for c in found for b in c["batches"])
    lost = missing(database_url, runs, versions)
    p99 = batches[int(0.99 * len(batches))] if batches else float("nan")
    print(
        f"{options.store}, {options.clients} clients, {options.workers} workers{restarted}: "
        f"{len(runs)} runs in {seconds:.0f} s, {len(runs) / seconds:.2f} runs/s; log_batch median "
        f"{1000 * statistics.median(batches):.0f} ms, p99 {1000 * p99:.0f} ms, longest "
        f"{batches[-1]:.1f} s; {len(lost)} lost, {len(errors)} errors",
        flush=True,
    )
    for line in [*lost, *sorted(set(errors))][:10]:
        print(f"  {line}")
    return not lost and bool(runs)


def missing(database_url: str, runs: list[str], versions: list[str]) -> list[str]:
    """Return what is not in the database in full, although a client was told that it is."""
    import sqlalchemy as sa

    wanted = {
        "metrics": EPOCHS * FIGURES,
        "latest_metrics": FIGURES,
        "params": len(PARAMS),
    }
    engine = sa.create_engine(database_url)
    lost = []
    with engine.connect() as connection:
        for table, number in wanted.items():
            rows = connection.execute(
                sa.text(f"SELECT run_uuid, COUNT(*) FROM {table} GROUP BY run_uuid")
            )
            there = dict(rows.fetchall())
            lost += [
                f"{table} of run {r}: {there.get(r, 0)}" for r in runs if there.get(r) != number
            ]
        status = dict(connection.execute(sa.text("SELECT run_uuid, status FROM runs")).fetchall())
        lost += [f"run {r} is {status.get(r)}" for r in runs if status.get(r) != "FINISHED"]
        rows = connection.execute(sa.text("SELECT name, version FROM model_versions"))
        registered = {f"{name}/{version}" for name, version in rows}
        lost += [f"version {v}" for v in versions if v not in registered]
    engine.dispose()
    return lost


_RUNS = """INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id,
    status, start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)
    SELECT {id}, {id}, 'UNKNOWN', '', '', 'bench', 'FINISHED', 1700000000000 + n.i,
    1700000060000 + n.i,
    '', 'active', 'mlflow-artifacts:/x', {experiment} FROM {n}"""
_METRICS = """INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
    SELECT k.k, (n.i * 7919 % 10007) / 10007.0, 1700000000000, 0, false, {id} FROM {n}
    CROSS JOIN (VALUES {metrics}) AS k(k)"""
_PARAMS = """INSERT INTO params (key, value, run_uuid)
    SELECT 'option_' || k, 'value', {id} FROM {n} CROSS JOIN generate_series(1, 25) AS k"""
_TAGS = """INSERT INTO tags (key, value, run_uuid)
    SELECT t.k, CASE t.k WHEN 'moola.step' THEN 'evaluate' ELSE (n.i % 8)::text END,
    {id} FROM {n}
    CROSS JOIN
    (VALUES ('moola.step'), ('moola.gate'), ('moola.verdict'), ('mlflow.user')) AS t(k)"""


def fill(database_url: str, experiment: str, first: int, last: int) -> float:
    """Insert runs [first, last) with 12 figures, 25 parameters and 4 tags; return seconds."""
    import sqlalchemy as sa

    keys = ("log_loss", "brier", "roc_auc", *(f"figure_{i}" for i in range(9)))
    words = {
        "id": "lpad(to_hex(n.i), 32, '0')",
        "n": f"generate_series({first}, {last - 1}) AS n(i)",
        "metrics": ", ".join(f"('{k}')" for k in keys),
        "experiment": experiment,
    }
    engine = sa.create_engine(database_url)
    start = time.perf_counter()
    with engine.begin() as connection:
        for statement in (_RUNS, _METRICS, _PARAMS, _TAGS):
            connection.execute(sa.text(statement.format(**words).replace("::text", "\\:\\:text")))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
    engine.dispose()
    return time.perf_counter() - start


def measure_search(options: argparse.Namespace) -> None:
    """Fill the store step by step and print the time of each question by size."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving("postgres", Path(folder), options.workers) as (url, database_url, _),
    ):
        os.environ["MLFLOW_TRACKING_URI"] = url
        from mlflow import MlflowClient

        from moola.config import names
        from moola.steps.pages import gate_pages

        client = MlflowClient(url)
        experiment = client.create_experiment(names.EXPERIMENT_GATES)

        def page() -> None:
            urllib.request.urlopen(f"{url}/moola", timeout=120).read()

        questions = {
            "newest 100": lambda: client.search_runs([experiment], max_results=100),
            "100 by filter, best first": lambda: client.search_runs(
                [experiment],
                "metrics.log_loss < 0.5 and tags.`moola.gate` = '2'",
                max_results=100,
                order_by=["metrics.log_loss ASC"],
            ),
            "gate pages (moola ui)": gate_pages,
            "/moola": page,
        }
        print("| runs | filled in s | " + " | ".join(f"{q}, ms" for q in questions) + " |")
        print("| ---: | ---: |" + " ---: |" * len(questions))
        first = 0
        for size in options.runs:
            filled = fill(database_url, experiment, first, size)
            first = size
            cells = [f"{1000 * median_seconds(ask):.0f}" for ask in questions.values()]
            print(f"| {size:,} | {filled:.1f} | " + " | ".join(cells) + " |", flush=True)


def median_seconds(ask: Any, repeats: int = 7) -> float:
    """Return the median time of a question, the first asking apart."""
    ask()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command")
    load = commands.add_parser("load")
    load.add_argument("--store", choices=("postgres", "sqlite"), default="postgres")
    load.add_argument("--clients", type=int, default=32)
    load.add_argument("--seconds", type=float, default=120)
    load.add_argument("--restart", action="store_true", help="Restart PostgreSQL half-way.")
    load.add_argument("--workers", type=int, default=2)
    search = commands.add_parser("search")
    search.add_argument("--runs", type=int, nargs="+", default=[10**2, 10**4, 10**5])
    search.add_argument("--workers", type=int, default=1)
    client = commands.add_parser("client", help=argparse.SUPPRESS)
    client.add_argument("values", nargs=4)
    options = parser.parse_args()
    if options.command == "client":
        url, experiment, until, numbers = options.values
        client_process(url, experiment, float(until), json.loads(numbers))
    elif options.command == "load":
        sys.exit(0 if measure_load(options) else 1)
    elif options.command == "search":
        measure_search(options)
    else:
        loads = (["--store", "postgres"], ["--store", "sqlite"], ["--restart", "--seconds", "60"])
        whole = [measure_load(parser.parse_args(["load", *words])) for words in loads]
        measure_search(parser.parse_args(["search"]))
        sys.exit(0 if all(whole) else 1)


if __name__ == "__main__":
    main()
