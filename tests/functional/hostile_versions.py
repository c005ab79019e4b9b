"""Hostile versions: what a stranger may write into the files of a version, one change each.

Each takes the folder of an honest version and a folder for canaries: what is there when it is over
shows that code was run, a path opened or a pipe read.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from moola.hashing import pretty_json, sha256_file

Hostile = Callable[[Path, Path], None]

CODE = "open({canary!r} + '/ran', 'w').close()\n"
ESCAPE = "\x1b[2J\x1b]0;owned\x07"


def config_of(folder: Path) -> Path:
    return folder / "artifacts" / "checkpoint" / "config.json"


def weights_of(folder: Path) -> Path:
    return folder / "artifacts" / "checkpoint" / "model.safetensors"


def read(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(config_of(folder).read_text())
    return values


def put(path: str, value: object) -> Hostile:
    """Set a field of ``config.json``, ``a.b.c``, written as Moola writes it."""

    def change(folder: Path, _canary: Path) -> None:
        values = read(folder)
        *way, last = path.split(".")
        place: Any = values
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        place[int(last) if isinstance(place, list) else last] = value
        config_of(folder).write_text(pretty_json(values))

    return change


def drop(key: str) -> Hostile:
    def change(folder: Path, _canary: Path) -> None:
        config_of(folder).write_text(
            pretty_json({k: v for k, v in read(folder).items() if k != key})
        )

    return change


def both(*hostile: Hostile) -> Hostile:
    def change(folder: Path, canary: Path) -> None:
        for one in hostile:
            one(folder, canary)

    return change


def encoder(name: str) -> Hostile:
    """State a pretrained encoder; ``{canary}`` is a folder whose names must not get out."""

    def change(folder: Path, canary: Path) -> None:
        put("trained_as.pretrained_encoder", name.format(canary=canary))(folder, canary)
        put("encoder_sha256", "0" * 64)(folder, canary)

    return change


def names(first: str, second: str) -> Hostile:
    """Other class names, in the signature too."""

    def change(folder: Path, canary: Path) -> None:
        put("class_names", [first, second])(folder, canary)
        text = (folder / "MLmodel").read_text()
        for old, new in (("consolidation", first), ("expansion", second)):
            text = text.replace(f"probability_{old}", f"probability_\0{new}")
        if (first + second).isprintable():
            (folder / "MLmodel").write_text(text.replace("\0", ""))

    return change


def text_of_config(text: str | bytes | Callable[[str], str]) -> Hostile:
    def change(folder: Path, _canary: Path) -> None:
        path = config_of(folder)
        new = text(path.read_text()) if callable(text) else text
        path.write_bytes(new if isinstance(new, bytes) else new.encode("utf-8", "surrogatepass"))

    return change


def scale(key: str, value: object) -> Hostile:
    return put(f"scaler.{key}.3", value)


def tensors(change_them: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Hostile:
    """Other tensors, with the digest of the new file in ``config.json``."""

    def change(folder: Path, canary: Path) -> None:
        save_file(change_them(load_file(weights_of(folder))), weights_of(folder))
        put("weights_sha256", sha256_file(weights_of(folder)))(folder, canary)

    return change


def header(
    change_it: Callable[[dict[str, Any]], dict[str, Any]], *, more: bytes = b"", cut: int = 0
) -> Hostile:
    """Another header before the same data, with the digest of the new file in ``config.json``."""

    def change(folder: Path, canary: Path) -> None:
        data = weights_of(folder).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        text = json.dumps(change_it(json.loads(data[8 : 8 + length]))).encode()
        body = data[8 + length : len(data) - cut] + more
        bytes_of_weights(struct.pack("<Q", len(text)) + text + body)(folder, canary)

    return change


def bytes_of_weights(data: bytes) -> Hostile:
    def change(folder: Path, canary: Path) -> None:
        weights_of(folder).write_bytes(data)
        put("weights_sha256", sha256_file(weights_of(folder)))(folder, canary)

    return change


def moved(entries: dict[str, Any], by: int) -> dict[str, Any]:
    """Move where one tensor lies."""
    name = sorted(entries)[1]
    begin, end = entries[name]["data_offsets"]
    return {**entries, name: {**entries[name], "data_offsets": [begin + by, end + by]}}


def other_shape(entries: dict[str, Any]) -> dict[str, Any]:
    name = next(n for n, e in entries.items() if len(e["shape"]) == 2)
    shape = entries[name]["shape"]
    return {**entries, name: {**entries[name], "shape": [*shape[::-1], 1]}}


def many_layers(entries: dict[str, Any]) -> dict[str, Any]:
    one = entries["encoder.weight_hh_l0"]
    return {**entries, **{f"encoder.weight_hh_l{k}": one for k in range(1, 20_000)}}


def filled(value: float) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda found: {k: np.full_like(v, value) for k, v in found.items()}


def file(name: str, content: str | bytes = b"") -> Hostile:
    def change(folder: Path, canary: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content.format(canary=str(canary)) if isinstance(content, str) else content
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    return change


def gone(name: str) -> Hostile:
    return lambda folder, _canary: (folder / name).unlink()


def link(name: str, target: str) -> Hostile:
    def change(folder: Path, canary: Path) -> None:
        path = folder / name
        if path.is_dir():
            path.rename(canary / "moved")
        path.unlink(missing_ok=True)
        path.symlink_to(target.format(canary=str(canary)))

    return change


def pipe(name: str) -> Hostile:
    def change(folder: Path, _canary: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def many_files(folder: Path, _canary: Path) -> None:
    for number in range(30_000):
        (folder / f"{number}").touch()


def deep_folders(folder: Path, _canary: Path) -> None:
    path = folder / "artifacts"
    for _ in range(200):
        path = path / "deep"
    path.mkdir(parents=True)


def other_cache(folder: Path, canary: Path) -> None:
    import importlib.util
    import py_compile

    source = canary / "other.py"
    source.write_text(CODE.format(canary=str(canary)))
    cache = importlib.util.cache_from_source(str(folder / "model_code.py"))
    py_compile.compile(str(source), cfile=cache, doraise=True)
    source.unlink()


def small_stack(folder: Path, canary: Path) -> None:
    """Compiled from the honest source, but with less room than it needs."""
    import importlib.util
    import marshal
    import py_compile

    cache = Path(importlib.util.cache_from_source(str(folder / "model_code.py")))
    py_compile.compile(str(folder / "model_code.py"), cfile=str(cache), doraise=True)
    data = cache.read_bytes()
    code = marshal.loads(data[16:]).replace(co_stacksize=1)
    cache.write_bytes(data[:16] + marshal.dumps(code))


def words(name: str, old: str, new: str) -> Hostile:
    """Replace in a text file of the version; the pattern must be there."""

    def change(folder: Path, canary: Path) -> None:
        path = folder / name
        text, num = re.subn(
            old, lambda _: new.format(canary=str(canary)), path.read_text(), count=1
        )
        assert num == 1, (name, old)
        path.write_text(text)

    return change


def alias_bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    return "\n".join(lines) + "\n"


def sparse(name: str, size: int) -> Hostile:
    def change(folder: Path, _canary: Path) -> None:
        os.truncate(folder / name, size)

    return change


CONFIG: dict[str, Hostile] = {
    "unknown key": put("threshold", 0.9),
    "no temperature": drop("temperature"),
    "no class names": drop("class_names"),
    "smallest temperature": put("temperature", 5e-324),
    "temperature 0": put("temperature", 0),
    "largest temperature": put("temperature", 1e308),
    "temperature NaN": text_of_config(
        lambda t: re.sub(r'"temperature": [^,\n]+', '"temperature": NaN', t)
    ),
    "temperature true": put("temperature", True),
    "temperature a text": put("temperature", "1"),
    "temperature a list": put("temperature", [1.0]),
    "scale 0": scale("scale", 0.0),
    "smallest scale": scale("scale", 5e-324),
    "scale negative": scale("scale", -1.0),
    "mean past float32": scale("mean", 1e39),
    "scaler too short": put("scaler.mean", [0.0]),
    "scaler of another kind": put("scaler.channel_mean", [0.0] * 4),
    "classes turned round": put("classes", [1, 0]),
    "classes equal": put("classes", [0, 0]),
    "classes true": put("classes", [False, True]),
    "a third class": put("classes", [0, 1, 2]),
    "windows of a thousand million bars": put("window_bars", 10**9),
    "bars no whole number": put("window_bars", 12.0),
    "features given": put("features_given", True),
    "series in the place of bars": put("params.input_kind", "series"),
    "threshold below 0": put("conformal.threshold", -5.0),
    "another coverage": put("conformal.level", 0.5),
    "no conformal set": put("conformal", None),
    "not how it was trained": put("trained_as", None),
    "epochs without end": put("trained_as.epochs", 10**9),
    "another seed trained than served": put("trained_as.seed", 99),
    "weights for three classes": put("trained_as.class_weight", "1,2,3"),
    "20,000 layers": put("params.num_layers", 20_000),
    "hidden size of a million": put("params.hidden_size", 10**6),
    "dropout below 0": put("params.dropout", -1.0),
    "another model": put("model", "logreg"),
    "a model by path": put("model", "moola.models.models_extras.tcn.TCNModel"),
    "a key twice": text_of_config(lambda t: t.replace("{\n", '{\n  "temperature": 9.0,\n', 1)),
    "100,000 brackets": text_of_config("[" * 100_000),
    "a number of 6,000 digits": text_of_config(lambda t: t.replace("12,", "9" * 6000 + ",", 1)),
    "not UTF-8": text_of_config(b"\xff\xfe{}"),
    "an empty configuration": text_of_config(b""),
    "a list": text_of_config("[]\n"),
    "3 MB of JSON": text_of_config('{"a": "' + "x" * 3_000_000 + '"}\n'),
}
NAMES: dict[str, Hostile] = {
    "class names with escapes": names(ESCAPE, "expansion"),
    "class names that turn the writing": names("\u202enoisnapxe", "expansion"),
    "class names of two lines": names("a\nb", "expansion"),
    "class names equal": names("expansion", "expansion"),
    "a class name of 5,000 letters": names("x" * 5000, "expansion"),
    "a class name of half a letter": names("\ud800", "expansion"),
    "no class name": names("", "expansion"),
    "an absolute encoder": encoder("{canary}"),
    "an encoder above": encoder("../../root"),
    "an encoder at home": encoder("~"),
    "an encoder of a registry": encoder("models:/other/1"),
    "an encoder of the web": encoder("http://127.0.0.1:1/x"),
    "an encoder with NUL": encoder("a\0b"),
    "an encoder without a digest": put("trained_as.pretrained_encoder", "bilstm"),
    "a set above": put("trained_as.labeled", "labeled_windows/../../../root"),
    "a set by path": put("trained_as.labeled", "/etc"),
    "a split by path": put("trained_as.split", "/etc/passwd"),
    "a split above": put("trained_as.split", "../../../etc/passwd"),
    "a split with escapes": put("trained_as.split", ESCAPE),
    "a hidden set": put("trained_as.labeled", "labeled_windows/.git"),
}
TENSORS: dict[str, Hostile] = {
    "one tensor more": tensors(lambda f: {**f, "more": np.zeros(3, np.float32)}),
    "one tensor less": tensors(lambda f: dict(sorted(f.items())[1:])),
    "a tensor with escapes": tensors(lambda f: {**f, ESCAPE: np.zeros(3, np.float32)}),
    "tensors of half the bits": tensors(lambda f: {k: v.astype(np.float16) for k, v in f.items()}),
    "tensors of integers": tensors(lambda f: {k: v.astype(np.int32) for k, v in f.items()}),
    "another shape": header(other_shape),
    "tensors that overlap": header(lambda e: moved(e, -4)),
    "tensors with a gap": header(lambda e: moved(e, 4)),
    "a tensor before the file": header(lambda e: moved(e, -(10**6))),
    "bytes after the tensors": header(lambda e: e, more=b"more"),
    "tensors cut off": header(lambda e: e, cut=4),
    "metadata": header(lambda e: {**e, "__metadata__": {"a": "b"}}),
    "a header of 20,000 layers": header(many_layers),
    "a header of 2^63 bytes": bytes_of_weights(struct.pack("<Q", 2**63) + b"{}"),
    "a header that is no JSON": bytes_of_weights(struct.pack("<Q", 4) + b"nope"),
    "a header of brackets": bytes_of_weights(struct.pack("<Q", 90_000) + b"[" * 90_000),
    "a pickle": bytes_of_weights(b"\x80\x04\x8c\x05posix\x8c\x06system\x93."),
    "no weights": bytes_of_weights(b""),
    "weights of another digest": put("weights_sha256", "0" * 64),
}
FILES: dict[str, Hostile] = {
    "a file more": file("secret.txt", "x"),
    "a file more in the checkpoint": file("artifacts/checkpoint/encoder.pt", "x"),
    "a second checkpoint": file("artifacts/other/model.safetensors", "x"),
    "a hidden file": file(".netrc", "x"),
    "a file with escapes": file(ESCAPE, "x"),
    "a name of 255 letters": file("x" * 255, "x"),
    "a folder more": lambda folder, _canary: (folder / "code").mkdir(),
    "200 folders deep": deep_folders,
    "30,000 empty files": many_files,
    "MLmodel a link": link("MLmodel", "/etc/passwd"),
    "configuration a link": link("artifacts/checkpoint/config.json", "{canary}"),
    "checkpoint a link": link("artifacts/checkpoint", "{canary}/moved"),
    "a link to everything": link("more", "/"),
    "MLmodel a pipe": pipe("MLmodel"),
    "weights a pipe": pipe("artifacts/checkpoint/model.safetensors"),
    "a pipe more": pipe("more"),
    "weights a device": link("artifacts/checkpoint/model.safetensors", "/dev/zero"),
    "no MLmodel": gone("MLmodel"),
    "no configuration": gone("artifacts/checkpoint/config.json"),
    "no model code": gone("model_code.py"),
    "another version looked up": file("registered_model_meta", "model_name: a\nmodel_version: x\n"),
}
SIZES: dict[str, Hostile] = {
    "weights of 1 TB": sparse("artifacts/checkpoint/model.safetensors", 1 << 40),
    "configuration of 1 TB": sparse("artifacts/checkpoint/config.json", 1 << 40),
    "MLmodel of 1 GB": sparse("MLmodel", 1 << 30),
    "model code of 1 GB": sparse("model_code.py", 1 << 30),
    "requirements of 1 GB": sparse("requirements.txt", 1 << 30),
    "conda.yaml of 1 GB": sparse("conda.yaml", 1 << 30),
    "MLmodel of 60 kB of commas": file("MLmodel", b"[" + b"," * 60_000 + b"]"),
    "MLmodel of 60 kB of brackets": file("MLmodel", b"[" * 60_000),
    "MLmodel of 60 kB of keys": file("MLmodel", b"".join(b"k%d: 1\n" % k for k in range(6_000))),
    "MLmodel that multiplies itself": file("MLmodel", alias_bomb().encode()),
}
MLMODEL: dict[str, Hostile] = {
    "another loader": words("MLmodel", r"mlflow\.pyfunc\.loaders\.code_model", "foreign"),
    "a folder of code": both(words("MLmodel", "code: null", "code: code"),
                             file("code/foreign.py", CODE)),
    "another model code": both(words("MLmodel", r"model_code_path: \S+",
                                     "model_code_path: evil.py"),
                               file("evil.py", CODE)),
    "another model code of the same folder": words(
        "MLmodel", r"model_code_path: \S+", "model_code_path: /x/requirements.txt"),
    "a model as a pickle": words("MLmodel", "    streamable: false",
                                 "    python_model: python_model.pkl\n    streamable: false"),
    "a second flavour": words("MLmodel", "flavors:\n",
                              "flavors:\n  sklearn:\n    pickled_model: x\n"),
    "a checkpoint elsewhere": words("MLmodel", "path: artifacts/checkpoint", "path: ../../../root"),
    "another environment": words("MLmodel", "conda: conda.yaml", "conda: /etc/passwd"),
    "streamable": words("MLmodel", "streamable: false", "streamable: true"),
    "an object of Python": words(
        "MLmodel", "streamable: false",
        "streamable: !!python/object/apply:os.system ['touch {canary}/ran']"),
    "an anchor": words("MLmodel", "streamable: false", "streamable: &a false"),
    "other outputs": words("MLmodel", "probability_expansion", "probability_expansio2"),
    "inputs": words("MLmodel", "  inputs: null", "  inputs: '[]'"),
    "other words about the input": words("MLmodel", "price units", "euros"),
    "prompts": words("MLmodel", "prompts: null", "prompts: [a]"),
    "a run with escapes": words("MLmodel", r"run_id: \S+", 'run_id: "\\e[2J"'),
}  # fmt: skip
CODES: dict[str, Hostile] = {
    "foreign model code": file("model_code.py", CODE),
    "model code with a line more": words("model_code.py", r"\Z", "\n" + CODE),
    "model code of another Moola": words("model_code.py", "Load the weights", "Load all weights"),
    "compiled code of another source": other_cache,
    "compiled code that overruns": small_stack,
    "another package": words("requirements.txt", "pandas==", "panda=="),
    "a package more": words("requirements.txt", r"\A", "evil==1\n"),
    "a package of the web": words(
        "requirements.txt", r"numpy==\S+", "numpy @ http://127.0.0.1:1/x"
    ),
    "an index of packages": words("requirements.txt", r"numpy==\S+", "--index-url http://x/"),
    "a version with a command": words("requirements.txt", r"numpy==\S+", "numpy==1;evil"),
    "an index for conda": words("conda.yaml", "  - moola", "  - --index-url http://x/\n  - moola"),
    "a channel for conda": words("conda.yaml", "- conda-forge", "- http://x/"),
    "another environment of Python": words("python_env.yaml", "-r requirements.txt", "-r /etc/x"),
    "a build that is more": words("python_env.yaml", "- wheel", "- wheel\n- evil"),
}
# What only shows in answers, or beside the labelled set: the packaging is Moola's.
ANSWERS: dict[str, Hostile] = {
    "classes swapped": both(put("class_names", ["expansion", "consolidation"]),
                            words("MLmodel", "probability_consolidation", "probability_\0"),
                            words("MLmodel", "probability_expansion", "probability_consolidation"),
                            words("MLmodel", "probability_\0", "probability_expansion")),
    "classes of another language": both(put("class_names", ["calm", "wild"]),
                                        words("MLmodel", "probability_consolidation",
                                              "probability_calm"),
                                        words("MLmodel", "probability_expansion",
                                              "probability_wild")),
    "tensors of NaN": tensors(filled(np.nan)),
    "tensors of infinity": tensors(filled(np.inf)),
    "weights that give NaN": tensors(filled(3e38)),
    "bars of another number": both(put("window_bars", 13),
                                   words("MLmodel", r"\(n, 12, 4\)", "(n, 13, 4)")),
    "sets that cover less": put("conformal.threshold", 0.97),
    "calibrated on other windows": put("conformal.num_windows", 5),
    "an encoder that is nowhere": encoder("bilstm"),
    "a set that is nowhere": put("trained_as.labeled", "labeled_windows/nowhere"),
}  # fmt: skip
BORDER: dict[str, Hostile] = {
    **CONFIG, **NAMES, **TENSORS, **FILES, **SIZES, **MLMODEL, **CODES
}  # fmt: skip
