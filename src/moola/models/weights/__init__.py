"""Weights: files, names of tensors, and which of them may move.

`checkpoint` reads and writes them, `net_tensors` lists every tensor of a net, `load_report` says
what a checkpoint gave a net, `freeze` holds the freeze schedules, `frozen` what a frozen tensor
takes along.
"""
