"""A version's ``config.json``: closed, bounded, and the same that training writes.

Whoever can register a model can write this file. So nothing in it is used before all of it is what
Moola writes for the configuration it states: which keys, which types, which sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from moola.config.training import LARGEST_SIZES, FinetuneConfig
from moola.errors import CheckpointError, ConfigError
from moola.models import REGISTRY, get_model
from moola.models.inputs import MAX_FEATURES
from moola.training import stored_fields as fields
from moola.training.finetune import model_params, stated_sizes
from moola.training.stored_fields import LARGEST_SEED, LONGEST_NAME, MOST_EPOCHS

TRAINED_AS = "trained_as"
ENCODER_SHA256 = "encoder_sha256"

_EVERY_MODEL = {
    "model", "params", "classes", "temperature", "class_names", "conformal", TRAINED_AS,
    "weights_sha256",
}  # fmt: skip
_INPUTS = {"window_bars", "features_given", "scaler"}
_FITTED = {"state"}  # of a model that is fitted at once: its inputs, and the sizes of its arrays
_MOST_BARS, _MOST_CLASSES = 4096, 256
_LARGEST_WEIGHT = 1e6
_LARGEST_BATCH = 65_536
_LARGEST_FEATURE = 1e6
_SMALLEST_SCALE = 1e-6  # what training puts in the place of a smaller spread is 1
_LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE = 1 / 20, 20.0  # the bounds of the fit
_LEVEL = 0.9
_MOST_WINDOWS = 10**9
_MOST_GAP_WINDOWS = 10**6
_ENCODER_SHAPE = {"encoder_hidden": 1024, "encoder_output": 4096, "encoder_depth": 14}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredVersion:
    """What a version's ``config.json`` states, all of it checked.

    Attributes
    ----------
    config
        How it was trained; `pretrained_encoder` is a bare name, never a path to open.
    params
        Arguments of its estimator.
    window_bars
        Bars of a window, T.
    class_names
        Of the classes 0 to K - 1.
    conformal
        ``threshold``, ``level`` and ``num_windows``.
    temperature
        The logits are divided by.
    encoder_sha256
        Digest of the pretrained encoder's files; None from scratch.
    weights_sha256
        Digest of the weights file.
    state
        Of a model that is no net: the shape of its inputs, and the sizes of its arrays; else empty.
    """

    config: FinetuneConfig
    params: Mapping[str, Any]
    window_bars: int
    class_names: tuple[str, ...]
    conformal: Mapping[str, float]
    temperature: float
    encoder_sha256: str | None
    weights_sha256: str
    state: Mapping[str, Any]

    def estimator(self) -> Any:
        """Return the unfitted estimator."""
        return get_model(self.config.model, **self.params)


def read_stored(data: bytes) -> StoredVersion:
    """Check the bytes of a version's ``config.json``.

    Parameters
    ----------
    data
        The file, at most as large as `moola.config.packaging` allows.

    Returns
    -------
    StoredVersion
        What it states.

    Raises
    ------
    CheckpointError
        If it is not exactly what `moola train` writes: another key, type, order or size, a number
        that is not finite or out of range, parameters that the stated training does not make.
    """
    values = fields.parsed(data)
    of_kind = _FITTED if "state" in values else _INPUTS
    fields.exact("config.json", values, _EVERY_MODEL | of_kind | ({ENCODER_SHA256} & set(values)))
    class_names = _class_names(values["class_names"], values["classes"])
    config = _trained_as(values[TRAINED_AS], len(class_names))
    if REGISTRY[config.model].is_net != (of_kind is _INPUTS):
        limit = f"a model that is {'a net' if of_kind is _INPUTS else 'no net'}, as the keys say"
        raise fields.wrong(f"{TRAINED_AS}.model", config.model, limit)
    inputs = _fitted_state(values["state"], config) if of_kind is _FITTED else values
    window_bars = fields.whole("window_bars", inputs["window_bars"], 2, _MOST_BARS)
    stored = StoredVersion(
        config=config,
        params=_params(values["model"], values["params"], config),
        window_bars=window_bars,
        class_names=class_names,
        conformal=_conformal(values["conformal"]),
        temperature=fields.number(
            "temperature", values["temperature"], _LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE
        ),
        encoder_sha256=_encoder(values.get(ENCODER_SHA256), config),
        weights_sha256=fields.digest("weights_sha256", values["weights_sha256"]),
        state=inputs if of_kind is _FITTED else {},
    )
    if "num_features" not in inputs:
        if inputs["features_given"] is not False:
            raise fields.wrong(
                "features_given", inputs["features_given"], "false: Moola computes features"
            )
        _scaler(inputs["scaler"])
    return stored


def _fitted_state(values: object, config: FinetuneConfig) -> Mapping[str, Any]:
    """Return what a model that is no net states of its inputs and the sizes of its arrays."""
    most = get_model(config.model).most
    flat = REGISTRY[config.model].is_flat
    keys = {"window_bars", "num_features"} if flat else _INPUTS
    state = fields.exact("state", values, keys | set(most))
    if flat:
        fields.whole("state.num_features", state["num_features"], MAX_FEATURES, MAX_FEATURES)
    for name, largest in most.items():
        fields.whole(f"state.{name}", state[name], 1, largest)
    return state


def require_statable(config: FinetuneConfig, class_names: tuple[str, ...]) -> None:
    """Raise CheckpointError if a version could not state this training, and so never be judged."""
    name = encoder_name(config.pretrained_encoder) if config.pretrained_encoder else None
    values = {**config.to_dict(), "phases": list(config.phases), "pretrained_encoder": name}
    _class_names(list(class_names), list(range(len(class_names))))
    _trained_as(values, len(class_names))


def _trained_as(values: object, num_classes: int) -> FinetuneConfig:
    if isinstance(values, dict):  # versions from before there were sizes or synthetic sets
        values = {**dict.fromkeys((*LARGEST_SIZES, "synthetic")), **values}
    stated = fields.exact(TRAINED_AS, values, set(FinetuneConfig.__dataclass_fields__))
    fields.check_types(TRAINED_AS, stated, FinetuneConfig)
    for name in ("labeled", "split", "synthetic"):
        if stated[name] is not None:
            _set_name(name, stated[name])
    try:
        config = FinetuneConfig.from_mapping(stated)
    except ConfigError as error:
        raise CheckpointError(f"{TRAINED_AS}: {error.problem}", limit=error.limit) from None
    bounds = {"epochs": MOST_EPOCHS, "unfreeze_after": MOST_EPOCHS, "patience": MOST_EPOCHS,
              "batch_size": _LARGEST_BATCH, "seed": LARGEST_SEED}  # fmt: skip
    for name, most in bounds.items():
        fields.whole(f"{TRAINED_AS}.{name}", getattr(config, name), 0, most)
    if config.model not in REGISTRY:
        raise fields.wrong(f"{TRAINED_AS}.model", config.model, "a model that Moola registers")
    if config.class_weight not in (None, "balanced"):
        weights = [float(part) for part in str(config.class_weight).split(",")]
        if len(weights) != num_classes or max(weights) > _LARGEST_WEIGHT:
            limit = f"{num_classes} weights of at most {_LARGEST_WEIGHT:g}"
            raise fields.wrong(f"{TRAINED_AS}.class_weight", config.class_weight, limit)
    return config


def _params(model: object, values: object, config: FinetuneConfig) -> dict[str, Any]:
    """Return the estimator's arguments if they are those the stated training gives it."""
    if model != config.model:
        raise fields.wrong("model", model, f"{config.model}, as {TRAINED_AS} states")
    stated = values if isinstance(values, Mapping) else {}
    if not REGISTRY[config.model].is_net:
        return _fitted_params(stated, config)
    shape = stated_sizes(config)
    if config.model == "adapter_lstm" and config.pretrained_encoder:
        shape = {
            k: fields.whole(f"params.{k}", stated.get(k), 1, n) for k, n in _ENCODER_SHAPE.items()
        }
    use_amp = stated.get("use_amp") is True
    wanted = get_model(config.model, **model_params(config, shape, use_amp=use_amp)).get_params()
    del wanted["device"]
    return _same_params(values, wanted)


