"""Scoring, comparing and judging models: pure functions of labels and probabilities.

Scores
    `predictions` (validation, loss of each window), `metrics` (all of them, with intervals),
    `weighted` (the same on many resamples at once).
Intervals
    `resampling` (block bootstrap), `mean_interval` (of a mean of dependent values), `dependence`
    (between neighbouring windows).
Calibration
    `binning` (bins, and errors from their sums), `calibration` (reliability, null bands),
    `temperature` (scaling), `conformal` (sets of classes), `ensemble` (a calibrated mean).
Comparisons
    `compare` (two models on the same windows), `compare_result` (its result), `drift` (of served
    from training windows).
Packages
    `gates` (one file for each rule), `pages` (reports and plots).
"""
