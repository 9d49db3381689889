"""`--config FILE`: settings of a training from a TOML file, or from the config.json of a run."""

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import click

from trainer.config import FitConfig

NOT_ASKED: Final = frozenset({"together"})
"""Settings that have no option."""
SETS_ALL: Final = "trainer.config_file.sets_all"
"""Key of click's `Context.meta`: whether the file sets all options, as a config.json does, so that no preset is
left."""
NAMES: Final = tuple(each.name for each in fields(FitConfig) if each.name not in NOT_ASKED)


class ConfigFile(click.ParamType[Path]):
    """A file of settings. They become defaults of the command's options, so options that are given override them."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        assert ctx is not None
        if value == "":
            self.fail("an empty name", param, ctx)
        path = Path(value)
        try:
            text = path.read_text("utf-8-sig")  # some editors write a byte order mark
            settings = read_settings(text, json_file=(is_json := text.lstrip().startswith("{")))
        except OSError as error:
            self.fail(f"{value} cannot be read ({error.strerror})", param, ctx)
        except UnicodeDecodeError:
            self.fail(f"{value}: it is no text in UTF-8", param, ctx)
        except ValueError as error:
            self.fail(f"{value}: {error}", param, ctx)
        options = {each.name: each for each in ctx.command.params if isinstance(each, click.Option)}
        found = {}
        for name, setting in settings.items():
            try:
                found[name] = check_setting(setting, options[name], ctx)
            except (click.BadParameter, ValueError) as error:
                reason = error.message if isinstance(error, click.BadParameter) else error
                self.fail(f"{value}{line_of(text, name)}: {name}: {reason}", param, ctx)
        ctx.default_map = {**(ctx.default_map or {}), **found}
        ctx.meta[SETS_ALL] = is_json
        return path


def read_settings(text: str, *, json_file: bool) -> dict[str, Any]:
    """Settings by the names of FitConfig, from TOML, or from the JSON of a run's config.json, whose `asked` are taken.

    Names may have `-` for `_`. Raises ValueError for a file that is neither, and for a key that is no setting, with its
    line.
    """
    if json_file:
        try:
            config = json.loads(text)
            asked = dict(config["asked"].items())
        except json.JSONDecodeError as error:
            raise ValueError(f"it is no config.json of a run ({error})") from error
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("it is no config.json of a run") from error
        if config.get("members"):
            raise ValueError("it is the config.json of an ensemble; give that of one of its runs")
        given = {name: value for name, value in asked.items() if value is not None and name not in NOT_ASKED}
    else:
        try:
            given = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            if "overwrite" in str(error):  # tomllib gives the end of the second value as its place
                check_once(text)
            quotes = "; words need quotes" if "Invalid value" in str(error) else ""
            raise ValueError(f"it is no TOML file ({error}{quotes})") from error
    settings: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in NAMES:
            where = line_of(text, key).removeprefix(", ")
            raise ValueError(f"{key!r} ({where or 'a key'}) is no setting of a training; see `trainer fit --help`")
        if name in settings:
            check_once(text)
        settings[name] = value
    return settings


def check_setting(value: Any, option: click.Option, context: click.Context) -> Any:
    """The value of an option, as its default. Raises ValueError or click.BadParameter for one that it cannot have."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise ValueError(f"it must be true or false, not {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"it must be a number or a word, not {value!r}")
    option.type_cast_value(context, str(value))  # as text: 30.5 epochs are refused, not rounded
    return str(value)


def check_once(text: str) -> None:
    """Raises ValueError for a setting that a TOML file sets twice; "-" and "_" are the same."""
    for name in NAMES:
        first, *others = lines_of(text, name) or [0]
        if others:
            raise ValueError(f"{name} is set twice, in lines {first} and {others[0]}")


def line_of(text: str, key: str) -> str:
    """ ", line N" of a key in TOML, or of one of the keys of "asked" in JSON; "" if it is not found."""
    asked = lines_of(text, "asked") if text.lstrip().startswith("{") else []
    numbers = [number for number in lines_of(text, key) if not asked or number > asked[0]]
    return f", line {numbers[0]}" if numbers else ""


def lines_of(text: str, key: str) -> list[int]:
    """The lines that begin with a key, from 1; "-" and "_" are the same."""
    name = "[-_]".join(map(re.escape, re.split("[-_]", key)))
    pattern = re.compile(rf"""\s*(\[+\s*)?["']?{name}["']?\s*[\]=:.]""")
    return [number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)]
