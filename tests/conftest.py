import os
from pathlib import Path

import pytest
import torch

from hesslab import _torchvision

torch.set_num_threads(1)
_torchvision.load()  # torchmetrics and others import torchvision and fail where it needs the repair


@pytest.fixture
def real_data() -> Path:
    """The folder with real data; tests that take it carry the marker `data`."""
    value = os.environ.get("HESSLAB_DATA", "")
    if not Path(value).is_dir() or not value:
        pytest.skip(f"needs real data: HESSLAB_DATA={value!r} is not a folder")
    return Path(value)
