"""Aliases of any registered model.

`requirements`: what the rules ask for, met or not; `proof`: holding what is attested about a
version against them; `move`: giving an alias to a version; `findings`: what holders rest on.
"""
