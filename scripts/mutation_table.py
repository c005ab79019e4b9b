"""Print killed and surviving mutants of each module, from what ``mutmut run`` left in ``mutants/``.

A mutant that no selected test reaches counts as surviving: nothing would have noticed it.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter, defaultdict

_LINE = re.compile(r"^\s*moola\.([\w.]+)\.x\S*__mutmut_\d+: ([\w ]+)$")
_CAUGHT = ("killed", "timeout", "suspicious", "segfault", "caught by type check")


def table(results: str) -> str:
    """Return a Markdown table of ``mutmut results --all true``."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for match in filter(None, map(_LINE.match, results.splitlines())):
        module, status = match.groups()
        if status != "not checked":
            found[module][status] += 1
    found["all"] = sum(found.values(), Counter())
    lines = ["| module | mutants | caught | of it |", "| --- | ---: | ---: | ---: |"]
    for module, counts in found.items():
        caught = sum(counts[status] for status in _CAUGHT)
        share = caught / counts.total()
        lines.append(f"| `{module}` | {counts.total()} | {caught} | {share:.1%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    done = subprocess.run(
        ["mutmut", "results", "--all", "true"], check=True, capture_output=True, text=True
    )
    print(table(done.stdout))
