"""MLflow's own page in Chromium: the gates of two candidates, found and compared."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from job_kit import TINY, mlflow_process

from moola.config.evaluation import EvaluateConfig
from moola.steps.evaluate import evaluate
from moola.steps.finetune import finetune
from moola.steps.pages import gate_pages

CHROMIUM = shutil.which("chromium")
SECONDS = 60_000


@pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="chromium is not installed"
)
def test_gates_of_two_candidates_are_compared_in_the_page(project: Path) -> None:
    from playwright.sync_api import sync_playwright

    for config in (TINY, replace(TINY, seed=18)):
        version = finetune(config).version
        evaluate(
            version=version,
            config=EvaluateConfig(seeds=(config.seed,), gates=(0, 1, 2)),
            device="cpu",
        )
    pages = dict(gate_pages())
    words = ["server", "--backend-store-uri", f"sqlite:///{project}/mlflow.db"]
    words += ["--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    server = mlflow_process(*words, ready="/health", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    with server as url, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        try:
            context = browser.new_context(viewport={"width": 1600, "height": 1000})

            def opened(title: str) -> object:
                page = context.new_page()
                page.goto(pages[title].replace("http://127.0.0.1:5000", url))
                return page

            table = opened("verdict table")
            for text in ("0 data", "1 baseline", "2 control", "passed: the audit is clean"):
                table.get_by_text(text).first.wait_for(timeout=SECONDS)
            compared = opened("newest evaluations")
            compared.get_by_text("Comparing 2 Runs").first.wait_for(timeout=SECONDS)
            compared.get_by_text("log_loss").first.wait_for(timeout=SECONDS, state="attached")
            gates = opened("gates of EnhancedSimpleLSTM/2")
            gates.get_by_text("Comparing 3 Runs").first.wait_for(timeout=SECONDS)
            gates.get_by_text("gate-2-control").first.wait_for(timeout=SECONDS)
            charts = opened("charts and reliability")
            charts.get_by_text("balanced_accuracy").first.wait_for(timeout=SECONDS)
        finally:
            browser.close()
