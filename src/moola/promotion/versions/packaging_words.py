"""The small text files of a version, field by field: what MLflow acts upon is what Moola writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from moola.config import packaging
from moola.errors import shown
from moola.promotion.versions.packaging_files import read_bounded, refused
from moola.training.stored_config import StoredVersion

_PLAIN = r"[0-9][0-9A-Za-z.+!_-]{0,63}"
_REQUIREMENT = {
    name: re.compile(rf"{re.escape(name)}=={_PLAIN}") for name in packaging.REQUIREMENTS
}
_REQUIREMENT[packaging.REQUIREMENTS[0]] = re.compile(
    rf"(?:{re.escape(packaging.REQUIREMENTS[0])}|{re.escape(packaging.FORMER_NAME)})=={_PLAIN}"
)
_CONDA = re.compile(
    "channels:\n- conda-forge\ndependencies:\n"
    rf"- python={_PLAIN}\n- pip(?:(?:<=|==){_PLAIN})?\n- pip:\n(?P<pins>(?:  - [^\n]+\n)+)"
    "name: mlflow-env\n"
)
_PYTHON_ENV = re.compile(
    rf"python: {_PLAIN}\nbuild_dependencies:\n- pip(?:=={_PLAIN})?\n- setuptools(?:=={_PLAIN})?\n"
    rf"- wheel(?:=={_PLAIN})?\ndependencies:\n- -r requirements.txt\n"
)
_LONGEST_WORD = 2048
_DEEPEST = 8
_LONGEST_LOOKED_UP = 300


def check_words(root: Path, stored: StoredVersion) -> None:
    """Check ``MLmodel``, requirements and environments of a version's folder.

    Parameters
    ----------
    root
        The folder.
    stored
        What its ``config.json`` states.

    Raises
    ------
    PromotionRefused
        On the first field that is not what Moola writes for such a version.
    """
    _check_requirements(root)
    _check_mlmodel(_yaml(_text(root, "MLmodel")), stored)
    if (root / packaging.LOOKED_UP).exists():
        _check_looked_up(
            _yaml(read_bounded(root / packaging.LOOKED_UP, packaging.OPTIONAL_FILE_BYTES).decode())
        )


def _check_looked_up(values: object) -> None:
    entries = _fields(packaging.LOOKED_UP, values, {"model_name", "model_version"})
    name, version = entries["model_name"], entries["model_version"]
    _word("model_name", name, _LONGEST_LOOKED_UP)
    if not re.fullmatch(r"[1-9][0-9]{0,9}", str(version)):
        raise refused(f"model_version is {shown(version)}", "the number of a version")


def _check_requirements(root: Path) -> None:
    lines = _text(root, "requirements.txt").split("\n")
    if not _are_pins(lines[:-1] if lines[-1] == "" else lines):
        raise refused("requirements.txt asks for other packages", _pins())
    match = _CONDA.fullmatch(_text(root, "conda.yaml"))
    if not match or not _are_pins([pin[4:] for pin in match["pins"].splitlines()]):
        raise refused("conda.yaml asks for another environment", _pins())
    if not _PYTHON_ENV.fullmatch(_text(root, "python_env.yaml")):
        raise refused("python_env.yaml asks for another environment", "-r requirements.txt")


def _are_pins(lines: list[str]) -> bool:
    pairs = zip(packaging.REQUIREMENTS, lines, strict=False)
    return len(lines) == len(packaging.REQUIREMENTS) and all(
        _REQUIREMENT[name].fullmatch(line) for name, line in pairs
    )


def _pins() -> str:
    return f"one version each of {', '.join(packaging.REQUIREMENTS)}"


def _check_mlmodel(values: object, stored: StoredVersion) -> None:
    """Check every field of ``MLmodel``."""
    fixed = {
        "is_signature_from_type_hint": False,
        "type_hint_from_example": False,
        "prompts": None,
        "metadata": {"input": packaging.input_words(stored.window_bars)},
    }
    free = {
        "artifact_path": rf"[^\x00-\x1f]{{1,{_LONGEST_WORD}}}",
        "mlflow_version": _PLAIN,
        "model_id": "m-[0-9a-f]{32}",
        "model_uuid": "(m-)?[0-9a-f]{32}",
        "run_id": "[0-9a-f]{32}",
        "utc_time_created": r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:.]{8,15}",
    }
    entries = _fields(
        "MLmodel", values, {*fixed, *free, "flavors", "signature", "model_size_bytes"}
    )
    _require_equal("MLmodel", entries, fixed)
    _require_like("MLmodel", entries, free)
    if type(entries["model_size_bytes"]) is not int:
        raise refused("MLmodel: model_size_bytes is no whole number", "a whole number")
    _check_flavor(entries["flavors"])
    _check_signature(entries["signature"], stored.class_names)


def _check_flavor(values: object) -> None:
    flavors = _fields("flavors", values, {"python_function"})
    fixed = {
        "code": None,
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        "loader_module": "mlflow.pyfunc.loaders.code_model",
        "streamable": False,
    }
    free = {
        "cloudpickle_version": _PLAIN,
        "python_version": _PLAIN,
        "model_code_path": rf"([^\x00-\x1f]{{0,{_LONGEST_WORD}}}/)?"
        + re.escape(packaging.MODEL_CODE),
    }
    entries = _fields("python_function", flavors["python_function"], {*fixed, *free, "artifacts"})
    _require_equal("python_function", entries, fixed)
    _require_like("python_function", entries, free)
    artifacts = _fields("artifacts", entries["artifacts"], {packaging.CHECKPOINT})
    checkpoint = _fields("checkpoint", artifacts[packaging.CHECKPOINT], {"path", "uri"})
    _require_equal("checkpoint", checkpoint, {"path": packaging.CHECKPOINT_FOLDER})
    _word("checkpoint.uri", checkpoint["uri"], _LONGEST_WORD)


def _check_signature(values: object, class_names: tuple[str, ...]) -> None:
    entries = _fields("signature", values, {"inputs", "outputs", "params"})
    _require_equal("signature", entries, {"inputs": None})
    for name, wanted in (
        ("outputs", packaging.signature_outputs(class_names)),
        ("params", list(packaging.SIGNATURE_PARAMS)),
    ):
        text = entries[name]
        try:
            stated = json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            stated = None
        if not _same(stated, wanted):
            raise refused(f"the signature states other {name}", "those of its class names")


def _require_equal(where: str, entries: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for name, wanted in fixed.items():
        if not _same(entries[name], wanted):
            raise refused(f"{where}: {name} is {shown(entries[name])}", str(wanted))


def _same(a: object, b: object) -> bool:
    """Return whether two values are equal in type too: 1 is not true."""
    return json.dumps(a, sort_keys=True, default=str) == json.dumps(b, sort_keys=True)


def _require_like(where: str, entries: Mapping[str, Any], free: Mapping[str, str]) -> None:
    for name, pattern in free.items():
        value = entries[name]
        text = value if isinstance(value, str) and value.isprintable() else ""
        if not re.fullmatch(pattern, text):
            raise refused(f"{where}: {name} is {shown(value)}", "what MLflow writes there")


def _fields(where: str, values: object, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(values, dict) or set(values) != keys:
        raise refused(f"{where} has other fields", f"{', '.join(sorted(keys))} and no other")
    return values


def _word(name: str, value: object, longest: int) -> None:
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise refused(f"{name} is {shown(value)}", f"a printable text of at most {longest}")


class _PlainLoader(yaml.SafeLoader):
    """YAML without anchors, aliases and tags, and not deep: what a few lines cannot blow up."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError("an anchor or alias")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError("a tag")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError("too deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _yaml(text: str) -> object:
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise refused("a file is not plain YAML", "as MLflow writes it") from None


def _text(root: Path, name: str) -> str:
    return read_bounded(root / name, packaging.TEXT_FILES[name]).decode()
