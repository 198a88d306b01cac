from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hesslab import plots

NAN = float("nan")


def test_losses_and_accuracies_have_a_panel_each(line: Any) -> None:
    history = SimpleNamespace(
        epoch=(1, 2, 3), train_loss=(2.0, 1.0, 0.5), test_loss=(2.1, 1.2, 0.9),
        train_accuracy=(0.1, 0.5, 0.9), test_accuracy=(0.1, 0.4, 0.8), lr=(1.0, 1.0, 1.0),
    )  # fmt: skip
    loss, accuracy = plots.history(history).axes
    np.testing.assert_array_equal(line(loss, "training").get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(line(loss, "training").get_ydata(), history.train_loss)
    np.testing.assert_array_equal(line(loss, "test").get_ydata(), history.test_loss)
    np.testing.assert_array_equal(line(accuracy, "training").get_ydata(), history.train_accuracy)
    np.testing.assert_array_equal(line(accuracy, "test").get_ydata(), history.test_accuracy)
    assert [a.get_xlabel() for a in (loss, accuracy)] == ["epoch", "epoch"]
    assert accuracy.get_ylabel() == "accuracy [fraction]"


def test_without_accuracies_there_is_one_panel(line: Any) -> None:
    (axes,) = plots.history({"train_loss": [3.0, 2.0], "test_loss": None}).axes
    np.testing.assert_array_equal(line(axes, "training").get_xdata(), [1, 2])
    assert axes.get_yscale() == "linear"


def test_losses_over_decades_get_a_log_axis() -> None:
    (axes,) = plots.history({"train_loss": [3.0, 0.01]}).axes
    assert axes.get_yscale() == "log"
    (axes,) = plots.history({"train_loss": [3.0, 0.01, -0.5]}).axes
    assert axes.get_yscale() == "linear"


def test_epochs_without_a_test_are_bridged(line: Any) -> None:
    given = {"train_loss": [3.0, 2.0, 1.5], "test_loss": [3.1, NAN, 1.9]}
    (axes,) = plots.history(given).axes
    np.testing.assert_array_equal(line(axes, "test").get_xdata(), [1, 3])


def test_divergence_is_marked(line: Any) -> None:
    (axes,) = plots.history({"train_loss": [3.0, 9.0, float("inf"), NAN]}).axes
    np.testing.assert_array_equal(line(axes, "loss not finite").get_xdata(), [3, 3])
    (axes,) = plots.history({"train_loss": [NAN, NAN]}).axes
    np.testing.assert_array_equal(line(axes, "loss not finite").get_xdata(), [1, 1])


def test_bad_histories_are_named() -> None:
    with pytest.raises(ValueError, match=r"no train_loss in this dict.*hesslab\.training\.fit"):
        plots.history({"loss": [1.0]})
    with pytest.raises(ValueError, match=r"no train_loss in this dict, or an empty one"):
        plots.history({"train_loss": []})
    with pytest.raises(ValueError, match=r"test_loss has shape \[1\], but train_loss has \[2\]"):
        plots.history({"train_loss": [1.0, 2.0], "test_loss": [1.0]})
    with pytest.raises(ValueError, match=r"epoch has 3 values, but train_loss has 2"):
        plots.history({"train_loss": [1.0, 2.0], "epoch": [1, 2, 3]})
