"""Which device a run takes; nothing falls back in silence."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from moola.config.base import check_choice
from moola.config.training import DEVICES
from moola.errors import DeviceError


def resolve_device(asked: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return ``cpu`` or ``cuda``.

    ``auto`` takes the GPU if there is one; on a machine that says it is a GPU pod
    (``RUNPOD_POD_ID`` is set) and has none, it refuses.

    Raises
    ------
    DeviceError
        If the device asked for is not there.
    """
    check_choice("device", asked, DEVICES)
    if asked == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda":
        raise DeviceError(
            "device is 'cuda', but torch finds no GPU here",
            remedy="Use --device cpu, or a machine with an NVIDIA driver and a CUDA build of torch",
        )
    if environ.get("RUNPOD_POD_ID"):
        raise DeviceError(
            f"this is GPU pod {environ['RUNPOD_POD_ID']}, but torch finds no GPU",
            remedy="Restart the pod with a GPU, or ask for --device cpu",
        )
    return "cpu"


def describe_device(device: str) -> str:
    """Return the device in words, for reports: ``cuda (NVIDIA H100)`` or ``cpu (2 threads)``."""
    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads()} threads)"
