"""Scoring, comparing and judging models: pure functions of labels and probabilities.

Scores
    `predictions` (which may be scored, each window's score), `metrics` (all of them, with
    intervals), `weighted` (the same on many resamples at once), `resampling` (block bootstrap and
    its intervals).
Calibration
    `binning` (bins and the errors that follow), `calibration` (reliability, what chance shows),
    `temperature` (scaling), `conformal` (sets of classes), `ensemble` (a calibrated mean).
Comparisons
    `compare` (two models on the same windows), `compare_result` (what that finds), `family`
    (several at once), `drift` (served windows beside the training ones), `disagreement`
    (windows two models differ on).
Gates
    `gates` (all of them by name, their order, who blocks whom), `gate_report` (what one answers),
    `gate_comparison` (what they share); the rules: `gate_evidence` (0 and 3), `gate_baseline` (1),
    `gate_control` (2), `gate_transfer` (4), `gate_variants` (5 to 7), `gate_promotion`.
Pages and figures
    `report` and `report_style` (the HTML page), `investigation` (what a failed gate 2 leaves),
    `plots`.
"""
