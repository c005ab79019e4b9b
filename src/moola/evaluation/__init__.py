"""Scoring, comparing and judging models: metrics, calibration, comparisons, gates, reports."""
