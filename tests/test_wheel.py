"""What `pip install` puts there: every file of the packages, and the mark that they are typed (PEP 561)."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "tools", "trainer")


def test_a_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip("pyproject.toml needs setuptools 77")
    source = tmp_path / "source"
    source.mkdir()
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys\nfrom setuptools.build_meta import build_wheel\nprint(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(tmp_path)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(tmp_path / built.stdout.splitlines()[-1]) as wheel:
        inside = {name for name in wheel.namelist() if name.partition("/")[0] in PACKAGES}
    ours = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in ours if "__pycache__" not in path.parts}
    assert inside == wanted
    assert {f"{package}/py.typed" for package in PACKAGES} <= inside
