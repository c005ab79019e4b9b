"""Fine-tuning that proves itself, and walk-forward predictions.

`finetune` trains one model under a freeze schedule (`moola.models.weights.freeze`), `forensics`
records what each tensor did and holds it against that, `heatmap` draws it. `crossval` trains and
predicts every fold by every seed, on the workers of `launchers`; `ablation` does so with and
without an encoder. `compare_checkpoints` compares two checkpoints tensor by tensor.
"""
