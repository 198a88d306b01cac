import math

import numpy as np
import pytest
import sklearn.metrics
import torch

from hesslab import metrics
from hesslab.errors import NotFinite


def predictions(n=200, classes=5, samples=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, classes) if samples is None else (samples, n, classes)
    logits = 3 * torch.randn(shape, dtype=torch.float64, generator=generator)
    return logits, torch.randint(classes, (n,), generator=generator)


def test_scores_equal_those_of_scikit_learn():
    logits, y = predictions()
    p = logits.softmax(-1)
    accuracy, nll = metrics.accuracy(p, y), metrics.nll(p, y)
    assert float(accuracy) == sklearn.metrics.accuracy_score(y, p.argmax(-1))
    expected = sklearn.metrics.log_loss(y, p, labels=range(5))
    assert float(nll) == pytest.approx(expected, rel=1e-12)
    assert float(metrics.nll(logits, y, logits=True)) == pytest.approx(expected, rel=1e-12)


def test_samples_are_averaged_before_they_are_scored():
    logits, y = predictions(samples=7)
    p = logits.softmax(-1)
    assert metrics.accuracy(p, y) == metrics.accuracy(p.mean(0), y)
    expected = metrics.nll(p.mean(0), y)
    for found in (metrics.nll(p, y), metrics.nll(logits, y, logits=True)):
        assert float(found) == pytest.approx(float(expected), rel=1e-12)
        assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-12)
    assert float(expected) < np.mean([float(metrics.nll(sample, y)) for sample in p])  # Jensen


def test_uniform_probabilities_have_the_closed_form():
    nll = metrics.nll(torch.full((4, 10), 0.1), torch.tensor([0, 3, 5, 9]))
    assert float(nll) == pytest.approx(math.log(10), rel=1e-6)
    assert nll.standard_error == pytest.approx(0, abs=1e-12)


def test_standard_errors_are_those_of_a_mean():
    logits, y = predictions()
    right = (logits.argmax(-1) == y).double()
    share = float(right.mean())
    accuracy = metrics.accuracy(logits, y)
    assert accuracy.standard_error == pytest.approx(math.sqrt(share * (1 - share) / 199), rel=1e-12)
    values = -logits.log_softmax(-1)[torch.arange(200), y].numpy()
    nll = metrics.nll(logits, y, logits=True)
    assert nll.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(200), rel=1e-12)


def test_logits_stay_exact_where_probabilities_round_to_zero():
    logits = torch.tensor([[0.0, 800.0]])
    nll = metrics.nll(logits, torch.tensor([0]), logits=True)
    assert float(nll) == pytest.approx(800.0)
    with pytest.raises(NotFinite, match=r"example 0 .* class 0 .* pass the logits"):
        metrics.nll(logits.softmax(-1), torch.tensor([0]))


def test_arrays_and_graph_tensors_are_taken_alike():
    logits, y = predictions()
    expected = metrics.accuracy(logits, y)
    assert metrics.accuracy(logits.numpy(), y.numpy()) == expected
    assert metrics.accuracy(logits.clone().requires_grad_(), y.int()) == expected


def test_a_score_reads_as_a_number_with_its_error():
    score = metrics.Score(0.985, 0.0012, 10000)
    assert repr(score) == "0.9850 +- 0.0012 (n = 10000)"
    assert float(score) == 0.985
    assert math.isnan(metrics.accuracy(torch.eye(2)[:1], torch.tensor([0])).standard_error)


P = torch.full((4, 2), 0.5)
Y = torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        (P, Y[:3], r"shape \(4, 2\) and targets \(3,\); expected \[N, C\]"),
        (P[:, 0], Y, r"expected \[N, C\] or \[S, N, C\]"),
        (P, torch.tensor([0, 1, 2, 1]), r"targets are in 0\.\.2, .* expected 0\.\.1"),
        (P, torch.tensor([0, -1, 0, 1]), r"targets are in -1\.\.1"),
        (P, Y.float(), "targets are torch.float32; expected class numbers"),
        (P[:0], Y[:0], "predictions is empty"),
        (P.log(), Y, r"no probabilities: .* logits need \.softmax\(-1\)"),
        (P * 1.1, Y, "row's sum is off 1 by 0.1"),
        (P.numpy().tolist(), Y, "predictions is a list; expected an array"),
    ],
)
def test_bad_input_is_refused(p, y, message):
    with pytest.raises((ValueError, TypeError), match=message):
        metrics.nll(p, y)


def test_nan_is_refused_with_its_place():
    p = P.clone()
    p[2, 1] = float("nan")
    for metric in (metrics.accuracy, metrics.nll):
        with pytest.raises(NotFinite, match=r"first at \[2, 1\]"):
            metric(p, Y)


def test_sampled_logits_are_refused_by_accuracy():
    logits, y = predictions(samples=3)
    with pytest.raises(ValueError, match="no probabilities"):
        metrics.accuracy(logits, y)
