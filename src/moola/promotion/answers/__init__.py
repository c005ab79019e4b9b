"""The answers of any MLflow model to a table, whose code is a stranger's.

`ask` starts `sandbox`, which cuts network, keys and files off and runs `process`, where the model
is loaded and answers; what comes back is checked by `ask`.
"""
