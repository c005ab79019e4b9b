"""Bars, windows, labels, features, versioned sets, splits and the audit. No torch, no MLflow."""
