"""Settings of an evaluation: thresholds by file, their digest, and values that are refused."""

from dataclasses import replace

import pytest

from moola.config.evaluation import EvaluateConfig, Thresholds
from moola.errors import ConfigError


def test_thresholds_load_override_and_digest(tmp_path):
    own = Thresholds.load()
    assert own.confidence == 0.95
    assert len(own.digest()) == 64
    path = tmp_path / "gates.yaml"
    path.write_text("max_accuracy_loss: 0.01\nmin_probe_accuracy: 1\n")
    other = Thresholds.load(path)
    assert other == replace(own, max_accuracy_loss=0.01, min_probe_accuracy=1)
    assert other.digest() != own.digest()
    assert replace(own, min_probability_std=0).digest() == replace(
        own, min_probability_std=0.0
    ).digest()  # fmt: skip


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("max_acuracy_loss: 0.01", "Did you mean 'max_accuracy_loss'"),
        ("confidence: 1.0", "confidence is 1.0"),
        ("confidence: .nan", "confidence is nan"),
        ("num_resamples: 10", "num_resamples is 10"),
        ("- 1", "holds list"),
        ("a: [", "not YAML"),
    ],
)
def test_thresholds_refuse(tmp_path, text, match):
    path = tmp_path / "gates.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        Thresholds.load(path)
    with pytest.raises(ConfigError, match="does not exist"):
        Thresholds.load(tmp_path / "absent.yaml")


def test_evaluate_config():
    assert EvaluateConfig.from_mapping({"seeds": [1, 2]}).seeds == (1, 2)
    assert EvaluateConfig(gates=(4, 0, 4)).gates == (0, 4)
    assert EvaluateConfig(controls=["hydra_multirocket", "rf", "quant"]).controls == (
        "quant",
        "hydra_multirocket",
    )
    with pytest.raises(ConfigError, match=r"control is 'quants'.*Did you mean 'quant'"):
        EvaluateConfig(controls=("quants",))
    for bad in ({"seeds": []}, {"seeds": [1, 1]}, {"seeds": [-1]}, {"gates": [8]}):
        with pytest.raises(ConfigError):
            EvaluateConfig(**bad)
