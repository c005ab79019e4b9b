"""Fine-tuning that proves itself, and walk-forward predictions.

`finetune` trains one model: `freeze` says which tensors stand still and sees to it, `forensics`
records what each did and holds it against that, `heatmap` draws it. `crossval` trains and predicts
every fold by every seed, on the workers of `launchers`; `ablation` does so with and without an
encoder. `compare_checkpoints` holds two checkpoints side by side. `device` says what a run computes
on.
"""
