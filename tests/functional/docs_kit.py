"""The pages as a reader follows them: their blocks, what is replaced in them, what is not run.

Blocks are fenced and name their language. ``sh`` is run line by line, ``python`` whole, each in the
folder of the project (what calls `moola` alone is called in this process, through the same entry);
``yaml`` is written to the file that its first line names. Every other language is for the eye. A
line of ``sh`` that matches a row of `NOT_RUN` is left out, and the rows of `REPLACED` are the only
words that differ from what a reader types.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from job_kit import server_process
from serve_kit import in_folder

from moola.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *("README.md", "CONTRIBUTING.md", "SECURITY.md"),
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))),
]
EVERYWHERE = ""
LANGUAGES = {"sh", "python", "yaml", "text", "mermaid", "csv"}
PROGRAMS = r"(?:[A-Z_]+=\S+ )*(?:moola|mlflow|make|docker\S*|torchrun|curl|pip|git|ray|python\d?)\b"
SERVERS = re.compile(r"(?:[A-Z_]+=\S+ )*(?:moola serve|moola server|mlflow models serve)\b")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)

# (page, pattern, what stands in its place, why)
REPLACED = (
    ("docs/quickstart.md", r"models:/EnhancedSimpleLSTM/Production", "models:/EnhancedSimpleLSTM/1",
     "of the shipped bars gate 2 is inconclusive, and Production stays empty"),
    (EVERYWHERE, r"device=cuda", "device=cpu", "a GPU is not asked for here"),
    (EVERYWHERE, r"--device cuda", "--device cpu", "the same"),
    (EVERYWHERE, r"127\.0\.0\.1:5001", "127.0.0.1:{port}", "a free port"),
    ("docs/guard.md", r"127\.0\.0\.1:5000", "127.0.0.1:{port}", "the same"),
    (EVERYWHERE, r"-p 5001", "-p {port}", "a free port"),
    (EVERYWHERE, r"^(\S*=\S+ )?(moola serve\b)", r"\1\2 --port {port} --poll 0.2", "a free port"),
    (EVERYWHERE, r"^moola server\b", "moola server --port {port}", "a free port"),
    (EVERYWHERE, r"-e pretrain ", "-e pretrain -P epochs=1 -P windows_per_epoch=128 "
     "-P batch_size=64 -P hidden_dim=32 -P num_layers=1 ", "seconds instead of an hour"),
    (EVERYWHERE, r"-e finetune ", "-e finetune -P preset=compact -P epochs=2 -P unfreeze_after=1 "
     "-P patience=0 ", "seconds; the small encoder needs the small preset"),
    (EVERYWHERE, r"-e evaluate ", "-e evaluate -P seeds=17 ", "one seed"),
    ("docs/finetuning.md", r"^moola train ", "moola train --preset compact --epochs 2 --patience 0 "
     "--unfreeze-after 1 ", "seconds; the small preset"),
    ("docs/remote-gpu.md", r"^moola train ", "moola train --preset compact --epochs 2 --patience 0 "
     "--unfreeze-after 1 ", "seconds; the small preset"),
    ("docs/finetuning.md", r"^moola ablate ", "moola ablate --preset compact --epochs 2 "
     "--unfreeze-after 1 --gradual-after 1 --patience 0 --seeds 17 ", "seconds"),
    ("docs/finetuning.md", r"epochs=20 --trials 20", "epochs=1 --trials 2", "seconds"),
    ("docs/gates.md", r"^moola evaluate(?! --gate)", "moola evaluate --seeds 17", "one seed"),
    ("docs/gates.md", r"--epochs 3 --windows-per-epoch 2048", "--epochs 1 --windows-per-epoch 128 "
     "--hidden-dim 32 --num-layers 1", "seconds; an encoder for the small preset"),
    ("docs/gates.md", r"--epochs 8 --patience 3", "--preset compact --epochs 2 --patience 0",
     "seconds"),
    ("docs/gates.md", r"--unfreeze-after 3", "--unfreeze-after 1", "it trains two epochs"),
    ("docs/pretraining.md", r"^(.*moola pretrain-\w+)", r"\1 --epochs 1", "one epoch"),
    ("docs/pretraining.md", r"--windows-per-epoch 10000 --epochs 12 --patience 12",
     "--windows-per-epoch 128 --hidden-dim 32 --num-layers 1", "seconds"),
    ("docs/pretraining.md", r"(pretrain-ts2vec --epochs 1)$", r"\1 --windows-per-epoch 128 "
     "--batch-size 64", "seconds"),
    ("docs/pretraining.md", r"(pretrain-(?:bilstm|multitask) --epochs 1)( --device.*| --resume|)$",
     r"\1 --windows-per-epoch 128 --batch-size 64 --hidden-dim 32 --num-layers 1\2", "seconds"),
    ("docs/scale.md", r"(moola evaluate)", r"\1 --seeds 17", "one seed"),
    ("docs/scale.md", r"--nproc-per-node 4(.*)$", r"--nproc-per-node 2\1 --epochs 1 "
     "--windows-per-epoch 128 --batch-size 64 --hidden-dim 32 --num-layers 1", "two processes"),
    ("docs/serving.md", r"MOOLA_SERVE_TOKEN=\.\.\.", "MOOLA_SERVE_TOKEN=secret", "a token"),
    ("docs/serving.md", r"--host 0\.0\.0\.0", "--host 127.0.0.1", "no port is open to others"),
    ("docs/tracking.md", r"4f3a91c2", "{run}", "the id of a run that is in the store"),
)  # fmt: skip

_CI = "the workflow runs it itself"
_OWN_VENV = "makes .venv first; the command behind it is run by "
_ENGINE = "needs a container engine; tests/functional/test_docker.py checks its files"
_SERVICES = "needs PostgreSQL and an S3 store; tests/functional/test_restore.py runs it with both"
_CLUSTER = "needs a Ray cluster; tests/functional/test_launchers.py runs one on this machine"

# (page, pattern, why it is not run)
NOT_RUN = (
    ("README.md", r"^make demo\b", "minutes; the workflow runs it weekly"),
    ("README.md", r"^make test\b", _CI),
    ("README.md", r"^make ui\b", _OWN_VENV + "tests/functional/test_pages.py"),
    ("README.md", r"^\. \.venv/bin/activate$", "the tests run in an environment of their own"),
    ("CONTRIBUTING.md", r"^make (check|test|docs)\b(?!-)", _CI),
    ("CONTRIBUTING.md", r"^make test-slow\b", "hours; the workflow runs it weekly"),
    ("CONTRIBUTING.md", r"^make (coverage|bench)\b", "hours; by hand"),
    ("CONTRIBUTING.md", r"^git (tag|push)\b", "changes the repository"),
    ("docs/gates.md", r"^moola investigate\b", "needs a gate that is held; "
     "tests/functional/test_evaluate.py has one"),
    ("docs/remote-gpu.md", r"^git clone\b", "needs the network"),
    ("docs/remote-gpu.md", r"^make \.venv/\.installed\b", "as make test does it first"),
    ("docs/remote-gpu.md", r"^rsync ", "needs a second machine"),
    ("docs/scale.md", r"^export ", "secrets of the compose file, which is not started"),
    ("docs/scale.md", r"^docker (compose|build)\b", _ENGINE),
    ("docs/scale.md", r"docker/(start-server|backup|restore)\b", _SERVICES),
    ("docs/scale.md", r"^docker/build-without-engine\b", "needs root, buildah and debootstrap; "
     "tests/functional/test_image.py"),
    ("docs/scale.md", r"--address (head:6379|ray://head:10001|auto)", _CLUSTER),
    ("docs/scale.md", r"--nnodes 2", "needs two hosts"),
    ("docs/scale.md", r"-b kubernetes\b", "needs a cluster; tests/functional/test_docker.py "
     "renders the job"),
    ("docs/serving.md", r"^mlflow models build-docker\b", "needs a container engine"),
    ("docs/serving.md", r"spark_udf", "needs Spark; tests/functional/test_serve.py has its "
     "worker's part"),
)  # fmt: skip

# (page, pattern, words of the reason): the page says that it is refused, so exit code 1 is right
REFUSED = (
    ("docs/guard.md", r"moola guard check\b", "no test run is attested"),
    ("docs/registry.md", r"^moola promote\b", "not promoted"),
    ("README.md", r"-e promote\b", "not promoted"),
    ("docs/quickstart.md", r"^moola promote\b", "not promoted"),
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page; `line` is that of its fence."""

    page: str
    line: int
    language: str
    text: str

    def commands(self) -> list[str]:
        """Return the commands of a shell block: continued lines joined, comments cut."""
        lines = self.text.replace("\\\n", " ").splitlines()
        bare = (re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in lines)
        return [re.sub(r"\s+", " ", line) for line in bare if line]


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start()) + 1,
            language=found[1],
            text=found[2],
        )
        for found in _FENCE.finditer(text)
    ]


