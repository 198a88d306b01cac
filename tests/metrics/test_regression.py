import math

import numpy as np
import pytest
import sklearn.metrics
import torch

from hesslab import metrics
from hesslab.errors import NotFinite


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3)])
def test_rmse_equals_scikit_learn(shape):
    generator = torch.Generator().manual_seed(0)
    f, y = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    expected = math.sqrt(sklearn.metrics.mean_squared_error(y, f))
    assert float(metrics.rmse(f, y)) == pytest.approx(expected, rel=1e-12)


def test_samples_are_averaged_first():
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(6, 20, 2, dtype=torch.float64, generator=generator)
    y = torch.randn(20, 2, dtype=torch.float64, generator=generator)
    assert metrics.rmse(f, y) == metrics.rmse(f.mean(0), y)


def test_the_standard_error_is_the_spread_over_repeated_data():
    generator = np.random.default_rng(0)
    errors = generator.normal(scale=2.0, size=(2000, 400))
    scores = [metrics.rmse(row, np.zeros(400)) for row in errors]
    spread = np.std([score.value for score in scores])
    stated = np.mean([score.standard_error for score in scores])
    assert stated == pytest.approx(spread, rel=0.05)  # the spread of 2000 is known to 1.6 %


def test_perfect_predictions_have_no_error():
    y = torch.arange(5.0)
    score = metrics.rmse(y, y)
    assert (score.value, score.standard_error, score.n) == (0.0, 0.0, 5)


def test_bad_input_is_refused():
    y = torch.zeros(5)
    with pytest.raises(ValueError, match=r"shape \(5, 1\) and targets \(5,\); expected"):
        metrics.rmse(torch.zeros(5, 1), y)
    with pytest.raises(ValueError, match="predictions is empty"):
        metrics.rmse(y[:0], y[:0])
    with pytest.raises(NotFinite, match=r"targets hold NaN or infinite values, first at \[3\]"):
        metrics.rmse(y, torch.tensor([0.0, 0, 0, math.inf, 0]))
