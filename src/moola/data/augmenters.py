"""Augmenters by name: which code makes synthetic windows, and with which settings."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import yaml

from moola.data.synthetic import Augmenter
from moola.errors import ConfigError


def load_augmenter(spec: str, settings: Sequence[str]) -> tuple[Augmenter, dict[str, Any]]:
    """Load an augmenter and say exactly how it was made.

    Parameters
    ----------
    spec
        ``module:object``. A class is called with the settings; the result, or the object itself,
        is called as ``augmenter(X_NTC, rng)``, or has a method ``augment`` that is.
    settings
        ``name=value`` pairs, values in YAML.

    Returns
    -------
    The callable, and its configuration: `spec`, the settings and, where the object has a mapping
    ``settings``, everything in it (defaults included).

    Raises
    ------
    ConfigError
        If it cannot be loaded, made or called.
    """
    pairs = [s.partition("=") for s in settings]
    if any(not sep or not name for name, sep, _ in pairs):
        raise ConfigError(f"settings are {list(settings)!r}", limit="name=value")
    module, _, attribute = spec.partition(":")
    try:
        values = {name: yaml.safe_load(value) for name, _, value in pairs}
        found = getattr(importlib.import_module(module), attribute)
        made = found(**values) if isinstance(found, type) else found
    except (ImportError, AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"augmenter {spec!r} cannot be used: {error}", limit="module:class or module:function"
        ) from None
    augment = made if callable(made) else getattr(made, "augment", None)
    if augment is None:
        raise ConfigError(f"augmenter {spec!r} cannot be called", limit="augmenter(X, rng)")
    stated = getattr(made, "settings", None)
    return augment, {"augmenter": spec, **values, **(stated if isinstance(stated, dict) else {})}
