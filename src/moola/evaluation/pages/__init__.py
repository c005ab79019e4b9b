"""Pages and plots of an evaluation.

`report` makes the HTML page (template `report.html.j2`) and its Markdown form, `plots` draws
reliability diagrams, confusion matrices and forest plots, `investigation` makes the page for a
candidate that a control beat, `disagreement` shows the windows that two models predict most
differently.
"""
