"""README and docs, page by page: every command and every Python block, run in its order.

A page that says otherwise aside, a reader stands in a project with the default sets. What is
replaced and what is not run is listed in `docs_kit`.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import docs_kit
import pytest
import yaml
from docs_kit import EVERYWHERE, LANGUAGES, NOT_RUN, PAGES, PROGRAMS, REFUSED, REPLACED, Reader
from mlflow import MlflowClient
from promotion_kit import NAME, ask_promotion, evaluate

from moola.config import names
from moola.promotion.evidence.keys import load_signing_key
from moola.promotion.ledger.local import LocalLedger

PROJECT_FILES = ("MLproject", "python_env.yaml", "conda.yaml", "constraints.txt", "src")
TINY = "--preset compact --epochs 2 --patience 0 --learning-rate 0.002"
EURUSD = "--labeled labeled_windows/v2 --split splits/fwd_chain_v2_eurusd.json"
ENCODER = "--epochs 1 --windows-per-epoch 128 --batch-size 64 --hidden-dim 32 --num-layers 1"

QUICK = ("docs/tracking.md",)
FROM_NOTHING = ("docs/data.md", "docs/guard.md", "docs/compare.md")  # in an empty folder
ELSEWHERE = ("docs/quickstart.md",)  # test_quickstart.py
WITH_COMMANDS = [page for page in PAGES if list(docs_kit.texts_to_run(page))]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, template_db: Path, data_root: Path) -> Reader:
    """A project with the default sets, one version and its first gate."""
    reader = Reader(folder=tmp_path_factory.mktemp("small"))
    shutil.copy(template_db, reader.folder / "mlflow.db")
    shutil.copytree(data_root, reader.folder / "data")
    reader.do("sh", f"moola train {EURUSD} {TINY}")
    reader.do("sh", "moola evaluate --gate 0")
    (version,) = MlflowClient(reader.store).search_model_versions(f"name='{NAME}'")
    reader.facts["run"] = version.run_id[:8]
    return reader


@pytest.fixture(scope="module")
def full(small: Reader, repository: Path) -> Reader:
    """The same with two versions that held Production, an encoder and a version trained from it."""
    for name in PROJECT_FILES:
        (small.folder / name).symlink_to(repository / name)
    small.do("sh", f"moola train {EURUSD} {TINY} --seed 18")
    small.do("sh", f"moola pretrain-bilstm {ENCODER}")
    encoder = f"--pretrained-encoder {names.DEFAULT_ENCODER} --unfreeze-after 1"
    small.do("sh", f"moola train {TINY} {encoder}")
    small.do("sh", "moola keys --make")
    _put_into_production(small, "1")
    _put_into_production(small, "2")
    return small


def _put_into_production(reader: Reader, version: str) -> None:
    """Promote a version that is far too small to pass: its verdicts are made up, and signed."""
    client = MlflowClient(reader.store)
    if client.get_experiment_by_name("work") is None:
        client.create_experiment("work", (reader.folder / "mlartifacts" / "work").as_uri())
    key = load_signing_key(reader.folder, env={})
    evaluate(client, key, version)
    ask_promotion(client, LocalLedger(reader.store), key, version)


def test_data_page(tmp_path: Path) -> None:
    printed = Reader(folder=tmp_path).follow("docs/data.md")
    assert "labeled_windows/v1" in printed["moola data show"]
    assert (tmp_path / "audit.png").stat().st_size > 1000


@pytest.mark.medium
def test_guard_page(tmp_path: Path) -> None:
    printed = Reader(folder=tmp_path).follow("docs/guard.md")
    history = printed["MLFLOW_TRACKING_URI=http://127.0.0.1:5000 moola history --name churn"]
    assert "champion now: 1" in history


@pytest.mark.slow
def test_compare_page(tmp_path: Path) -> None:
    printed = Reader(folder=tmp_path).follow("docs/compare.md")
    assert any("better" in text for text in printed.values())


@pytest.mark.parametrize("page", QUICK)
def test_quick_page(page: str, small: Reader) -> None:
    assert small.follow(page)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in WITH_COMMANDS if p not in (*QUICK, *FROM_NOTHING, *ELSEWHERE)]
)
def test_page(page: str, full: Reader) -> None:
    splits = full.folder / "data" / "splits"
    stood = set(splits.iterdir())
    full.follow(page)
    for made in set(splits.iterdir()) - stood:  # the next page's reader has not read this one
        made.unlink()


def test_every_page_with_commands_is_followed_by_a_test() -> None:
    assert {*QUICK, *FROM_NOTHING, *ELSEWHERE} <= set(WITH_COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_that_name_their_language(page: str) -> None:
    """A command in a block that is not run would be a command that nobody has tried."""
    for block in docs_kit.blocks(page):
        assert block.language in LANGUAGES, f"{page}:{block.line} is {block.language!r}"
        if block.language not in ("sh", "python"):
            found = re.search(rf"^{PROGRAMS}", block.text, re.M)
            assert found is None, f"{page}:{block.line} has {found} in {block.language!r}"
    outside = docs_kit.outside_blocks(page)
    found = re.search(rf"^(?: {{4}}|\t){PROGRAMS}", outside, re.M)
    assert found is None, f"{page}: {found} stands in a block without a fence"


@pytest.mark.parametrize("table", ["NOT_RUN", "REPLACED", "REFUSED"])
def test_every_row_of_the_tables_matches_something(table: str) -> None:
    rows = {"NOT_RUN": NOT_RUN, "REPLACED": REPLACED, "REFUSED": REFUSED}[table]
    used: set[int] = set()
    for page in PAGES:
        for _, text in docs_kit.texts_to_run(page):
            if table == "NOT_RUN":
                used.update(docs_kit.rows_of(rows, page, text))
            elif docs_kit.not_run(page, text) is None:
                if table == "REFUSED":
                    used.update(docs_kit.rows_of(rows, page, text))
                else:
                    docs_kit.replaced(page, text, used)
    unused = [row for number, row in enumerate(rows) if number not in used]
    assert not unused
    assert all(row[0] in (EVERYWHERE, *PAGES) for row in rows)


def test_the_workflow_runs_what_the_table_leaves_to_it() -> None:
    jobs = yaml.safe_load((docs_kit.ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    run = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    weekly = [f"make {target}" for target in jobs["weekly"]["strategy"]["matrix"]["target"]]
    for page, pattern, reason in NOT_RUN:
        if "workflow" in reason:
            told = [text for _, text in docs_kit.texts_to_run(page) if re.search(pattern, text)]
            assert set(told) <= {*run, *weekly}


def test_files_a_reader_has_are_on_some_page() -> None:
    text = "".join((docs_kit.ROOT / page).read_text() for page in PAGES)
    assert not [name for name in docs_kit.READERS_FILES if name not in text]
