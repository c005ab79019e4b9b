"""`/invocations` under schemathesis: no 5xx, and memory stays flat."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from serve_kit import Stand, copy_of, moola_serve, npz, random_windows


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def fuzz(url: str, seconds: float) -> int:
    """Send what the schema allows and what it forbids for some time; return how many requests."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operation = schema["/invocations"]["POST"]
    sent = 0
    session = requests.Session()

    allowed, forbidden = (operation.as_strategy(mode) for mode in schemathesis.GenerationMode)
    deadline = time.monotonic() + seconds  # building the strategies takes seconds of its own

    @given(case=allowed | forbidden)
    @settings(
        max_examples=10, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def send(case: schemathesis.Case) -> None:
        nonlocal sent
        if time.monotonic() > deadline:
            return
        response = case.call(session=session)
        sent += 1
        case.validate_response(response, checks=[not_a_server_error])
        assert len(response.content) < 400 or response.status_code == 200

    while time.monotonic() < deadline:
        send()
    return sent


def fuzz_and_weigh(stand: Stand, *, seconds: float) -> tuple[int, float, float]:
    good = npz(random_windows(64))
    with moola_serve(stand) as (url, pid):
        for _ in range(30):
            headers = {"content-type": "application/x-npz"}
            requests.post(f"{url}/invocations", data=good, headers=headers, timeout=30)
        fuzz(url, min(seconds / 4, 60))  # what is allocated once is allocated by now
        before = resident(pid)
        sent = fuzz(url, seconds)
        after = resident(pid)
        assert requests.get(f"{url}/ping", timeout=5).status_code == 200
    return sent, before, after


@pytest.mark.filterwarnings("ignore")
def test_no_input_makes_it_fail(stand: Stand, tmp_path: Path) -> None:
    sent, before, after = fuzz_and_weigh(copy_of(stand, tmp_path), seconds=4)
    assert sent > 10
    assert after - before < 32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ten_minutes_of_fuzzing(stand: Stand, tmp_path: Path) -> None:
    sent, before, after = fuzz_and_weigh(copy_of(stand, tmp_path), seconds=600)
    print(f"{sent} requests, memory {before:.0f} -> {after:.0f} MiB")
    assert after - before < 32
