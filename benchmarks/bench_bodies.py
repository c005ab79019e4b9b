"""What reading a hostile body costs `moola serve` as it grows, and what others notice of it.

    python benchmarks/bench_bodies.py

Reads every kind of hostile body of the tests in four sizes, each twice the one before, in a
process each, and prints CPU seconds, the growth from size to size (2 is linear), nanoseconds a
byte, and the memory a byte that each takes at its peak. Then it floods a `moola serve` with bodies
of 16 MiB by four callers and prints how long ``/ping`` and a request of one window take meanwhile
and without.

Exits with 1 if eight times the bytes take more than 24 times the seconds, a byte more than a
microsecond, or ``/ping`` a median above 100 ms.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "functional"))

SIZES = tuple(2**20 * k for k in (1, 2, 4, 8))
LIMITS = {"window_bars": 105, "max_windows": 2048, "max_bytes": 16 * 2**20}
MAX_GROWTH, MAX_NS, MAX_PING_SECONDS = 24.0, 1000.0, 0.1
LEAST_SECONDS = 4e-3  # below, caches are measured
CALLERS, BODY_BYTES = 4, 16 * 2**20 - 1000


def measure_body(index: int, line: Any) -> None:
    """Send the seconds to read one kind of body in each size, and the most memory it took."""
    import gc

    from hostile_bodies import HOSTILE_BODIES

    from moola.serving.reader import answer

    hostile = HOSTILE_BODIES[index]
    gc.disable()
    facts = {"content_type": hostile.content_type, "query": {}, "limits": LIMITS}
    answer(facts, hostile.make(2**10))
    seconds, taken = [], 0.0
    for size in SIZES:
        body = hostile.make(size)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = []
        for _ in range(3):
            begin = time.process_time()
            refused, _ = answer(facts, body)
            times.append(time.process_time() - begin)
        assert refused["status"] in (400, 413), hostile.name
        seconds.append(min(times))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        taken = max(taken, 1024 * grown / len(body))
    line.send((hostile.name, seconds, taken))


def measure_bodies() -> list[dict[str, Any]]:
    """Measure each kind in a process of its own, so that each starts with the same memory."""
    from hostile_bodies import HOSTILE_BODIES

    rows = []
    print(f"{'body':<40}{'ms':>9}{'growth':>24}{'ns/byte':>9}{'memory/byte':>12}")
    for index in range(len(HOSTILE_BODIES)):
        mine, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=measure_body, args=(index, theirs)
        )
        process.start()
        name, seconds, taken = mine.recv()
        process.join()
        growth = [b / a if b > LEAST_SECONDS else 0.0 for a, b in pairwise(seconds)]
        row = {"body": name, "seconds": seconds, "growth": growth, "memory": taken}
        row["ns"] = 1e9 * max(s / size for s, size in zip(seconds, SIZES, strict=True))
        rows.append(row)
        shown = " ".join(f"{g:7.2f}" if g else "      -" for g in growth)
        print(f"{name:<40}{1e3 * max(seconds):>9.2f}{shown:>24}{row['ns']:>9.1f}{taken:>12.1f}")
    return rows


def ask(address: str, path: str, body: bytes | None, content_type: str) -> float:
    """Return the seconds of one request over a connection of its own."""
    begin = time.perf_counter()
    connection = http.client.HTTPConnection(address, timeout=120)
    method = "GET" if body is None else "POST"
    connection.request(method, path, body, {"content-type": content_type})
    connection.getresponse().read()
    connection.close()
    return time.perf_counter() - begin


def measure_server(seconds: float) -> dict[str, float]:
    """Return p50 and p99 of /ping and of one window, quiet and while four callers flood it."""
    import bench_serve
    from hostile_bodies import HOSTILE_BODIES

    bodies = [(h.content_type, h.make(BODY_BYTES)) for h in HOSTILE_BODIES]
    words = ("moola", "serve", "--version", "1")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        _, uri = bench_serve.make_version(Path(folder), "compact")
        good = bench_serve.as_json(bench_serve.real_windows(1))
        with bench_serve.server(*words, "--ledger", uri, "--port", "{port}", uri=uri) as running:
            address = running[0]
            stop = threading.Event()

            def flood(first: int) -> None:
                for content_type, body in (bodies * 1000)[first:]:
                    if stop.is_set():
                        return
                    ask(address, "/invocations", body, content_type)

            for state in ("quiet", "flooded"):
                callers = [threading.Thread(target=flood, args=(11 * k,)) for k in range(CALLERS)]
                if state == "flooded":
                    for caller in callers:
                        caller.start()
                ends = time.perf_counter() + seconds
                times: dict[str, list[float]] = {"/ping": [], "one window": []}
                while time.perf_counter() < ends:
                    times["/ping"].append(ask(address, "/ping", None, ""))
                    window = ask(address, "/invocations", good, bench_serve.JSON)
                    times["one window"].append(window)
                if state == "flooded":
                    stop.set()
                    for caller in callers:
                        caller.join()
                for name, values in times.items():
                    cuts = statistics.quantiles(values, n=100)
                    figures[f"{name}, {state}, p50"] = cuts[49]
                    figures[f"{name}, {state}, p99"] = cuts[98]
                    print(f"{name}, {state}: {1e3 * cuts[49]:.1f} ms, p99 {1e3 * cuts[98]:.1f} ms")
    return figures


def main() -> None:
    """Measure, print, and hold the figures against the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="of flooding")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure_bodies()
    figures = measure_server(arguments.seconds)
    if arguments.json:
        content = {"bodies": rows, "server": figures}
        arguments.json.write_text(json.dumps(content, indent=2))
    least = {r["body"]: max(r["seconds"][0], LEAST_SECONDS) for r in rows}
    faster = [r["body"] for r in rows if r["seconds"][-1] > MAX_GROWTH * least[r["body"]]]
    dear = [r["body"] for r in rows if r["ns"] > MAX_NS]
    print(
        f"faster than their bytes: {faster or 'none'}; above {MAX_NS:g} ns a byte: {dear or 'none'}"
    )
    sys.exit(bool(faster or dear or figures["/ping, flooded, p50"] > MAX_PING_SECONDS))


if __name__ == "__main__":
    main()
