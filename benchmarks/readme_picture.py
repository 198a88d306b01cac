"""Draws the picture of the README: samples of two posteriors on the noisy sine with a gap.

`python benchmarks/readme_picture.py` writes book/assets/readme.png.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch
from PIL import Image

import hesslab as hl
from hesslab import _files

matplotlib.use("Agg")
TARGET = Path(__file__).resolve().parents[1] / "book" / "assets" / "readme.png"


def draw(target: Path, *, noise: float = 0.1, count: int = 30, seed: int = 0) -> None:
    train, _ = hl.data.sine(noise=noise, seed=seed)
    loss = hl.losses.GaussianLikelihood(noise_variance=noise**2)
    model = hl.models.mlp(1, 1, seed=seed)
    hl.training.fit(model, loss, train, lr=5e-3, schedule="cosine", epochs=400, seed=seed)
    projector = hl.posteriors.NullSpaceProjector(model, loss, train)
    free = hl.posteriors.NullSpacePosterior(projector, prior_precision="evidence")
    alike = hl.posteriors.IsotropicPosterior(model, loss, prior_precision=free.prior_precision)
    x = torch.linspace(-3, 3, 400).unsqueeze(1)
    samples = {
        "every direction": alike.sample(count, seed=seed).outputs(x),
        "only directions that no example notices": free.sample(count, seed=seed).outputs(x),
    }
    mean = model(x).detach()
    figure = hl.plots.compare_samples(x, samples, mean, train.x, train.y, limits=(-3, 3))
    with hl.plots.style(), _files.write_aside(target) as aside:
        figure.savefig(aside, dpi=150)
        # A palette of 64 colours takes a third of the bytes; no transparency in it.
        Image.open(aside).convert("RGB").quantize(64).save(aside, optimize=True)


if __name__ == "__main__":
    draw(TARGET)
    print(f"{TARGET.relative_to(TARGET.parents[2])}: {TARGET.stat().st_size / 1e3:.0f} kB")
