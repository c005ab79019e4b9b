"""Fine-tuning that proves itself: freeze schedules, forensics, walk-forward predictions."""
