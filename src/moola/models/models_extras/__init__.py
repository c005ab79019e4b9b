"""Legacy and experimental nets: importable and tested, created only by their full path.

`tcn`, `rwkv_ts`, `transformer_lstm` and `cnn_transformer`; the last two share `attention`.
"""
