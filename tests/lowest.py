"""Prints every lower bound of pyproject.toml as pip's constraint, `name==bound`, for `make lowest`.

A bound has to be a release that there is. A package named twice with two bounds is a conflict that pip reports.
"""

import re
import tomllib
from itertools import chain
from pathlib import Path

ANY_VERSION = {"torch", "torchvision", "mypy", "ruff"}  # gigabytes for each torch; other opinions in each linter

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
for requirement in chain(project["dependencies"], *project["optional-dependencies"].values()):
    bound = re.match(r"([\w-]+)(?:\[.*\])?>=([\w.]+)", requirement)
    if bound and bound[1] not in ANY_VERSION:
        print(f"{bound[1]}=={bound[2]}")
