import subprocess
import sys
import textwrap

OPTIONAL = ("torchvision", "torchmetrics", "seaborn", "sklearn", "pandas", "matplotlib", "pooch")


def _run(code: str) -> str:
    """Run code where the optional libraries cannot be imported."""
    block = f"import sys\nfor name in {OPTIONAL}: sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", block + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_package_and_generated_data_work_without_optional_libraries():
    code = """
        import hesslab as hl
        train, test = hl.data.sine()
        print(len(train), len(hl.data.moons()[0]), hl.Hessian.__name__)
        """
    assert _run(code) == "200 200 Hessian"


def test_missing_library_names_its_extra():
    code = """
        import hesslab as hl
        for read in (hl.data.digits, hl.data.mnist):
            try:
                read(download=False)
            except hl.errors.MissingExtra as error:
                print(error)
        """
    for line, name in zip(_run(code).splitlines(), ("sklearn", "torchvision"), strict=True):
        assert line.startswith(f"{name} is needed here and is not installed")
        assert line.endswith("pip install 'hesslab[data]'")


def test_import_is_light():
    code = """
        import sys, hesslab
        print(sorted({name.split(".")[0] for name in sys.modules} & HEAVY))
        """.replace("HEAVY", repr({*OPTIONAL, "torch", "numpy", "scipy"}))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
