"""How much memory there is for what a computation keeps."""

import torch

from hesslab import _memory


def test_a_container_has_less_memory_than_its_machine(monkeypatch, tmp_path):
    whole = _memory.quarter(torch.device("cpu"))
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(_memory, "CONTAINER_LIMITS", [str(limit), str(tmp_path / "missing")])
    for text, expected in (("max\n", None), ("4096\n", 1024)):
        limit.write_text(text)
        found = _memory.quarter(torch.device("cpu"))
        assert found == expected or (expected is None and found >= whole)


def test_sizes_for_people():
    assert _memory.megabytes(1_234_567_890) == "1,235 MB"
    assert _memory.megabytes(1500) == "1.5 kB"
