"""A context of the whole process, entered by several threads."""

import threading
from contextlib import contextmanager

import pytest

from hesslab.operators.shared import Shared


def test_the_last_who_leaves_takes_it_back():
    seen = []

    @contextmanager
    def context():
        seen.append("set")
        yield
        seen.append("back")

    shared = Shared(context)
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first():
        with shared():
            first_in.set()
            assert second_in.wait(20)
        first_out.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert first_in.wait(20)
    with shared():
        second_in.set()
        assert first_out.wait(20)
        assert seen == ["set"]
    thread.join()
    assert seen == ["set", "back"]
    with shared(), shared():
        assert seen == ["set", "back", "set"]
    assert seen == ["set", "back"] * 2


def test_an_error_inside_and_one_on_the_way_in():
    seen = []

    @contextmanager
    def context():
        if not seen:
            seen.append("failed")
            raise RuntimeError("no switch")
        yield
        seen.append("back")

    shared = Shared(context)
    with pytest.raises(RuntimeError, match="no switch"), shared():
        pass
    with pytest.raises(ValueError, match="inside"), shared():
        raise ValueError("inside")
    assert seen == ["failed", "back"]
