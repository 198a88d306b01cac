"""Builds the book: runs what has to be run, renders, checks, publishes.

    python -m book.build [--profile quick|laptop|gpu] [chapter ...]
    python -m book.build run 01_sine -p n 300 [-o out.ipynb]

A chapter that fails does not keep the others from running, but then nothing is rendered: pages
that refer to a missing one would be wrong, and the pages of the last good build stay as they are.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from book import notebooks
from book.cache import Runs, footer
from book.execute import ChapterError, execute
from book.notebooks import NotebookError
from book.render import RenderError, publish, render, stage, toc_files
from hesslab import _files

ROOT = Path(__file__).resolve().parents[1]
PROFILES = ("quick", "laptop", "gpu")
BUDGET = 40.0  # seconds for a chapter in the quick profile
CELL_SECONDS = {"quick": 600}  # a cell beyond this hangs; other profiles have no limit


# Python drops an exception that a signal raises while it clears a weak reference.
_interrupted = threading.Event()


def _interrupt(*_: object) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 1 for a failure, 2 for a wrong request."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupt)
    try:
        if arguments[:1] == ["run"]:
            return _run(arguments[1:])
        options = _options(arguments)
        return build(options.root, options.profile, options.chapters, jobs=options.jobs)
    except (NotebookError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ChapterError, RenderError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: nothing half-written is left", file=sys.stderr, flush=True)
        # Chapters run in threads that cannot be stopped; their kernels end when this process does.
        os._exit(130)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m book.build",
        description="Run the chapters that need it and render the book.",
        epilog="python -m book.build run --help: one chapter with other parameters",
    )
    parser.add_argument("--profile", default="quick", choices=PROFILES)
    parser.add_argument("--jobs", type=int, help="chapters at a time (2, or 1 for gpu)")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with _toc.yml")
    parser.add_argument("chapters", nargs="*", help="run these; the others must have been run")
    options = parser.parse_args(arguments)
    options.jobs = options.jobs or (1 if options.profile == "gpu" else 2)
    return options


def build(root: Path, profile: str, only: Sequence[str] = (), *, jobs: int = 2) -> int:
    """Run, render and publish.

    Args:
        root: the folder with `_toc.yml`, `book/` and `hesslab/`.
        profile: which values of the parameters.
        only: chapters to run; the others are taken from earlier runs.
        jobs: chapters that run at a time.

    Returns:
        The exit code: 0, or 1 where a chapter failed or was never run; nothing is rendered then.
        Sources that break the rules raise `NotebookError`, pages with faults `RenderError`.
    """
    started = time.perf_counter()
    sources = _sources(root, profile)
    runs = Runs(root / "_build" / "cache", root)
    done = {name: found for name in sources if (found := runs.find(name, sources[name]))}
    chosen = {_page(root, name) for name in only} or set(sources)
    todo = {name: sources[name] for name in sources if name in chosen and name not in done}
    print(f"{len(done)} of {len(sources)} chapters are up to date, running {len(todo)}")
    failed = []
    with _kernels(root) as folder:
        for name, result, seconds in _execute_all(todo, folder, profile, jobs):
            if isinstance(result, ChapterError):
                failed.append(name)
                print(f"FAILED {name} after {seconds:.0f} s: {result}\n", file=sys.stderr)
                continue
            runs.keep(name, result)
            done[name] = result
            late = profile == "quick" and seconds > BUDGET
            warning = f"  WARNING: over the budget of {BUDGET:.0f} s" if late else ""
            print(f"  {name}: {seconds:.1f} s{warning}", flush=True)
    missing = [name for name in sources if name not in done]
    if missing:
        why = "failed" if failed else "not run yet"
        print(f"not rendered, {why}: {', '.join(failed or missing)}", file=sys.stderr)
        return 1
    page = _render(root, done)
    print(f"{time.perf_counter() - started:.1f} s; open {page.relative_to(root)} ({page.as_uri()})")
    return 0


def stored(root: Path, page: str, profile: str) -> NotebookNode | None:
    """The executed chapter, where an earlier build's run of it is still good."""
    source = _source(root, page, profile)
    return Runs(root / "_build" / "cache", root).find(page, source)


