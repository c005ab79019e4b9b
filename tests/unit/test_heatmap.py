"""The heat map of a training: frozen cells, how far the others moved, what should have moved."""

from __future__ import annotations

import pyarrow as pa
import pytest
from finetune_kit import TWO_PHASE, fit

from moola.errors import BadInput
from moola.evaluation.pages.plots import figure_to_png
from moola.models.weights.freeze import FreezeCallback, make_schedule
from moola.training.heatmap import evolution_figure

pytestmark = pytest.mark.medium  # draws


def test_the_heat_map_shows_frozen_cells_and_how_far_the_others_moved() -> None:
    schedule = make_schedule("two_phase", **TWO_PHASE)
    model, evolution = fit(schedule, FreezeCallback(schedule))
    figure = evolution_figure(evolution.to_table(), "run")
    axes = figure.axes[0]
    cells = axes.images[0].get_array()
    tensors = [label.get_text() for label in axes.get_yticklabels()]
    assert len(tensors) == len(list(model.net_.parameters()))
    assert all(name.startswith("encoder.") for name in tensors[:16])
    assert not any(name.startswith("encoder.") for name in tensors[16:])
    assert cells.mask[:16, :2].all()  # frozen
    assert not cells.mask[:16, 2:].any()
    assert not cells.mask[16:].any()
    row = next(r for r in evolution.rows if r["tensor"] == tensors[0] and r["epoch"] == 3)
    assert float(cells[0, 3]) == pytest.approx(row["change_since_load"])
    assert axes.get_title(loc="left") == "run"
    assert figure_to_png(figure) == figure_to_png(figure)


def test_the_heat_map_marks_what_should_have_moved() -> None:
    schedule = make_schedule("none")
    _, evolution = fit(schedule, FreezeCallback(schedule), n_epochs=2)
    table = evolution.to_table().to_pylist()
    table[5]["moved_in_epoch"] = False
    figure = evolution_figure(pa.Table.from_pylist(table), "run")
    assert len(figure.axes[0].lines) == 1 + 1  # the mark, and the line below the encoder
    with pytest.raises(BadInput, match="holds no epoch"):
        evolution_figure(evolution.to_table().slice(0, 0), "run")
