"""Pages and plots: what an evaluation found, for people to read.

`report` writes the HTML page and its Markdown form (`report_style` is its style sheet), `plots`
draws reliability diagrams, confusion matrices and forest plots, `investigation` is the page that a
candidate gets when a control beat it, `disagreement` shows windows two models answer differently.
"""
