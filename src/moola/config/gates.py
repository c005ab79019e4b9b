"""The gates that there are: number, name, question, and what is true of each whoever is judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from moola.errors import BadInput, ConfigError

Gate = int | Literal["promotion"]


@dataclass(frozen=True, kw_only=True)
class GateAbout:
    """What is true of a gate, whoever is judged.

    Attributes
    ----------
    name, question
        Short name and the question the gate answers.
    advisory
        Whether it only warns.
    after_control
        Whether it is blocked where a control won (a failed gate 2).
    claims
        Comparisons by which it claims superiority; their p-values are corrected for the number of
        judgements and of candidates judged together.
    """

    name: str
    question: str
    advisory: bool = False
    after_control: bool = True
    claims: tuple[str, ...] = ()


GATES: dict[Gate, GateAbout] = {
    0: GateAbout(name="data", question="May this run be believed?", after_control=False),
    1: GateAbout(
        name="baseline",
        question="Does the model trained from scratch know anything?",
        after_control=False,
        claims=("log_loss", "slow_constant"),
    ),
    2: GateAbout(name="control", question="Is deep learning needed?", after_control=False),
    3: GateAbout(name="encoder", question="Did pretraining learn?"),
    4: GateAbout(
        name="transfer",
        question="Does the pretrained encoder help?",
        claims=("log_loss", "brier"),
    ),
    5: GateAbout(name="augmentation", question="Does augmentation harm?"),
    6: GateAbout(
        name="simple",
        question="Is the bigger model needed?",
        advisory=True,
        claims=("log_loss",),
    ),
    7: GateAbout(name="ensemble", question="Does a calibrated ensemble help?", advisory=True),
    "promotion": GateAbout(
        name="promotion", question="May it replace Production?", after_control=False
    ),
}


KNOWN: list[Gate] = list(GATES)  # in the order they are run, promotion last


def gate_order() -> tuple[Gate, ...]:
    """Return the gates in the order they are run, promotion last."""
    numbers = sorted(gate for gate in GATES if isinstance(gate, int))
    return (*numbers, "promotion")


def check_gates(name: str, gates: Iterable[int]) -> None:
    """Raise ConfigError for what is no number of a gate."""
    numbers = [gate for gate in KNOWN if isinstance(gate, int)]
    for gate in gates:
        if type(gate) is not int or gate not in numbers:
            raise ConfigError(f"{name} is {gate!r}", limit=f"one of {', '.join(map(str, numbers))}")


def add_gate(number: int, about: GateAbout) -> None:
    """Add a gate to those that reports may be of.

    Raises
    ------
    BadInput
        If the number is not a whole one of at least 0, or another gate has it or the name.
    """
    if type(number) is not int or number < 0:
        raise BadInput(f"the number of a gate is {number!r}", limit="a whole number of at least 0")
    clashing = [g for g, other in GATES.items() if g == number or other.name == about.name]
    if clashing and GATES.get(number) != about:
        raise BadInput(
            f"gate {number} {about.name!r} is gate {clashing[0]} {GATES[clashing[0]].name!r} "
            "already",
            limit="a number and a name of its own",
        )
    GATES[number] = about
    KNOWN[:] = gate_order()
