import pytest

from trainer.config import FitConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "alexnet"),
        ("class_weights", "some"),
        ("sampling", "uniform"),
        ("loss", "hinge"),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("layer_decay", 0.0),
        ("layer_decay", 1.1),
        ("zoom", 0.8),
        ("colour", 1.2),
        ("mixup", -1.0),
        ("cutmix", float("inf")),
        ("ema", 1.0),
        ("keep", "first"),
        ("patience", 0),
        ("recipe", "worst"),
        ("stem", "large"),
        ("schedule", "steps"),
        ("loader", "webdataset"),
        ("device", "tpu"),
        ("batch", 0),
        ("size", 16),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("seed", -1),
        ("seed", 2**64),
        ("workers", 0),
        ("head_epochs", -1),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_its_value(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*got {value!r}"):
        FitConfig(**{name: value})  # type: ignore[arg-type]


def test_labels_are_smoothed_only_where_a_loss_has_labels_to_smooth() -> None:
    for loss in ("focal", "mse"):
        with pytest.raises(ValueError, match=f"label_smoothing must be 0 with the loss {loss}, got 0.1"):
            FitConfig(loss=loss, label_smoothing=0.1)


def test_patience_waits_for_a_better_epoch_so_the_last_is_not_kept() -> None:
    with pytest.raises(ValueError, match="patience must be left out where the last epoch is kept, got 3"):
        FitConfig(keep="last", patience=3)


def test_imagenets_weights_have_imagenets_stem() -> None:
    with pytest.raises(ValueError, match="stem must be imagenet or coarse with ImageNet's weights, got 'small'"):
        FitConfig(stem="small", weights="imagenet")


def test_a_run_of_no_epochs_is_refused() -> None:
    for weights, head_epochs in (("imagenet", 0), ("none", 3)):
        with pytest.raises(ValueError, match="epochs must be at least 1"):
            FitConfig(weights=weights, head_epochs=head_epochs, epochs=0)


def test_the_head_comes_first_then_everything() -> None:
    config = FitConfig(head_epochs=2, epochs=1)
    assert [config.phase(epoch) for epoch in range(config.total_epochs)] == ["head", "head", "finetune"]
