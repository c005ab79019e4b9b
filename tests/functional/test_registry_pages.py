"""Both registry pages of MLflow in Chromium: promotion by click, with evidence and without."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from guard_world import World, guarded_world
from promotion_kit import NAME, evaluate

from moola.config.names import ALIAS_PRODUCTION

CHROMIUM = shutil.which("chromium")
MILLISECONDS = 60_000
# Where to keep pictures of what was seen; nowhere unless asked for.
PICTURES = os.environ.get("MOOLA_TEST_PICTURES")
OLD_PAGE = {"_mlflow_user_setting_dismiss_next_model_registry_ui": "true"}
REFUSED = "may not be in Production: it carries no evidence"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="chromium is not installed"
)


@pytest.fixture(scope="module")
def world(template_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with guarded_world(tmp_path_factory.mktemp("pages"), template_db) as world:
        yield world


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


def opened(browser, world: World, version: str, **settings: str):
    """Open the page of a version with settings of the browser's local storage."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    for key, value in settings.items():
        context.add_init_script(f"localStorage.setItem({key!r}, {value!r})")
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    page.goto(
        f"{world.server.url}/#/models/{NAME}/versions/{version}?workflowType=machine_learning"
    )
    page.get_by_text("Registered At").first.wait_for()
    page.get_by_role("button", name="Close", exact=True).click()  # the assistant's panel
    return page


def pictured(page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def set_stage(page) -> None:
    page.get_by_text("None", exact=True).first.click()
    page.get_by_text("Transition to").locator("..").get_by_text("Production").first.click()
    page.get_by_role("button", name="OK").click()


def give_evidence(world: World, version: str) -> None:
    before = champion(world)
    evaluate(world.client, world.server.key, version)
    own = world.evidence(version)
    subject = {"version": version, "run_id": own.run_id, "model_sha256": own.model_sha256}
    world.prepare(version, champion=before, subject=subject)


def champion(world: World) -> str:
    found = world.client.get_model_version_by_alias(NAME, ALIAS_PRODUCTION)
    assert found.current_stage == "Production"
    assert world.ledger.champion_at(NAME) == str(found.version)
    return str(found.version)


def test_the_new_page_sets_the_alias_only_with_evidence(browser, world: World) -> None:
    page = opened(browser, world, "3")
    page.get_by_title("Add aliases").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").fill("production")
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Save").click()
    dialog.get_by_text(REFUSED).first.wait_for()
    pictured(page, "registry-alias-refused")
    assert champion(world) == "1"
    give_evidence(world, "3")
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="detached")
    page.get_by_text("@ production").locator("visible=true").first.wait_for()
    assert champion(world) == "3"


def test_the_old_page_sets_the_stage_only_with_evidence(browser, world: World) -> None:
    before = champion(world)
    page = opened(browser, world, "2", **OLD_PAGE)
    set_stage(page)
    page.get_by_text(REFUSED).first.wait_for()
    pictured(page, "registry-stage-refused")
    assert champion(world) == before
    give_evidence(world, "2")
    set_stage(page)
    page.get_by_text("Stage:").locator("..").locator("..").get_by_text("Production").wait_for()
    pictured(page, "registry-stage-set")
    assert champion(world) == "2"


def test_the_ledgers_page_shows_what_the_pages_did(browser, world: World) -> None:
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    page.goto(f"{world.server.url}/moola?name={NAME}")
    page.get_by_text("unbroken").wait_for()
    page.get_by_text(REFUSED).first.wait_for()
    pictured(page, "registry-ledger")
    link = page.get_by_role("link", name=f"version {champion(world)}")
    assert link.get_attribute("href") == f"/#/models/{NAME}/versions/{champion(world)}"
