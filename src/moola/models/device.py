"""Which device a run takes; nothing falls back in silence."""

from __future__ import annotations

import ctypes
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

    Parameters
    ----------
    asked
        ``auto``, ``cpu`` or ``cuda``.
    environ
        Environment variables; ``RUNPOD_POD_ID`` is looked for.

    Returns
    -------
    str
        The device to compute on.

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


def use_bf16(asked: str, device: str) -> bool:
    """Whether to compute in bfloat16: as asked; with ``auto``, where the hardware multiplies it.

    A CPU has to have AVX512-BF16 or AMX; with AVX512 alone bfloat16 works but is slower than
    float32, and without that an LSTM has no bfloat16 at all.

    Raises
    ------
    DeviceError
        If bfloat16 is asked for on an x86 CPU without AVX512.
    """
    if asked == "auto" and device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if asked == "fp32" or device == "cuda":
        return asked == "bf16"
    capabilities = torch.cpu.get_capabilities()
    if asked == "bf16":
        if capabilities.get("architecture") == "x86_64" and not capabilities.get("avx512_bw"):
            raise DeviceError(
                f"amp is 'bf16', but this CPU ({capabilities.get('cpu_name')}) has no AVX512",
                limit="auto or fp32 here",
                remedy="Use --amp auto",
            )
        return True
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed for the next batch, instead of giving it back to the system.

    Otherwise each batch's large tensors are mapped, faulted in page by page and unmapped anew.
    Concerns the whole process, so commands call it and libraries do not.

    Returns
    -------
    Whether it took effect: on Linux with glibc it does.
    """
    trim_threshold, mmap_max = -1, -4
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))