def outside_blocks(page: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", (ROOT / page).read_text())


def rows_of(table: tuple, page: str, text: str) -> list[int]:
    """Return the rows of a table, by number, that match a text of a page."""
    return [
        number
        for number, row in enumerate(table)
        if row[0] in (EVERYWHERE, page) and re.search(row[1], text, re.M)
    ]


def replaced(page: str, text: str, used: set[int] | None = None) -> str:
    """Return what is run instead of a text, and note the rows that were used."""
    for number, (where, pattern, instead, _) in enumerate(REPLACED):
        if where in (EVERYWHERE, page):
            text, times = re.subn(pattern, instead, text, flags=re.M)
            if times and used is not None:
                used.add(number)
    return text


def not_run(page: str, text: str) -> str | None:
    """Return why a command or a Python block is not run, None if it is."""
    rows = rows_of(NOT_RUN, page, text)
    return NOT_RUN[rows[0]][2] if rows else None


def texts_to_run(page: str) -> Iterator[tuple[str, str]]:
    """Yield language and text of what a page gives its reader to run: commands, Python blocks."""
    for block in blocks(page):
        if block.language == "sh":
            yield from (("sh", command) for command in block.commands())
        elif block.language in ("python", "yaml"):
            yield block.language, block.text


@dataclass(kw_only=True)
class Reader:
    """Somebody who follows pages in a project folder, with a store of its own."""

    folder: Path
    facts: dict[str, str] = field(default_factory=dict)
    once_served: Callable[[str], None] = lambda url: None  # called with a server's address
    _servers: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def environment(self) -> dict[str, str]:
        binaries = Path(sys.executable).parent
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "MLFLOW_TRACKING_URI": self.store,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        }

    def follow(self, page: str) -> dict[str, str]:
        """Do all that a page says, in its order; return what each command printed."""
        for name, make in READERS_FILES.items():
            if name in (ROOT / page).read_text() and not (self.folder / name).exists():
                make(self.folder / name)
        printed = {}
        with self._servers:
            for language, text in texts_to_run(page):
                if language == "yaml" or re.match(r"# \S+\.py\n", text):
                    self.write(text)
                elif not_run(page, text) is None:
                    shown = replaced(page, text)
                    if not SERVERS.match(shown):  # a server's port is chosen when it starts
                        shown = self.filled(shown)
                    refused = rows_of(REFUSED, page, text)
                    words = REFUSED[refused[0]][2] if refused else None
                    printed[text] = self.do(language, shown, words)
        return printed

    def filled(self, text: str) -> str:
        for name, value in self.facts.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def write(self, text: str) -> None:
        """Write a block to the file that its first line names."""
        first = re.match(r"# (\S+\.(?:yaml|py))\n", text)
        assert first, f"the first line names no file:\n{text}"
        path = self.folder / first[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def do(self, language: str, text: str, refused: str | None = None) -> str:
        """Run one command or block; it must end with 0, or with 1 and the `refused` words."""
        if language == "sh" and SERVERS.match(text):
            return self.serve(text)
        if re.match(r"moola|mlflow", text) and "127.0.0.1" not in text:
            self._servers.close()
        if language == "python" or re.match(r"moola [^|>&;]+$", text):
            return self.do_here(language, text, refused)
        done = subprocess.run(
            ["bash", "-c", text],
            check=False,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=900,
        )
        ends = f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == (0 if refused is None else 1), ends
        assert refused is None or refused in done.stderr, ends
        return done.stdout

    def do_here(self, language: str, text: str, refused: str | None) -> str:
        """Do it in this process, which spares a command of Moola its start."""
        out, err = io.StringIO(), io.StringIO()
        uri = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.store)
        try:
            with (
                in_folder(self.folder),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
            ):
                code = _executed(text) if language == "python" else _called(text)
        finally:
            mlflow.set_tracking_uri(uri)
            os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # MLflow leaves it behind
        ends = f"{text}\n{out.getvalue()[-2000:]}\n{err.getvalue()[-3000:]}"
        assert code == (0 if refused is None else 1), ends
        assert refused is None or refused in err.getvalue(), ends
        return out.getvalue()

    def serve(self, command: str) -> str:
        """Start a server; it runs until the next `moola` or `mlflow` that does not ask it."""
        self._servers.close()
        words = shlex.split(command)
        given = {}
        while "=" in words[0]:
            name, _, given[name] = words.pop(0).partition("=")
        ready = "/health" if words[1] == "server" else "/ping"
        env = {"MLFLOW_TRACKING_URI": self.store, "OMP_NUM_THREADS": "1", **given}
        log = self.folder / "server.log"
        with in_folder(self.folder):
            running = server_process(words[0], *words[1:], ready=ready, log=log, **env)
            url, _ = self._servers.enter_context(running)
        self.facts["port"] = url.rpartition(":")[2]
        self.once_served(url)
        return log.read_text()


