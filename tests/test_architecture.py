"""The house stands as drawn: who imports whom, and what starts quickly."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"pipeline": {"pipeline"}, "tools": {"tools", "pipeline"}, "trainer": {"trainer", "pipeline"}}
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).glob("*.py"))]


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """Full names of the modules a file imports; only those at import time unless `everywhere`."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names.add(str(node.module))
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_only_along_the_arrows(path: Path) -> None:
    ours = {name.partition(".")[0] for name in imports(path, everywhere=True)} & ROOMS.keys()
    assert ours <= ROOMS[path.parent.name]


def test_only_the_dali_loader_imports_dali() -> None:
    users = {path.name for path in MODULES if any("nvidia" in name for name in imports(path, everywhere=True))}
    assert users == {"dali_loader.py"}


def test_only_the_store_imports_clients_of_stores_and_only_when_asked() -> None:
    clients = {"fsspec", "aiohttp", "s3fs", "gcsfs", "botocore", "boto3"}
    users = {
        path.name for path in MODULES if clients & {name.partition(".")[0] for name in imports(path, everywhere=True)}
    }
    assert users == {"store.py"}
    assert not clients & imports(ROOT / "pipeline/storage/object_store.py", everywhere=False)


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


@pytest.mark.parametrize("command", ["tools", "trainer"])
def test_help_answers_within_half_a_second(command: str) -> None:
    def seconds() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", command, "--help"], check=True, capture_output=True, cwd=ROOT)
        return time.perf_counter() - began

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
