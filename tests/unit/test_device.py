"""The device asked for is the one used, or the run is refused; nothing falls back."""

from __future__ import annotations

import pytest
import torch

from moola.errors import ConfigError, DeviceError
from moola.training.device import describe_device, resolve_device


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_auto_takes_the_cpu_where_nothing_else_is_claimed() -> None:
    assert resolve_device("auto", {}) == "cpu"
    assert resolve_device("auto", {"RUNPOD_POD_ID": ""}) == "cpu"


@pytest.mark.usefixtures("no_gpu")
def test_auto_refuses_on_a_gpu_pod_without_a_gpu() -> None:
    with pytest.raises(DeviceError, match="this is GPU pod 4711, but torch finds no GPU") as caught:
        resolve_device("auto", {"RUNPOD_POD_ID": "4711"})
    assert "--device cpu" in str(caught.value)


@pytest.mark.usefixtures("no_gpu")
def test_the_pod_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_POD_ID", "4711")
    with pytest.raises(DeviceError, match="GPU pod 4711"):
        resolve_device("auto")
    assert resolve_device("cpu") == "cpu"


@pytest.mark.usefixtures("no_gpu")
def test_cuda_without_a_gpu_refuses_at_once() -> None:
    with pytest.raises(DeviceError, match="device is 'cuda', but torch finds no GPU"):
        resolve_device("cuda", {})


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto", {"RUNPOD_POD_ID": "4711"}) == "cuda"
    assert resolve_device("cuda", {}) == "cuda"
    assert resolve_device("cpu", {"RUNPOD_POD_ID": "4711"}) == "cpu"


def test_unknown_devices_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="device is 'cudo'; expected one of auto, cpu, cuda"):
        resolve_device("cudo", {})


def test_the_device_in_words() -> None:
    assert describe_device("cpu") == f"cpu ({torch.get_num_threads()} threads)"
