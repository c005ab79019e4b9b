"""Measure a set with labels built from partitioned parquet on an S3 store: rows/s and memory.

    python benchmarks/bench_corpus.py                    # 10^7 minute bars, a window every 6
    python benchmarks/bench_corpus.py --bars 1000000

The S3 store (moto) and the builder share one machine; the memory is the builder's own. Exits with 1
if that is 2 GiB or more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_data import make_bars, peak_mib

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "functional"))
MAX_MIB = 2048
PARTITION_BARS = 500_000


def filesystem():
    """Return the S3 store of the environment."""
    from pyarrow import fs

    endpoint = os.environ["MLFLOW_S3_ENDPOINT_URL"].removeprefix("http://")
    return fs.S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1")


def upload(num_bars: int) -> float:
    """Write the bars, a partition every 500,000; return their MiB."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    store, size = filesystem(), 0
    for number, begin in enumerate(range(0, num_bars, PARTITION_BARS)):
        clock, ohlc = make_bars(min(PARTITION_BARS, num_bars - begin), seed=number)
        stamp = pa.array(clock + begin * np.timedelta64(60, "s"), pa.timestamp("us", tz="UTC"))
        columns = dict(zip(("open", "high", "low", "close"), ohlc.T, strict=True))
        path = f"moola/data/bars/walk/part={number:03}/bars.parquet"
        pq.write_table(pa.table({"timestamp": stamp, **columns}), path, filesystem=store)
        size += store.get_file_info(path).size
    return size / 2**20


def build(folder: Path) -> dict[str, float]:
    """Build the set; runs in a process of its own."""
    from moola.config.data import WindowRecipe
    from moola.data.partitioned import write_partitioned_set

    store, before = filesystem(), peak_mib()
    recipe = WindowRecipe(source="walk")
    start = time.perf_counter()
    write_partitioned_set(folder, "labeled_windows/walk", recipe, store, "moola/data/bars/walk")
    seconds = time.perf_counter() - start
    meta = json.loads((folder / "meta.json").read_text())
    size = sum(p.stat().st_size for p in folder.iterdir()) / 2**20
    return {
        "seconds": seconds,
        "num_windows": meta["num_windows"],
        "before": before,
        "peak": peak_mib(),
        "written": size,
    }


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bars", type=int, default=10**7)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(build(options.build)))
        return
    from services import s3_store

    with tempfile.TemporaryDirectory() as folder, s3_store(Path(folder) / "s3") as env:
        os.environ.update(env)
        uploaded = upload(options.bars)
        target = Path(folder) / "set"
        target.mkdir()
        command = [sys.executable, __file__, "--build", str(target)]
        m = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"{options.bars:,} bars ({uploaded:.0f} MiB on S3) to {m['num_windows']:,.0f} windows with "
        f"labels and features ({m['written']:.0f} MiB) in {m['seconds']:.1f} s: "
        f"{options.bars / m['seconds']:,.0f} bars/s, {m['num_windows'] / m['seconds']:,.0f} "
        f"windows/s; peak memory {m['peak']:.0f} MiB, {m['before']:.0f} of it before the first bar"
    )
    sys.exit(0 if m["peak"] < MAX_MIB else 1)


if __name__ == "__main__":
    main()