def _fitted_params(stated: Mapping[str, Any], config: FinetuneConfig) -> dict[str, Any]:
    """Return the arguments of a model that is no net: its own, and the gap of its set."""
    wanted = get_model(config.model, seed=config.seed).get_params()
    if "gap_windows" in wanted:
        gap = fields.whole("params.gap_windows", stated.get("gap_windows"), 0, _MOST_GAP_WINDOWS)
        wanted["gap_windows"] = gap
    return _same_params(stated, wanted)


def _same_params(values: object, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return `wanted` if that is what is stated."""
    stated = fields.exact("params", values, set(wanted))
    for name, value in wanted.items():
        plain = list(value) if isinstance(value, tuple) else value
        same = type(stated[name]) is type(plain) or {type(stated[name]), type(plain)} == {
            int,
            float,
        }
        if not same or stated[name] != plain:
            raise fields.wrong(f"params.{name}", stated[name], f"{plain}, as {TRAINED_AS} makes it")
    return dict(wanted)


def _class_names(names: object, classes: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not 2 <= len(names) <= _MOST_CLASSES:
        raise fields.wrong("class_names", names, f"a list of 2 to {_MOST_CLASSES} names")
    for name in names:
        fields.text("a class name", name, LONGEST_NAME)
    if len(set(names)) < len(names):
        raise fields.wrong("class_names", names, "different names")
    whole = isinstance(classes, list) and all(type(c) is int for c in classes)
    if not whole or classes != list(range(len(names))):
        raise fields.wrong("classes", classes, f"the whole numbers 0 to {len(names) - 1} in order")
    return tuple(names)


def _conformal(values: object) -> dict[str, float]:
    stated = fields.exact("conformal", values, {"threshold", "level", "num_windows"})
    return {
        "threshold": fields.number("conformal.threshold", stated["threshold"], 0, 1),
        "level": fields.number("conformal.level", stated["level"], _LEVEL, _LEVEL),
        "num_windows": fields.whole(
            "conformal.num_windows", stated["num_windows"], 1, _MOST_WINDOWS
        ),
    }


def _scaler(values: object) -> None:
    stated = fields.exact("scaler", values, {"mean", "scale"})
    bounds = {"mean": -_LARGEST_FEATURE, "scale": _SMALLEST_SCALE}
    for key, low in bounds.items():
        numbers = stated[key]
        if not isinstance(numbers, list) or len(numbers) != MAX_FEATURES:
            raise fields.wrong(f"scaler.{key}", numbers, f"a list of {MAX_FEATURES} numbers")
        for value in numbers:
            fields.number(f"scaler.{key}", value, low, _LARGEST_FEATURE)


def _encoder(digest: object, config: FinetuneConfig) -> str | None:
    if (digest is None) != (config.pretrained_encoder is None):
        limit = "a digest if, and only if, a pretrained encoder is stated"
        raise fields.wrong(ENCODER_SHA256, digest, limit)
    if config.pretrained_encoder is None:
        return None
    fields.bare(f"{TRAINED_AS}.pretrained_encoder", config.pretrained_encoder)
    return fields.digest(ENCODER_SHA256, digest)


def encoder_name(path: str) -> str:
    """Return the bare name under which a version states its encoder, of the path it lay at."""
    name = path.rstrip("/").rpartition("/")[2]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "-" for c in name)
    return plain.lstrip(".-")[:LONGEST_NAME] or "encoder"


def _set_name(key: str, value: str) -> None:
    """Refuse a name of a set or split that could lead out of its folder."""
    folder = {"labeled": "labeled_windows/", "synthetic": "synthetic_cache/"}.get(key)
    if folder is None:
        bare = value.removeprefix("splits/").removesuffix(".json")
    elif value.startswith(folder):
        bare = value.removeprefix(folder)
    else:
        raise fields.wrong(f"{TRAINED_AS}.{key}", value, f"{folder}NAME")
    fields.bare(f"{TRAINED_AS}.{key}", bare)
