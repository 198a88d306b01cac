from __future__ import annotations

import pytest
import torch

from hesslab import report

PROFILES = {"quick": {"n": 10}, "laptop": {"n": 100}}


def test_a_claim_raises_at_the_values_of_a_profile():
    claims = report.claims({"n": 100}, PROFILES)
    assert claims.at_profile == "laptop"
    with pytest.raises(AssertionError, match=r"half are zero - .* of the laptop profile"):
        claims.check("half are zero", torch.tensor(False))


def test_a_claim_is_printed_at_other_values(capsys):
    claims = report.claims({"n": 11}, PROFILES)
    assert claims.at_profile is None
    claims.check("half are zero", False)
    claims.check("all are positive", True)
    assert capsys.readouterr().out.splitlines() == [
        "not at these values: half are zero",
        "holds: all are positive",
    ]


def test_profiles_that_name_an_unknown_parameter_are_refused():
    with pytest.raises(ValueError, match=r"the profiles name \['n'\]"):
        report.claims({"m": 1}, PROFILES)
