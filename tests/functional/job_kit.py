"""The main job at its smallest, for the tests: real data, a real store, seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from moola.config.training import FinetuneConfig, PretrainConfig

TINY_ENCODER = PretrainConfig(
    hidden_dim=32, num_layers=1, epochs=2, windows_per_epoch=128, batch_size=64, device="cpu"
)
TINY = FinetuneConfig(
    preset="compact", epochs=3, unfreeze_after=1, patience=0, learning_rate=2e-3, device="cpu"
)


def moola(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "moola", *args],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