def _executed(text: str) -> int:
    exec(compile(text, "a block of a page", "exec"), {})
    return 0


def _called(text: str) -> int:
    try:
        main(shlex.split(text)[1:])
    except SystemExit as end:
        return int(str(end.code))
    return 0


def _bars(path: Path) -> None:
    source = ROOT / "data" / "bars" / "eurusd_1h.parquet"
    pq.read_table(source).to_pandas().to_csv(path, index=False)


def _indices(path: Path) -> None:
    parts = {"train": range(702), "val": range(720, 902), "test": range(920, 1264)}
    path.write_text(json.dumps({f"{part}_indices": [*rows] for part, rows in parts.items()}))


def _labels(path: Path) -> None:
    np.savetxt(
        path,
        [f"monday,{row},{row % 2}" for row in range(300)],
        "%s",
        header="request_id,row,label",
        comments="",
    )


def _windows(path: Path) -> None:
    rng = np.random.default_rng(5)
    close = 100 * np.exp(0.001 * rng.standard_normal((60, 105)).cumsum(axis=1))
    span = 0.05 + 0.05 * rng.random((2, 60, 105))
    np.save(path, np.stack([close, close + span[0], close - span[1], close], axis=2))


def _rows(path: Path) -> None:
    first = pd.date_range("2020-01-01", periods=60, freq="5D", tz="UTC")
    ends = {"first_bar": first, "last_bar": first + pd.Timedelta(hours=104)}
    ends["label_end"] = ends["last_bar"] + pd.Timedelta(hours=6)
    frame = pd.DataFrame(ends).assign(label=["down", "up"] * 30)
    frame.to_csv(path, index=False)


# Files that a reader has, and what stands for them
READERS_FILES: dict[str, Callable[[Path], None]] = {
    "bars.csv": _bars,
    "mine.json": _indices,
    "labels.csv": _labels,
    "X.npy": _windows,
    "rows.csv": _rows,
}
