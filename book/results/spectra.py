"""The spectrum of a trained ResNet-20 on two sets of images: numbers of record of chapter 04.

`python book/results/spectra.py` writes spectra-resnet20.json beside itself: what the chapter's
laptop profile computes, about half an hour on one core.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

import hesslab as hl


def spectrum_of(density: hl.linalg.SpectralDensity) -> dict[str, Any]:
    """A density and its energies as plain numbers."""
    values, weights = density.atoms()
    energies = density.energies()
    parts = [f"L{power}{sign}" for power in (1, 2) for sign in ("", "_negative", "_positive")]
    return {
        "size": density.size,
        "products": density.products,
        "seconds": density.seconds,
        "eigenvalues": density.eigenvalues,
        "residuals": density.residuals,
        "values": values,
        "weights": weights,
        "energies": {
            part: {of: getattr(getattr(energies, part), of) for of in ("estimate", "low", "high")}
            for part in parts
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=512, help="images in each set")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    n, seed = options.examples, options.seed
    model = hl.models.pretrained("cifar10-resnet20").to(options.device)
    images, _ = hl.data.cifar10(normalisation=model.normalisation)
    pool = images.subset(2 * n, seed=seed)
    found = {}
    for name, start, draw in (("these", 0, seed), ("again", 0, seed + 1), ("other", n, seed)):
        H = hl.Hessian(model, hl.losses.CrossEntropy(), pool.take(torch.arange(start, start + n)))
        found[name] = spectrum_of(
            hl.linalg.spectral_density(H, steps=options.steps, probes=options.probes, seed=draw)
        )
    path = hl.report.record("spectra-resnet20", found, parameters=vars(options), seed=seed)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
