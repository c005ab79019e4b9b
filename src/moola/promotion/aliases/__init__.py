"""Aliases of any registered model.

`requirements`: each requirement of the rules, met or not; `proof`: checking the attestations about
a version against them; `move`: giving an alias to a version; `findings`: reading moves again.
"""
