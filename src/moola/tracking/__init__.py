"""The only place that writes runs to MLflow."""
