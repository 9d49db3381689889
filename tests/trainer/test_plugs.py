"""Functions of the user's own, by name: what is taken, what is recorded, what is refused, and what is never called."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import RunError
from pipeline.photos.preparation import Recipe
from trainer.config import FitConfig, RunConfig, loss_named
from trainer.network.metadata import Metadata
from trainer.plugs import Plug, check_installed, describe_plug, failing, is_plug, load_function

Module = Callable[[str, str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """module("nets_a", "code") writes a module that Python finds."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


@pytest.mark.parametrize("name", ["nets:backbone", "a.b.c:d", "_x:_y"])
def test_a_function_is_named_by_its_module(name: str) -> None:
    assert is_plug(name)
    assert FitConfig(model=name).model == name
    assert loss_named(name).link == FitConfig(loss=name).link == "softmax"


@pytest.mark.parametrize("name", ["", "nets", "nets:", ":f", "a:b:c", "a/b:c", "1a:b", "a b:c", "a.:b", "a..b:c"])
def test_any_other_name_is_refused(name: str) -> None:
    for setting in ("model", "loss", "augment"):
        with pytest.raises(ValueError, match=f"{setting} must be .*package.module:function, got"):
            FitConfig(**{setting: name})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stem": "small"}, "stem must be imagenet or auto with a network of your own"),
        ({"stem": "coarse"}, "stem must be imagenet or auto with a network of your own"),
        ({"weights": "imagenet"}, "weights must be auto, none or a file with a network of your own"),
    ],
)
def test_what_only_torchvisions_resnets_have_is_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FitConfig(model="nets:backbone", **settings)
    with pytest.raises(ValueError, match="label_smoothing must be 0 with the loss nets:loss"):
        FitConfig(loss="nets:loss", label_smoothing=0.1)


@pytest.mark.parametrize("name", ["os:abort", "http.server:test", "subprocess:run", "builtins:print", "__main__:x"])
def test_functions_of_python_itself_are_never_called(name: str) -> None:
    """Weights from a stranger may name any."""
    with pytest.raises(RunError, match=f"{name} belongs to Python itself, and is never called"):
        load_function(name)


@pytest.mark.parametrize("name", ["pytest:main", "_pytest.config:console_main", "trainer.__main__:run", "pip:main"])
def test_programs_are_never_started(name: str) -> None:
    """pytest imports conftest.py of the current folder, which may be a stranger's."""
    with pytest.raises(RunError, match=f"{name} has the name by which installed programs are started"):
        load_function(name)


def test_an_import_is_announced(module: Module, caplog: pytest.LogCaptureFixture) -> None:
    name = module("plugs_said", "def f(): return 7")
    assert load_function(f"{name}:f")() == 7
    assert caplog.messages == [f"importing code from outside: {name}:f"]


def test_the_current_folder_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's folder with weights and a module beside them runs nothing when a command is given in it."""
    (tmp_path / "plugs_beside.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    with pytest.raises(RunError, match=r"finds no module plugs_beside: .*PYTHONPATH=\. for the current one"):
        load_function("plugs_beside:f")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("f = 3", "the module plugs_N has no function f"),
        ("", "the module plugs_N has no function f"),
        ("import no_such_package", "it needs the module no_such_package, which is not installed: pip install no_such"),
        ("def f(:", r"plugs_N:f fails: SyntaxError"),
        ("x = 1\ny = x / 0", r"plugs_N:f fails \(plugs_N.py, line 2\): ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", r"plugs_N:f fails \(plugs_N.py, line 1\): SystemExit"),
    ],
)
def test_a_module_that_fails_is_one_line(module: Module, text: str, said: str, request: pytest.FixtureRequest) -> None:
    name = module(f"plugs_{abs(hash(text))}", text)
    with pytest.raises(RunError, match=said.replace("plugs_N", name)) as raised:
        load_function(f"{name}:f")
    assert "\n" not in raised.value.message


def test_an_error_names_the_users_line_and_not_ours(module: Module) -> None:
    name = module("plugs_deep", "import torch\ndef f(x):\n    return torch.zeros(2).view(x)\n")
    function = load_function(f"{name}:f")
    with (
        pytest.raises(RunError, match=r"plugs_deep:f fails \(plugs_deep.py, line 3\): RuntimeError: "),
        failing(f"{name}:f"),
    ):
        function(3)


def test_the_record_has_the_packages_of_the_function_and_of_its_layers(module: Module) -> None:
    import timm

    name = module("plugs_own", "def f(): pass")
    load_function(f"{name}:f")
    record = describe_plug("model", f"{name}:f", ["torch.nn.modules.conv", "timm.layers.norm", name])
    assert record.needs == {name: "", "timm": f"timm=={timm.__version__}"}
    assert record.words == f"{name}:f, needs {name}, timm=={timm.__version__}"


def test_what_is_missing_is_named_with_the_line_that_installs_it(module: Module) -> None:
    module("plugs_there", "")
    needs = {"plugs_there": "", "no_such_nets": "no-such-nets==1.2"}
    with pytest.raises(RunError, match=r"w needs plugs_there:f, and no_such_nets .*: pip install 'no-such-nets==1.2'"):
        check_installed([Plug("model", "plugs_there:f", needs)], "plugs_there:f", "w")
    with pytest.raises(RunError, match="w needs nowhere_nets:f: Python finds no module nowhere_nets"):
        check_installed([Plug("model", "nowhere_nets:f", {"nowhere_nets": ""})], "nowhere_nets:f", "w")
    check_installed([Plug("loss", "nowhere_nets:f", {"nowhere_nets": ""})], "plugs_there:f", "w")


@pytest.mark.parametrize(
    "record",
    [
        {"option": "model", "function": "rm -rf:x"},
        {"option": "shell", "function": "a:b"},
        {"option": "model", "function": "a:b", "needs": {"a": "x'; rm -rf ~ #"}},
        {"option": "model", "function": "a:b", "needs": {"a": "https://somewhere/x.whl"}},
        {"option": "model", "function": "a:b", "needs": {"\x1b[31m": ""}},
    ],
)
def test_a_record_with_anything_else_is_no_record(record: dict[str, object]) -> None:
    """Commands print its words."""
    with pytest.raises(ValueError, match=r"is no function for|needs what are no packages"):
        Plug(**record)  # type: ignore[arg-type]
    fields = Metadata("a:b", 64, Recipe(64), epoch=1).as_dict() | {"plugs": [record]}
    with pytest.raises(ValueError, match=r"is no function for|needs what are no packages"):
        Metadata.from_header({"fundus_grading": json.dumps(fields)})


def test_config_json_keeps_the_records_and_has_no_key_without_one() -> None:
    config = RunConfig(FitConfig(), FitConfig(), "cache", "0", {}, {}, {})
    assert "plugs" not in config.as_dict()
    with_plug = RunConfig(FitConfig(), FitConfig(), "cache", "0", {}, {}, {}, plugs=[Plug("model", "a:b", {"a": ""})])
    assert with_plug.as_dict()["plugs"] == [{"option": "model", "function": "a:b", "needs": {"a": ""}}]
    assert RunConfig.from_dict(with_plug.as_dict()) == with_plug
