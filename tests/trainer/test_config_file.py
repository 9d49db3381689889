"""Settings in a file: a TOML file and a run's config.json set what options set, and options override them."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from trainer.cli import _asked, main
from trainer.config_file import ConfigFile, read_settings


def asked_by(*arguments: str) -> dict[str, object]:
    """The options of `fit` as it would get them."""
    command = main.commands["fit"]
    return dict(command.make_context("fit", list(arguments)).params)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text('epochs = 7\nstart-size = 0.5\nlayer_decay = 0.9\nsampling = "balanced"\ntta = true\n')
    return path


def test_a_toml_file_sets_options(file: Path) -> None:
    found = asked_by("--config", str(file))
    assert (found["epochs"], found["start_size"], found["layer_decay"]) == (7, 0.5, 0.9)
    assert (found["sampling"], found["tta"]) == ("balanced", True)
    assert found["batch"] == 32, "the default, which the file does not name"


def test_options_override_the_file_wherever_they_stand(file: Path) -> None:
    for arguments in (("--epochs", "3", "--config", str(file)), ("--config", str(file), "--epochs", "3")):
        found = asked_by(*arguments, "--no-tta")
        assert (found["epochs"], found["tta"], found["sampling"]) == (3, False, "balanced")


def test_a_config_json_gives_what_the_run_was_asked_for(tmp_path: Path) -> None:
    asked = {"epochs": 5, "recipe": "few", "size": None, "tta": False, "together": None, "start_size": 96}
    (tmp_path / "config.json").write_text(json.dumps({"asked": asked, "resolved": {**asked, "epochs": 6}}))
    found = asked_by("--config", str(tmp_path / "config.json"))
    assert (found["epochs"], found["recipe"], found["size"], found["start_size"]) == (5, "few", None, 96)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs = 3\n\nbogus = 2\n", "'bogus' (line 3) is no setting of a training"),
        ("run = 'x'\n", "'run' (line 1) is no setting of a training"),
        ("[fit]\nepochs = 3\n", "'fit' (line 1) is no setting of a training"),
        ("epochs = 30.5\n", "line 1: epochs: '30.5' is not a valid integer"),
        ("\nepochs = -3\n", "line 2: epochs: -3 is not in the range"),
        ("epochs = true\n", "line 1: epochs: it must be a number or a word, not True"),
        ("tta = 1\n", "line 1: tta: it must be true or false, not 1"),
        ("start-size = 64\nlr = 1\nstart_size = 64\n", "start_size is set twice, in lines 1 and 3"),
        ("lr = 1\n\nlr = 2\nepochs = 3\n", "lr is set twice, in lines 1 and 3"),
        ("\nlr = 1\nlr = 2", "lr is set twice, in lines 2 and 3"),
        ('{"lr": 1,\n"asked": {\n"epochs": 3,\n"lr": "fast"}}', "line 4: lr: 'fast' is not a valid float"),
        (
            '{"asked": {\n"epochs": 3\n"lr": 1}}',
            "it is no config.json of a run (Expecting ',' delimiter: line 3 column 1",
        ),
        ("epochs = [3\n", "it is no TOML file"),
        ("epochs = 3\noptimizer = adamw\n", "(Invalid value (at line 2, column 13); words need quotes)"),
        ("loss = 'wrong'\n", "line 1: loss: 'wrong' is not one of"),
    ],
)
def test_what_a_file_may_not_say_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    result = CliRunner().invoke(main, ["fit", "--config", str(tmp_path / "settings.toml")])
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"asked": [1]}')
    (tmp_path / "deep.json").write_text('{"asked": ' + "[" * 100_000)
    (tmp_path / "utf16.toml").write_bytes("epochs = 1".encode("utf-16"))
    for path, said in (
        ("other.json", "it is no config.json of a run"),
        ("deep.json", "it is no config.json of a run"),
        ("utf16.toml", "it is no text in UTF-8"),
        ("missing.toml", "cannot be read"),
    ):
        result = CliRunner().invoke(main, ["folds", "--config", str(tmp_path / path)])
        assert result.exit_code == 2
        assert said in result.stderr


def test_every_option_of_a_training_can_stand_in_a_file() -> None:
    context = click.Context(main.commands["fit"])
    names = [each.name for each in context.command.params if not isinstance(each.type, ConfigFile)]
    machine = {"run", "resume", "find_lr", "local_cache", "local_cache_gb", "help"}
    text = "\n".join(f"{name} = 0" for name in names if name not in machine)
    assert set(read_settings(text, json_file=False)) == set(names) - machine


@pytest.mark.parametrize(
    ("options", "lr", "weight_decay"),
    [((), 0.01, 0.0005), (("--optimizer", "adamw"), 0.001, 0.05), (("--optimizer", "adamw", "--lr", "0.1"), 0.1, 0.05)],
)
def test_adamw_has_its_own_defaults(options: tuple[str, ...], lr: float, weight_decay: float) -> None:
    context = main.commands["fit"].make_context("fit", list(options))
    settings = {name: value for name, value in context.params.items() if name not in ("run", "resume", "find_lr")}
    asked, _ = _asked(context, settings)
    assert (asked.lr, asked.weight_decay) == (lr, weight_decay)


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_bytes(b"\xef\xbb\xbfepochs = 7\n")
    assert asked_by("--config", str(tmp_path / "settings.toml"))["epochs"] == 7


def test_a_preset_beside_a_config_json_is_refused(tmp_path: Path) -> None:
    """It would set nothing, for the file sets all options. In a TOML file options override it as ever."""
    (tmp_path / "config.json").write_text('{"asked": {"epochs": 5}}')
    result = CliRunner().invoke(main, ["fit", "--config", str(tmp_path / "config.json"), "--recipe", "best"])
    assert result.exit_code == 2
    assert "so --recipe sets nothing; leave one of them out" in result.stderr
