from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image

from pipeline.cache.cache import open_cache
from pipeline.loading.loaders import open_loader
from tests.conftest import write_cache
from tests.trainer.conftest import Trained
from trainer.inference.gradcam import grad_cam, overlay
from trainer.network.model import load_model
from trainer.reporting.gallery import SURE, WORST, pictures, surest_right, worst_mistakes


def predictions(*rows: tuple[str, int, int, float]) -> pd.DataFrame:
    """(id, grade, predicted, its probability); the other grades share the rest."""
    table = pd.DataFrame(rows, columns=["id", "grade", "predicted", "sure"])
    for grade in range(5):
        table[f"p{grade}"] = np.where(table["predicted"] == grade, table["sure"], (1 - table["sure"]) / 4)
    return table.drop(columns="sure")


def test_the_worst_mistake_is_the_most_grades_off_and_then_the_surest() -> None:
    table = predictions(("a", 0, 1, 0.9), ("b", 4, 0, 0.4), ("c", 0, 4, 0.6), ("d", 2, 2, 0.9), ("e", 4, 2, 0.9))
    assert worst_mistakes(table)["id"].tolist() == ["c", "b", "e", "a"]
    assert worst_mistakes(predictions(("a", 0, 0, 0.9))).empty
    many = predictions(*((f"{n:02}", 0, 4, 0.5) for n in range(30)))
    assert worst_mistakes(many)["id"].tolist() == [f"{n:02}" for n in range(WORST)]


def test_all_grades_have_a_turn_among_the_surest() -> None:
    healthy = [(f"healthy{n:02}", 0, 0, 0.99 - n / 100) for n in range(20)]
    table = predictions(*healthy, ("sick1", 4, 4, 0.3), ("sick2", 4, 4, 0.4), ("wrong", 4, 0, 0.99))
    chosen = surest_right(table)["id"].tolist()
    assert chosen == [*(f"healthy{n:02}" for n in range(SURE - 2)), "sick2", "sick1"]
    assert surest_right(predictions(("wrong", 4, 0, 0.99))).empty


def test_a_picture_is_of_its_photograph_and_its_heat_of_what_the_model_saw(trained: Trained, tmp_path: Path) -> None:
    colours = {"b_left": (200, 80, 40), "a_left": (90, 160, 60), "c_left": (60, 60, 190)}
    ramp = np.linspace(0.2, 1, 96)[:, None, None]  # smooth, so that JPEG costs little
    photographs = {id: np.broadcast_to(ramp * colour, (96, 96, 3)).astype(np.uint8) for id, colour in colours.items()}
    cache = open_cache(write_cache(tmp_path / "cache", photographs))
    model, metadata = load_model(trained.run / "model.safetensors")
    chosen = pd.DataFrame({"id": list(colours), "grade": [0, 1, 2], "predicted": [4, 3, 2], "sure": 0.5})
    found = pictures(cache, model, replace(metadata, size=64), chosen)
    assert [(picture.id, picture.grade, picture.predicted) for picture in found] == [
        ("b_left", 0, 4),
        ("a_left", 1, 3),
        ("c_left", 2, 2),
    ]

    with open_loader("torchvision", cache, split="train", batch_size=3, size=64) as loader:
        (batch,) = loader.epoch(0)
    ids = cache.manifest["id"].iloc[batch.rows.numpy()].tolist()
    for picture in found:
        place = ids.index(picture.id)
        heat = grad_cam(model, batch.images[place : place + 1], torch.tensor([picture.predicted]))[0]
        wanted = overlay(photographs[picture.id], cv2.resize(heat, (96, 96), interpolation=cv2.INTER_LINEAR))
        assert difference(picture.photo, photographs[picture.id]) < 3
        assert difference(picture.heat, wanted) < 3


def difference(uri: str, picture: np.ndarray) -> float:
    """Mean of grey levels between a data: URI's picture and another."""
    shown = np.asarray(Image.open(BytesIO(b64decode(uri.partition(",")[2]))), np.int64)
    return float(abs(shown - picture).mean())
