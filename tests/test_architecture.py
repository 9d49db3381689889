"""The house stands as docs/architecture.md draws it: who imports whom, and what starts quickly."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"pipeline": {"pipeline"}, "tools": {"tools", "pipeline"}, "trainer": {"trainer", "pipeline"}}
ROOMS = {
    "pipeline": {
        "": set(),
        "storage": {""},
        "photos": {"", "storage"},
        "cache": {"", "storage", "photos"},
        "loading": {"", "photos", "cache"},
    },
    "tools": {
        "": {"sources", "preprocessing", "phantoms", "benchmark"},
        "sources": set(),
        "preprocessing": {"sources"},
        "phantoms": set(),
        "benchmark": {"sources", "preprocessing", "phantoms"},
    },
    "trainer": {
        "": set(),
        "distributed": {""},
        "network": {"", "distributed"},
        "inference": {"", "distributed", "network"},
        "evaluation": {"", "network", "inference"},
        "training": {"", "distributed", "network", "inference", "evaluation"},
        "reporting": {"", "network", "inference", "evaluation"},
        "serving": {"", "network", "inference", "evaluation", "reporting"},
        "commands": {"", "distributed", "network", "inference", "evaluation", "training", "reporting", "serving"},
    },
}
"""Package -> room -> the rooms of the package that it may import from; "" is the package's own floor. Its commands, and
nothing else there, import from every room."""
COMMANDS = {
    "pipeline/command_line.py", "tools/audit.py", "tools/check.py", "tools/datasets.py", "tools/sheet.py",
    "tools/cli.py", "trainer/cli.py",
}  # fmt: skip
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """Full names of what a file imports; only that at import time unless `everywhere`."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path: Path) -> Iterator[Path]:
    """The files of ours that a file imports from, anywhere in it."""
    for name in imports(path, everywhere=True):
        parts = name.split(".")
        for length in (len(parts), len(parts) - 1):
            file = ROOT.joinpath(*parts[:length]).with_suffix(".py")
            if parts[0] in PACKAGES and file in MODULES:
                yield file
                break


def place(path: Path) -> tuple[str, str]:
    """Package and room."""
    package, *room, _ = path.relative_to(ROOT).parts
    return package, "/".join(room)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_imports_only_along_the_arrows(path: Path) -> None:
    package, room = place(path)
    if path.name == "__init__.py":
        return  # hands names on
    for other in ours(path):
        its_package, its_room = place(other)
        assert its_package in PACKAGES[package], f"{short(path)} imports {short(other)}"
        if its_package == package and its_room != room and short(path) not in COMMANDS:
            assert its_room in ROOMS[package][room], f"{short(path)} imports {short(other)}"


def test_every_room_is_in_the_table_and_on_the_page() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    for package, rooms in ROOMS.items():
        assert {place(path)[1] for path in MODULES if place(path)[0] == package} == rooms.keys()
        for room in rooms.keys() - {""}:
            assert f"`{package}/{room}/`" in page
            assert f"{room}/" in (ROOT / package / "__init__.py").read_text()


def test_every_file_named_on_the_page_is_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:pipeline|tools|trainer|tests|docs|benchmarks)/[\w/.]*\w\.\w+)", page))
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), name


def test_tests_lie_in_the_rooms_that_they_test() -> None:
    for package, rooms in ROOMS.items():
        for path in (ROOT / "tests" / package).rglob("test_*.py"):
            assert str(path.parent.relative_to(ROOT / "tests" / package)) in {room or "." for room in rooms}, path
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_no_two_files_import_each_other_in_a_circle() -> None:
    done: set[Path] = set()

    def visit(path: Path, above: tuple[Path, ...]) -> None:
        assert path not in above, " -> ".join(map(short, (*above, path)))
        if path not in done:
            for other in ours(path):
                visit(other, (*above, path))
            done.add(path)

    for path in MODULES:
        visit(path, ())


def test_of_the_library_only_what_the_command_lines_share_imports_click() -> None:
    library = [path for path in MODULES if place(path)[0] == "pipeline"]
    assert {short(path) for path in library if "click" in imports(path, everywhere=True)} == {
        "pipeline/command_line.py"
    }
    assert not [path for path in library if ROOT / "pipeline/command_line.py" in ours(path)]


def test_only_the_dali_loader_imports_dali() -> None:
    users = {path.name for path in MODULES if any("nvidia" in name for name in imports(path, everywhere=True))}
    assert users == {"dali_loader.py"}


