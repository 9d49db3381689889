from tests.trainer.conftest import invoke
from trainer.config import FitConfig
from trainer.presets import PRESETS, PURPOSES


def test_each_recipe_is_shown_with_what_it_sets_and_what_it_is_for() -> None:
    lines = invoke("recipes").output.splitlines()
    columns = lines[0].split()
    assert columns == ["option", "default", *PRESETS]
    shown = {line.split()[0]: line for line in lines if line.startswith("--")}
    assert shown.keys() == {f"--{name.replace('_', '-')}" for settings in PRESETS.values() for name in settings}
    assert shown["--keep"].split() == ["--keep", "best", "last", "last"]
    assert shown["--tta"].split() == ["--tta", "no", "yes", "yes", "yes"]
    assert shown["--lr"].split() == ["--lr", "0.01", "0.001", "0.02", "0.05", "0.03", "0.001", "0.03", "0.003"]
    for name, settings in PRESETS.items():
        end = lines[0].index(f" {name}") + 1 + len(name)
        for option, value in settings.items():
            line = shown[f"--{option.replace('_', '-')}"].ljust(end)
            assert line[:end].split()[-1] == ("yes" if value is True else str(value)), (name, option)
        assert f"{name}: {PURPOSES[name]}" in lines


def test_every_recipe_has_a_purpose() -> None:
    assert PURPOSES.keys() == PRESETS.keys()
    assert all(hasattr(FitConfig(), name) for settings in PRESETS.values() for name in settings)
