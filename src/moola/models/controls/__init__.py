"""Models that are not nets: the controls a candidate must not lose to, and the stack.

`classical` holds their base classes and the logistic regression on the features; `trees`, `quant`,
`minirocket`, `hydra` and `stacking` are models; `linear_head` is the head several of them share;
`benchmark_ucr` compares some with their published accuracies.
"""
