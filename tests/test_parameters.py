"""Every parameter of every chapter: another value runs, an impossible one names its range."""

from __future__ import annotations

import os
from pathlib import Path

import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from book import notebooks

BOOK = Path(__file__).parent.parent / "book"

# What makes a chapter small, so that one run takes seconds.
SMALL = {
    "01_sine": {"epochs": 40, "samples": 5, "k": 4},
    "03_images": {
        "examples": 200,
        "epochs": 1,
        "curvature_examples": 20,
        "k": 3,
    },
    "04_spectra": {
        "examples": 60,
        "steps": 6,
        "probes": 2,
        "large_steps": 6,
        "large_probes": 2,
        "repetitions": 3,
    },
    "products": {"examples": 8, "width": 16, "columns": 2},
}
# parameter: (another value, an impossible one, what the message says of the range)
VALUES = {
    "01_sine": {
        "n": (25, 0, "n=0.* 1 to 1,?000,?000"),
        "noise": (0.3, 0.0, "expected 0 < noise_variance"),
        "frequency": (1.0, -1.0, "frequency"),
        "gap_left": (-1.0, 2.5, "gap"),
        "gap_right": (1.0, 9.0, "gap"),
        "hidden": (7, 0, "hidden"),
        "epochs": (20, 0, "epochs"),
        "k": (1, 0, "k=0 is out of range: .*expected 1 <= k"),
        "rtol": (
            1e-3,
            2.0,
            "rtol=2.0 is out of range: expected 0 <= rtol < 1",
        ),
        "prior_precision": (30.0, -1.0, "expected 0 < prior_precision"),
        "samples": (3, 0, "expected at least 1 sample"),
        "seed": (5, -1, "seed"),
    },
    "03_images": {
        "dataset": (
            "mnist",
            "foo",
            "'foo' is unknown; expected one of digits, mnist",
        ),
        "examples": (
            90,
            0,
            "subset=0; expected .* whole number from 1",
        ),
        "epochs": (
            2,
            0,
            "epochs=0 is out of range: expected epochs >= 1",
        ),
        "batch_size": (
            7,
            0,
            "batch_size=0 is out of range: expected batch_size >= 1",
        ),
        "lr": (0.01, -1.0, "lr=-1.0 is out of range: expected 0 < lr"),
        "curvature_examples": (
            7,
            70,
            "subset=210 is out of range: .* has 200 examples",
        ),
        "k": (1, 0, "k=0 is out of range: .*expected 1 <= k"),
        "device": ("cpu:0", "foo", "Expected one of cpu, cuda"),
        "seed": (5, -1, "seed=-1; expected a whole number from 0"),
    },
    "04_spectra": {
        "network": (
            "lenet",
            "vgg",
            'network=\'vgg\'; expected "lenet" or "resnet20"',
        ),
        "examples": (40, 0, "at least one is needed"),
        "steps": (9, 1, "steps=1 is out of range: expected at least 2"),
        "probes": (
            3,
            0,
            "probes=0 is out of range: expected at least 1",
        ),
        "large_steps": (
            9,
            1,
            "steps=1 is out of range: expected at least 2",
        ),
        "large_probes": (
            3,
            0,
            "probes=0 is out of range: expected at least 1",
        ),
        "repetitions": (2, 1, "repetitions=1; expected at least 2"),
        "device": ("cpu:0", "foo", "Expected one of cpu, cuda"),
        "seed": (5, -1, "seed=-1; expected a whole number from 0"),
    },
    "products": {
        "dataset": (
            "mnist",
            "foo",
            "'foo' is unknown; expected one of digits, mnist",
        ),
        "examples": (5, 0, "subset=0; expected .* whole number from 1"),
        "depth": (
            14,
            9,
            r"depth=9 is not a residual network .* expected 18 .* or 6n \+ 2",
        ),
        "width": (3, 0, "hidden"),
        "columns": (
            1,
            0,
            "block_size=0 is out of range: expected a whole number of at least 1",
        ),
        "device": ("cpu:0", "foo", "Expected one of cpu, cuda"),
        "seed": (5, -1, "seed=-1; expected a whole number from 0"),
    },
}
CASES = [(chapter, name) for chapter, values in VALUES.items() for name in values]


def run(chapter, folder, **values):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    papermill.execute_notebook(
        BOOK / f"{chapter}.ipynb",
        folder / "out.ipynb",
        parameters=SMALL[chapter] | values,
        cwd=folder,
        progress_bar=False,
    )
    cells = papermill.iorw.load_notebook_node(str(folder / "out.ipynb")).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("chapter", sorted(path.stem for path in BOOK.glob("*.ipynb")))
def test_each_parameter_has_values_here(chapter):
    known = notebooks.parameters(papermill.iorw.load_notebook_node(str(BOOK / f"{chapter}.ipynb")))
    assert set(VALUES[chapter]) == set(known)


@pytest.mark.slow
@pytest.mark.parametrize(("chapter", "name"), CASES)
def test_another_value_runs_and_no_claim_stops_it(chapter, name, tmp_path):
    if name == "dataset" and "HESSLAB_DATA" not in os.environ:
        pytest.skip("another data set needs real data: set HESSLAB_DATA")
    text = run(chapter, tmp_path, **{name: VALUES[chapter][name][0]})
    assert "not at these values: " in text or "holds: " in text


@pytest.mark.slow
@pytest.mark.parametrize(("chapter", "name"), CASES)
def test_an_impossible_value_is_refused_by_its_range(chapter, name, tmp_path):
    _, value, message = VALUES[chapter][name]
    with pytest.raises(PapermillExecutionError, match=message):
        run(chapter, tmp_path, **{name: value})
