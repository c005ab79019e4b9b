"""The space of a search as it is written, and the command that trains one point of it."""

import dataclasses

import pytest

from moola.cli.sweep import train_command
from moola.config.sweep import Choice, Range, configured, parse_space, set_options
from moola.config.training import FinetuneConfig
from moola.errors import ConfigError

BASE = FinetuneConfig()


def test_a_space_is_read():
    space = parse_space(
        ["learning-rate=1e-4:1e-2:log", "epochs=10:60", "preset=compact,matched",
         "use_temporal_aug=false,true"],
        BASE,
    )  # fmt: skip
    assert space == (
        Range(name="learning_rate", low=1e-4, high=1e-2, log=True, whole=False),
        Range(name="epochs", low=10, high=60, log=False, whole=True),
        Choice(name="preset", values=("compact", "matched")),
        Choice(name="use_temporal_aug", values=(False, True)),
    )
    assert [str(dimension) for dimension in space[:2]] == [
        "learning_rate=0.0001:0.01:log",
        "epochs=10:60",
    ]
    assert space[0].holds(5e-4)
    assert not space[2].holds("huge")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "names nothing"),
        (["dropout=0:0.5", "dropout=0,0.1"], "each option once"),
        (["seed=1,2"], "an option of the space"),
        (["learning_rate=0:1e-2:log"], "low < high, above 0 with log"),
        (["learning_rate=1e-2:1e-4"], "low < high"),
        (["learning_rate=nan:1"], "low < high"),
        (["epochs=1.5:3"], "int values"),
        (["preset=compact:matched"], "no range"),
        (["dropout=0:0.5:lin"], "no range"),
        (["dropout=0:1.5"], "dropout is 1.5"),
        (["preset=compact,huge"], "huge"),
        (["use_temporal_aug=maybe"], "bool values"),
        (["class_weight=balanced,1,2.5"], "class_weight='1' in a space; expected balanced, or"),
    ],
)
def test_a_space_that_is_none_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        parse_space(words, BASE)


def test_the_command_that_trains_a_configuration():
    config = configured(
        BASE, {"learning_rate": 0.00123456789, "preset": "compact", "use_temporal_aug": True}
    )
    assert train_command(config) == (
        "moola train --preset compact --learning-rate 0.00123456789 --use-temporal-aug"
    )
    phases = dataclasses.replace(
        BASE, pretrained_encoder="my encoder", freeze="phases", phases=(3, 2, 1), epochs=6
    )
    assert train_command(phases) == (
        "moola train --pretrained-encoder 'my encoder' --freeze phases --phases 3,2,1 --epochs 6"
    )
    assert train_command(BASE) == "moola train"


def test_options_are_set_as_written():
    made = set_options(BASE, ["class-weight=1,2.5", "preset=compact", "use_temporal_aug=true"])
    assert (made.class_weight, made.preset, made.use_temporal_aug) == ("1,2.5", "compact", True)
    assert set_options(BASE, []) == BASE
    for words, message in [
        (["dropout=0,0.1"], "dropout='0,0.1'; expected float values"),
        (["epochs=3", "epochs=4"], "epochs is set twice"),
        (["seed=1"], "an option of the space"),
    ]:
        with pytest.raises(ConfigError, match=message):
            set_options(BASE, words)
