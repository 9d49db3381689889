"""How much of what Grad-CAM shows lies on lesions, by layer and method, on phantoms whose lesions are known.

    python benchmarks/bench_gradcam.py RUN... [--eyes 200]

RUN: runs of `trainer fit` on phantoms of another seed than SEED here. Fresh eyes are drawn, each with a mask of its
lesions, and prepared as RUN's training photographs were. Of those with retinopathy that RUN grades right, each map of
the grade is held against the mask, widened by 2 % of the picture's side:

share: the part of the map's sum that lies on lesions. hits: how often its highest place does (the pointing game: Zhang
et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016). chance: the part of the retina that lesions cover,
which is what a map that is even over the retina would have.
"""

from copy import deepcopy
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, relu

from pipeline.command_line import Guarded
from pipeline.photos.contact_sheet import decode_small
from pipeline.photos.preparation import encode, prepare
from tools.phantoms import eye as phantom
from tools.phantoms.dataset import draw_patient
from trainer.network.model import Grader, load_model
from trainer.run_folder import weights_file

SEED = 7
WIDER = 0.02
LAYERS = ("layer3", "layer4")


class Marked(phantom._Drawing):
    """A drawing that keeps where its lesions are."""

    last: "Marked"

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.lesions = np.zeros(self.through.shape[:2], bool)
        Marked.last = self

    def _mark(self, draw: object, *arguments: object) -> None:
        before = self.through.astype(np.int64), self.light.astype(np.int64)
        draw(*arguments)  # type: ignore[operator]
        for old, new in zip(before, (self.through, self.light), strict=True):
            self.lesions |= abs(old - new).max(axis=2) > 16

    def add_microaneurysms(self, number: int) -> None:
        self._mark(super().add_microaneurysms, number)

    def add_haemorrhages(self, number: int) -> None:
        self._mark(super().add_haemorrhages, number)

    def add_beads(self, veins: list[phantom.Vessel]) -> None:
        self._mark(super().add_beads, veins)

    def add_new_vessels(self, elsewhere: int) -> None:
        self._mark(super().add_new_vessels, elsewhere)

    def add_preretinal_blood(self) -> None:
        self._mark(super().add_preretinal_blood)

    def paint_background(self, pigment: phantom.Colour, cotton_wool: int) -> None:
        rng = deepcopy(self.rng)
        super().paint_background(pigment, 0)
        self.rng = rng  # the same background again, now with cotton wool
        self._mark(super().paint_background, pigment, cotton_wool)

    def paint_exudates(self, clusters: int) -> None:
        self._mark(super().paint_exudates, clusters)


def marked_eyes(number: int) -> list[tuple[bytes, NDArray[np.bool_], int]]:
    """So many JPEGs of eyes with retinopathy, the masks (h, w) of their lesions, and their grades."""
    phantom._Drawing = Marked  # type: ignore[misc]
    eyes: list[tuple[bytes, NDArray[np.bool_], int]] = []
    rng = np.random.default_rng(SEED)
    for patient in (draw_patient(SEED, number) for number in range(1, 10 * number)):
        for eye, grade in patient.grades.items():
            if grade and len(eyes) < number:
                picture = phantom.draw_eye(rng, grade, eye, patient.camera, patient.pigment)
                eyes.append((encode(picture, patient.camera.quality), Marked.last.lesions, grade))
    return eyes


def maps(model: Grader, images: Tensor, grades: Tensor) -> dict[str, Tensor]:
    """Method and layer -> (n, s, s), not negative, each map's highest 1."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        def hook(_module: object, _inputs: object, output: Tensor) -> Tensor:
            kept[name] = output if output.requires_grad else output.requires_grad_()
            return kept[name]

        return hook

    hooks = [model.backbone.get_submodule(name).register_forward_hook(keep(name)) for name in LAYERS]  # type: ignore[arg-type]
    logits = model(images).gather(1, grades[:, None]).sum()
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(logits, [kept[name] for name in LAYERS])
    heats = {}
    for name, gradient in zip(LAYERS, gradients, strict=True):
        features = kept[name].detach()
        for method, heat in (
            ("Grad-CAM", relu((gradient.mean(dim=(2, 3), keepdim=True) * features).sum(1))),
            ("HiResCAM", relu((gradient * features).sum(1))),
            ("LayerCAM", (relu(gradient) * features).sum(1)),
        ):
            heat = interpolate(heat[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            heats[f"{method}, {name}"] = heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    for method in ("Grad-CAM", "HiResCAM", "LayerCAM"):
        heats[f"{method}, mean of both"] = sum(heats[f"{method}, {name}"] for name in LAYERS) / 2  # type: ignore[assignment]
    return heats


def measure(run: Path, eyes: list[tuple[bytes, NDArray[np.bool_], int]]) -> None:
    model, metadata = load_model(weights_file(run))
    model.requires_grad_(False)
    rows: dict[str, list[tuple[float, float]]] = {}
    chances, size = [], metadata.size
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(WIDER * size) + 1,) * 2)
    for jpeg, lesions, grade in eyes:
        prepared = prepare(jpeg, metadata.recipe)
        picture = np.asarray(decode_small(prepared.jpeg, size).resize((size, size)))
        images = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
        if model(images).argmax() != grade:
            continue
        left, top, side = prepared.square
        to_photo = np.array([[side / size, 0, left], [0, side / size, top]])
        seen = cv2.warpAffine(lesions * np.float32(1), to_photo, (size, size), flags=cv2.WARP_INVERSE_MAP)
        mask = cv2.dilate((seen > 0.1).astype(np.uint8), kernel) > 0
        retina = picture.max(axis=2) > 15
        chances.append(mask[retina].mean())
        for name, heat in maps(model, images, torch.tensor([grade])).items():
            values = heat[0].numpy()
            share = values[mask].sum() / max(values.sum(), 1e-12)
            hit = mask.ravel()[values.argmax()] if values.any() else False
            rows.setdefault(name, []).append((share, hit))
    right = len(chances)
    click.echo(f"\n{run}, {size} px: {right} of {len(eyes)} eyes with retinopathy graded right\n")
    click.echo("| map | share on lesions | hits |\n|---|---|---|")
    click.echo(f"| chance | {np.mean(chances):.3f} | {np.mean(chances):.3f} |")
    for name, figures in rows.items():
        share, hit = np.mean(figures, axis=0)
        click.echo(f"| {name} | {share:.3f} | {hit:.3f} |")


@click.command(cls=Guarded)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--eyes", default=200, help="Drawn eyes with retinopathy.")
def main(runs: tuple[Path, ...], eyes: int) -> None:
    drawn = marked_eyes(eyes)
    for run in runs:
        measure(run, drawn)


if __name__ == "__main__":
    main()
