"""Counts by which the source stays a house to live in; `tests/unit/test_house.py` bounds them.

python scripts/house.py [FOLDER]     # src/moola where none is named
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PARTICIPLES = {
    "found", "held", "left", "made", "told", "given", "own", "kept", "known", "seen", "taken",
    "said", "done", "written",
}  # fmt: skip
STANDS = re.compile(r"\b(stands?|stood)\b", re.IGNORECASE)
LAYERS = {
    "cli", "steps", "judging", "promotion", "serving", "tracking", "pretraining", "training",
    "models", "evaluation", "data", "config", "times",
}  # fmt: skip


def counts(root: Path) -> dict[str, int]:
    """Return every count of the modules below a folder, by its name."""
    files = sorted(root.rglob("*.py"))
    trees = {path: ast.parse(path.read_text()) for path in files}
    texts = [path.read_text() for path in files]
    functions = [length for tree in trees.values() for length in function_lengths(tree)]
    raises = [call for tree in trees.values() for call in errors_raised(tree)]
    both = [call for call in raises if {"limit", "remedy"} <= {k.arg for k in call.keywords}]
    either = [call for call in raises if {"limit", "remedy"} & {k.arg for k in call.keywords}]
    classes = Counter(
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )
    return {
        "files": len(files),
        "lines": sum(text.count("\n") for text in texts),
        "uses of stand": sum(len(STANDS.findall(text)) for text in texts),
        "participles as names": sum(
            name in PARTICIPLES for tree in trees.values() for name in bound_names(tree)
        ),
        "dict[str, Any]": sum(text.count("dict[str, Any]") for text in texts),
        "aliases at layer borders": sum(
            len(aliases(tree, path.relative_to(root))) for path, tree in trees.items()
        ),
        "files in the fullest folder": max(Counter(path.parent for path in files).values()),
        "lines of the longest file": max(text.count("\n") for text in texts),
        "lines of the longest function": max(functions),
        "class names used twice": sum(count > 1 for count in classes.values()),
        "errors": len(raises),
        "errors with limit and remedy, per cent": round(100 * len(both) / len(raises)),
        "errors with limit or remedy, per cent": round(100 * len(either) / len(raises)),
    }


def bound_names(tree: ast.AST) -> Iterator[str]:
    """Yield each name that a function binds: by assignment, in a loop, as an argument."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            arguments = function.args
            yield from {
                a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
            }
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from {
                node.id
                for node in ast.walk(function)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }


def aliases(tree: ast.AST, module: Path) -> list[str]:
    """Return names of other layers that a module imports under another name."""
    layer = module.parts[0]
    renamed = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moola."):
            other = str(node.module).split(".")[1]
            if other in LAYERS and other != layer:
                renamed += [f"{a.name} as {a.asname}" for a in node.names if a.asname]
    return renamed


def function_lengths(tree: ast.AST) -> Iterator[int]:
    """Yield the lines of each function without its docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            words = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if words else 0
            yield (node.end_lineno or 0) - node.lineno + 1 - docstring


def errors_raised(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield each raising of one of Moola's own errors."""
    from moola import errors

    own = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.MoolaError)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            function = node.exc.func
            if isinstance(function, ast.Name) and function.id in own:
                yield node.exc


if __name__ == "__main__":
    for name, count in counts(Path(sys.argv[1] if sys.argv[1:] else "src/moola")).items():
        print(f"{count:>7,}  {name}")
