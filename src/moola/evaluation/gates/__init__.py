"""The gates: one file for each rule, the order of the reports, and the report itself.

Rules
    `evidence` (gates 0 and 3), `baseline` (1), `control` (2), `transfer` (4), `variants` (5 to 7)
    and `promotion`. Each is a pure function; those that compare take predictions and a
    `GateContext`.
Shared
    `report` (verdict, figures, reasons), `comparison` (context, paired comparison),
    `slow_constant` (the best slowly varying constant), `label_arithmetic` (the surrogate null),
    `collapse` (near-constants), `family` (multiple comparisons), `suspicion` and `leak_checks`
    (too good to be true), `order` (blocking and deferral).
"""

from moola.config.gates import GATES, Gate, gate_order
from moola.evaluation.gates.baseline import gate_1_baseline
from moola.evaluation.gates.collapse import collapse_reasons
from moola.evaluation.gates.comparison import GateContext
from moola.evaluation.gates.control import gate_2_control
from moola.evaluation.gates.evidence import gate_0_data, gate_3_encoder
from moola.evaluation.gates.order import blocking_reason, deferral_reason, run_order
from moola.evaluation.gates.promotion import CLASS_PRIOR, gate_promotion, promotion_prerequisites
from moola.evaluation.gates.report import (
    SCHEMA_VERSION,
    VERDICTS,
    GateReport,
    Verdict,
    blocked,
    deferred,
)
from moola.evaluation.gates.transfer import gate_4_transfer
from moola.evaluation.gates.variants import (
    AugmentationQuality,
    gate_5_augmentation,
    gate_6_simple,
    gate_7_ensemble,
)

__all__ = [
    "CLASS_PRIOR",
    "GATES",
    "SCHEMA_VERSION",
    "VERDICTS",
    "AugmentationQuality",
    "Gate",
    "GateContext",
    "GateReport",
    "Verdict",
    "blocked",
    "blocking_reason",
    "collapse_reasons",
    "deferral_reason",
    "deferred",
    "gate_0_data",
    "gate_1_baseline",
    "gate_2_control",
    "gate_3_encoder",
    "gate_4_transfer",
    "gate_5_augmentation",
    "gate_6_simple",
    "gate_7_ensemble",
    "gate_order",
    "gate_promotion",
    "promotion_prerequisites",
    "run_order",
]