def test_only_the_store_imports_clients_of_stores_and_only_when_asked() -> None:
    clients = {"fsspec", "aiohttp", "s3fs", "gcsfs", "botocore", "boto3"}

    def used(path: Path, *, everywhere: bool) -> set[str]:
        return clients & {name.partition(".")[0] for name in imports(path, everywhere=everywhere)}

    assert {path.name for path in MODULES if used(path, everywhere=True)} == {"object_store.py"}
    assert not used(ROOT / "pipeline/storage/object_store.py", everywhere=False)


def test_training_imports_no_drawings_and_no_words_of_reports() -> None:
    for path in (ROOT / "trainer/training").glob("*.py"):
        assert not {"matplotlib", "jinja2"} & {name.partition(".")[0] for name in imports(path, everywhere=True)}


PRINTING = {"tools/cli.py", "trainer/cli.py", "trainer/console.py", "pipeline/progress.py", "pipeline/command_line.py"}
"""The command lines, what they print with, and the progress of long work, which shows itself on stderr alone."""


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_only_commands_print(path: Path) -> None:
    """All other modules return lines and tables, call back, or log: their caller may have no terminal."""
    if short(path) in PRINTING or place(path) == ("trainer", "commands"):
        return
    assert not any(name.startswith("trainer.console.") for name in imports(path, everywhere=True)), short(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            assert called not in {"print", "pprint", "echo", "secho", "print_table"}, f"{short(path)}:{node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
            where = node.attr in {"stdout", "stderr"} and short(path) != "pipeline/machine.py"  # sets their encoding
            assert not where, f"{short(path)}:{node.lineno}"


def test_commands_compute_nothing() -> None:
    """A page and other programs want what commands do: it is in the rooms above them."""
    tools = {"PIL", "cv2", "jinja2", "matplotlib", "numpy", "pandas", "scipy", "torch"}
    for path in (ROOT / "trainer/commands").glob("*.py"):
        assert not tools & {name.partition(".")[0] for name in imports(path, everywhere=True)}, short(path)


def test_only_where_a_process_starts_is_it_told_how_many_threads_opencv_has_and_what_is_no_warning() -> None:
    def calling(name: str) -> set[str]:
        calls = {path: [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
                 for path in MODULES}  # fmt: skip
        return {
            short(path)
            for path, functions in calls.items()
            if any(isinstance(function, ast.Attribute) and function.attr == name for function in functions)
        }

    workers = {"tools/preprocessing/executors.py", "tools/preprocessing/dask_worker.py"}
    assert calling("setNumThreads") == workers
    within_a_block = {"trainer/reporting/drawings.py"}
    assert calling("filterwarnings") == {"pipeline/machine.py"} | within_a_block


def test_no_module_is_named_after_a_dependency() -> None:
    taken = {
        "click",
        "cv2",
        "matplotlib",
        "numpy",
        "nvidia",
        "pandas",
        "PIL",
        "rich",
        "safetensors",
        "sklearn",
        "torch",
    }
    assert not {path.stem for path in MODULES} & taken


def test_what_a_library_user_needs_is_in_pipeline_and_costs_nothing_before_it_is_used() -> None:
    script = (
        "import sys, pipeline, pipeline.errors\n"
        "print(sorted({'numpy', 'torch', 'click'} & sys.modules.keys()))\n"
        "from pipeline import NO_AUGMENT, Augment, Batch, normalise, open_cache, open_loader\n"
        "print(open_cache.__module__, Batch._fields)\n"
    )
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert lines.splitlines() == ["[]", "pipeline.cache.cache ('images', 'grades', 'rows')"]


@pytest.mark.parametrize("command", ["tools", "trainer"])
def test_help_answers_within_half_a_second(command: str) -> None:
    """Of a processor's time: who else works on the machine does not count."""

    def seconds() -> float:
        began = os.times()
        subprocess.run([sys.executable, "-m", command, "--help"], check=True, capture_output=True, cwd=ROOT)
        ended = os.times()
        return ended.children_user + ended.children_system - began.children_user - began.children_system

    assert min(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize("arguments", [["tools", "--help"], ["trainer", "--help"], ["tools", "preprocess", "nowhere"]])
def test_torch_is_not_imported_before_it_is_needed(arguments: list[str]) -> None:
    module, *rest = arguments
    script = (
        f"import sys, runpy; sys.argv = {['-m', *rest]!r}\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit: print('torch' in sys.modules, 'nvidia' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.splitlines()[-1] == "False False"
