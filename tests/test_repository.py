"""The files around the package agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import hesslab

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in found}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [r for line in lines if (r := Requirement(line)).name != "hesslab"]


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]+):(?!=)", makefile, flags=re.MULTILINE))


def test_constraints_pin_every_dependency_within_its_bounds():
    pinned = constraints()
    for requirement in requirements():
        version = pinned.get(_name(requirement.name))
        assert version is not None, f"constraints.txt does not pin {requirement.name}"
        assert version in requirement.specifier, f"{requirement} excludes the pinned {version}"


def test_all_extras_are_in_all():
    everything = Requirement(PROJECT["optional-dependencies"]["all"][0])
    assert everything.extras == set(PROJECT["optional-dependencies"]) - {"all"}


def test_the_conda_environment_is_what_make_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    install = re.search(
        r"install -q (-c \S+) (-e '[^']+')\n", (ROOT / "Makefile").read_text(encoding="utf-8")
    )
    assert install is not None
    assert pip == [install[1], install[2].replace("'", "")]
    python = Requirement(next(d for d in plain if d.startswith("python")))
    assert python.specifier == SpecifierSet(PROJECT["requires-python"])


def test_the_version_is_one():
    assert hesslab.__version__ == PROJECT["version"]


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", ".ci/run", "book/reproduce.md"])
def test_make_targets_that_are_named_exist(file):
    path = ROOT / file
    if not path.is_file():
        pytest.skip(f"{file} does not exist")
    # Commands: in backticks or at the beginning of a line.
    pattern = r"(?:^|`)make ([a-z]+)"
    named = set(re.findall(pattern, path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named <= targets()


def test_the_two_commands_set_up_what_they_need():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"book", "test", "install", "lint", "bench", "record", "serve", "clean"} <= targets()
    assert re.search(r"^book: \$\(READY\)", makefile, flags=re.MULTILINE)
    assert re.search(r"^\$\(READY\): pyproject.toml constraints.txt", makefile, flags=re.MULTILINE)


def test_workflows_call_the_same_targets():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    called = [step.split()[1] for step in steps if step.startswith("make ")]
    assert called == ["book", "test"]
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()
    assert last[-2:] == ["make book", "make test"]
