"""Self-supervised pretraining of encoders, and the measure of what they learned."""
