"""How a net is fitted: the loop, what it is fed and what may look into it.

`loop` runs the epochs of every training, fine-tuning and pretraining alike, on an objective;
`classification` is one; `resume` stores its state, `batches` holds the training set on the device,
`augmentation` and `transforms` change windows, `losses`, `early_stopping` and `callbacks` are what
their names say, `training_params` are the arguments all nets share, `transfer` starts a fit from a
pretrained encoder.
"""
