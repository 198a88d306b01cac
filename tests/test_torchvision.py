import subprocess
import sys
import textwrap

import pytest

from hesslab import _torchvision

FAKE = """
import sys, types, importlib.abc, importlib.machinery
class Fake(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    imports = 0
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            return importlib.machinery.ModuleSpec(name, self)
    def exec_module(self, module):
        Fake.imports += 1
        BODY
sys.meta_path.insert(0, Fake())
defined = []
class Library:
    def __init__(self, *args): defined.append(args)
    def define(self, schema): defined.append(schema)
sys.modules["torch"] = torch = types.ModuleType("torch")
torch.library, torch.__version__ = types.SimpleNamespace(Library=Library), "2"
from hesslab import _torchvision
"""


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_healthy_torchvision_is_not_touched():
    code = FAKE.replace("BODY", "pass") + "_torchvision.load(); print(Fake.imports, defined)"
    assert _run(code) == "1 []"


@pytest.mark.parametrize(
    "error",
    [
        "RuntimeError('operator torchvision::roi_pool does not exist')",
        "OSError('operator torchvision::nms does not exist')",
    ],
)
def test_other_failures_pass_unchanged(error):
    code = FAKE.replace("BODY", f"raise {error}") + textwrap.dedent("""
        try:
            _torchvision.load()
        except (RuntimeError, OSError) as error:
            print(type(error).__name__, error, defined)
        """)
    assert _run(code) == error.replace("('", " ").replace("')", "") + " []"


def test_known_failure_is_repaired_once_with_one_log_line():
    body = """
        if not defined:
            sys.modules["torchvision.half"] = module
            raise RuntimeError("operator torchvision::nms does not exist")
    """.strip()
    code = FAKE.replace("BODY", body) + textwrap.dedent("""
        import logging
        logging.basicConfig(level=logging.INFO, format="%(name)s", stream=sys.stdout)
        _torchvision.load(); _torchvision.load()
        print(Fake.imports, [d if isinstance(d, tuple) else d.split("(")[0] for d in defined])
        print("torchvision.half" in sys.modules)
        """)
    assert _run(code).splitlines() == [
        "hesslab._torchvision",
        "2 [('torchvision', 'DEF'), 'nms', 'qnms']",
        "False",
    ]


@pytest.mark.slow
def test_what_the_package_needs_works_with_the_installed_pair():
    code = """
        import torch
        from hesslab import _torchvision
        torchvision = _torchvision.load()
        v2 = _torchvision.load("transforms.v2")
        image = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)
        assert v2.Compose([v2.Resize(4), v2.CenterCrop(2)])(image).shape == (3, 2, 2)
        assert v2.GaussianBlur(3)(image).shape == image.shape
        model = torchvision.models.resnet18(num_classes=3).eval()
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
        assert torchvision.datasets.CIFAR10.base_folder == "cifar-10-batches-py"
        """
    _run(code)


def test_missing_torchvision_names_the_extra():
    code = """
        import sys, types
        sys.modules["torch"] = types.ModuleType("torch")
        sys.modules["torchvision"] = None
        from hesslab import _torchvision
        from hesslab.errors import MissingExtra
        try:
            _torchvision.load()
        except MissingExtra as error:
            print(error)
        """
    assert _run(code).endswith("install it with: pip install 'hesslab[data]'")


def test_load_gives_submodules_by_name():
    assert _torchvision.load("datasets.mnist").__name__ == "torchvision.datasets.mnist"