def _sources(root: Path, profile: str) -> dict[str, NotebookNode]:
    """The chapters of the table of contents with the values of the profile, by page name."""
    pages = [page for page in toc_files(root) if (root / f"{page}.ipynb").is_file()]
    return {page: _source(root, page, profile) for page in pages}


def _source(root: Path, page: str, profile: str) -> NotebookNode:
    try:
        notebook = notebooks.read(root / f"{page}.ipynb")
        profiles = notebooks.profiles(notebook)
        if profile not in profiles:
            raise NotebookError(f"no profile {profile!r}; there are {', '.join(profiles)}")
        return notebooks.merge(notebook, profiles[profile])
    except NotebookError as error:
        raise NotebookError(f"{page}.ipynb: {error}") from error


def _page(root: Path, name: str) -> str:
    """`book/01_sine` of `01_sine`, `book/01_sine` or `book/01_sine.ipynb`."""
    stem = Path(name).stem
    if not (root / "book" / f"{stem}.ipynb").is_file():
        known = ", ".join(sorted(p.stem for p in (root / "book").glob("*.ipynb")))
        raise NotebookError(f"no chapter {name!r}; there are: {known}")
    return f"book/{stem}"


@contextmanager
def _kernels(root: Path) -> Iterator[Path]:
    """The surroundings of all kernels: an empty folder, one thread each, this package."""
    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # `python3` is this environment's kernel
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    for variable in ("HESSLAB_DATA", "HESSLAB_CACHE"):
        if os.environ.get(variable):
            os.environ[variable] = str(Path(os.environ[variable]).expanduser().resolve())
    with tempfile.TemporaryDirectory(prefix="hesslab-book-") as folder:
        os.environ["JUPYTER_RUNTIME_DIR"] = str(Path(folder, "runtime"))
        try:
            yield Path(folder)
        finally:
            os.environ.clear()
            os.environ.update(before)


def _execute_all(
    todo: dict[str, NotebookNode], folder: Path, profile: str, jobs: int
) -> Iterator[tuple[str, NotebookNode | ChapterError, float]]:
    """(page, executed chapter or what went wrong, seconds), in the order of finishing."""
    pool = ThreadPoolExecutor(max_workers=jobs)
    try:
        waiting: dict[Future[tuple[NotebookNode | ChapterError, float]], str] = {
            pool.submit(_timed, source, folder, CELL_SECONDS.get(profile)): name
            for name, source in todo.items()
        }
        running = set(waiting)
        while running:
            done, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            if _interrupted.is_set():
                raise KeyboardInterrupt
            for future in done:
                result, seconds = future.result()
                yield waiting[future], result, seconds
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _timed(
    source: NotebookNode, folder: Path, cell_seconds: int | None
) -> tuple[NotebookNode | ChapterError, float]:
    started = time.perf_counter()
    result: NotebookNode | ChapterError
    try:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            result = execute(source, folder=Path(own), seconds=cell_seconds)
        footer(result)
    except ChapterError as error:
        result = error
    except ValueError as error:
        result = ChapterError(str(error))
    return result, time.perf_counter() - started


def _render(root: Path, chapters: dict[str, NotebookNode]) -> Path:
    built = root / "_build"
    stage(root, built / "stage", chapters)
    publish(render(built / "stage", built / "render"), built / "html")
    return built / "html" / f"{toc_files(root)[0]}.html"


def _run(arguments: list[str]) -> int:
    """One chapter with other parameters, into a notebook of its own."""
    parser = argparse.ArgumentParser(prog="python -m book.build run")
    parser.add_argument("chapter")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--profile", default="quick", choices=PROFILES)
    parser.add_argument("-o", "--output", type=Path, help="default: _build/runs/CHAPTER.ipynb")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with _toc.yml")
    options = parser.parse_args(arguments)
    page = _page(options.root, options.chapter)
    source = _source(options.root, page, options.profile)
    values = notebooks.from_text(notebooks.parameters(source), [tuple(pair) for pair in options.p])
    with _kernels(options.root) as folder:
        executed = execute(notebooks.merge(source, values), folder=folder)
    output = options.output or options.root / "_build" / "runs" / f"{Path(page).name}.ipynb"
    with _files.write_aside(output) as aside:
        nbformat.write(executed, aside)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
