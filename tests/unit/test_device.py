"""The device asked for is the one used, or the run is refused; nothing falls back."""

from __future__ import annotations

import pytest
import torch

from moola.errors import ConfigError, DeviceError
from moola.models.device import describe_device, resolve_device, use_bf16


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


AVX2 = {"architecture": "x86_64", "cpu_name": "AMD EPYC", "avx2": True, "avx512_bw": False}
AVX512 = AVX2 | {"avx512_bw": True}


@pytest.mark.parametrize(
    ("found", "auto"), [(AVX2, False), (AVX512, False), (AVX512 | {"avx512_bf16": True}, True)]
)
def test_auto_takes_bfloat16_only_where_the_cpu_multiplies_it(
    found: dict, auto: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert use_bf16("auto", "cpu") is auto
    assert use_bf16("fp32", "cpu") is False


def test_bfloat16_is_refused_where_an_lstm_cannot_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AVX2)
    with pytest.raises(DeviceError, match=r"AMD EPYC\) has no AVX512; expected auto or fp32 here"):
        use_bf16("bf16", "cpu")
    assert use_bf16("bf16", "cuda") is True
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AVX512)
    assert use_bf16("bf16", "cpu") is True
