"""MLflow's own page in Chromium: the gates of two candidates, found and compared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from job_kit import TINY, mlflow_process, short_project
from mlflow import MlflowClient

from moola.config import names
from moola.config.data import SplitRecipe
from moola.config.evaluation import EvaluateConfig
from moola.steps.evaluate import evaluate
from moola.steps.finetune import finetune
from moola.steps.pages import gate_pages

CHROMIUM = shutil.which("chromium")
MILLISECONDS = 60_000
SCREENSHOTS = os.environ.get("MOOLA_TEST_SCREENSHOTS")  # a folder to keep them in

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="chromium is not installed"
)


@pytest.fixture
def store(tmp_path: Path, template_db: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with the evaluations of two candidates."""
    short_project(tmp_path, template_db).build_split(
        "fwd_chain_v3", SplitRecipe(labeled="labeled_windows/v1")
    )
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    for config in (TINY, replace(TINY, seed=18)):
        version = finetune(config).version
        evaluate(
            version=version,
            config=EvaluateConfig(seeds=(config.seed,), gates=(0, 1, 2)),
            device="cpu",
        )
    return f"sqlite:///{tmp_path}/mlflow.db"


@contextmanager
def browser_at(store: str) -> Iterator[tuple[str, Any]]:
    """Serve a store and give the page's address and a browser that opens it."""
    from playwright.sync_api import sync_playwright

    words = ["server", "--backend-store-uri", store, "--workers", "1"]
    words += ["--host", "127.0.0.1", "--port", "{port}"]
    server = mlflow_process(*words, ready="/health", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    with server as url, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        try:
            yield url, browser
        finally:
            browser.close()


def fresh(browser: Any) -> Any:
    """A browser profile that has never seen the page but knows that it wants model training."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(MILLISECONDS)
    context.add_init_script(
        "localStorage.setItem('mlflow.workflowType_v1', '\"machine_learning\"');"
    )
    return context


def keep(page: Any, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png")


def walk_to_the_comparison(url: str, browser: Any, store: str) -> None:
    """Go by clicks alone: experiment, newest evaluation, its gates, compare; then the pictures."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(names.EXPERIMENT_GATES).experiment_id
    newest = client.search_runs(
        [experiment], f"tags.`{names.TAG_STEP}` = 'evaluate'", max_results=1
    )[0].info.run_id
    gates = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{newest}'")

    page = fresh(browser).new_page()
    page.goto(f"{url}/#/experiments")
    page.get_by_role("link", name=names.EXPERIMENT_GATES).first.click()
    row = page.locator(f"[row-id='{newest}']")
    row.get_by_role("link").filter(has_text="gates-EnhancedSimpleLSTM-v2").wait_for()
    row.get_by_role("button").first.click()  # unfolds the child runs
    for gate in gates:
        page.locator(f"[row-id='{gate.info.run_id}'] input[type=checkbox]").first.check()
    keep(page, "1-selected")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 3 Runs").first.wait_for()
    for text in ("gate-0-data", "gate-1-baseline", "gate-2-control", "delta_log_loss"):
        page.get_by_text(text).first.wait_for(state="attached")
    keep(page, "2-compared")

    page.goto(f"{url}/#/experiments/{experiment}/runs?compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill("reliability")
    picture = page.locator("img[src*='reliability']").first
    picture.wait_for()
    page.wait_for_function("e => e.complete && e.naturalWidth > 50", arg=picture.element_handle())
    keep(page, "3-reliability")


def check_documented_addresses(url: str, browser: Any, pages: dict[str, str]) -> None:
    """The addresses that `moola ui gates` prints lead where their titles say."""
    expected = {
        "verdict table": ("0 data", "1 baseline", "2 control", "passed: the audit is clean"),
        "newest evaluations": ("Comparing 2 Runs", "balanced_accuracy"),
        "gates of EnhancedSimpleLSTM/2": ("Comparing 3 Runs", "gate-2-control"),
        "charts and reliability": ("balanced_accuracy",),
    }
    for title, texts in expected.items():
        page = fresh(browser).new_page()
        page.goto(pages[title].replace("http://127.0.0.1:5000", url))
        for text in texts:
            page.get_by_text(text).first.wait_for(state="attached")
        keep(page, title.replace("/", "-"))
        page.close()


@needs_chromium
def test_gates_are_found_and_compared_in_the_page(store: str) -> None:
    pages = dict(gate_pages())
    with browser_at(store) as (url, browser):
        walk_to_the_comparison(url, browser, store)
        check_documented_addresses(url, browser, pages)
