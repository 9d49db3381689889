"""Photographs become the training pixels that a careful person would make by hand, every time the same."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import get_sampling

from pipeline.errors import PhotoError
from pipeline.photos.photo import read_photo
from pipeline.photos.preparation import EARLIER_VERSION, VERSION, Prepared, Recipe, prepare

SHARED = Path(__file__).resolve().parents[3].parent / "shared"


def eye(width: int, height: int, cx: float, cy: float, radius: float) -> Image.Image:
    """A smooth disc with a fine pattern, sharp at its rim, in a black frame."""
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    light = 130 + 60 * np.sin(x / radius * 9) * np.cos(y / radius * 7)
    light = light * np.clip(radius - np.hypot(x - cx, y - cy) + 0.5, 0, 1)
    return Image.fromarray((light[..., None] * (1.0, 0.6, 0.3)).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def as_photographed(image: NDArray[np.uint8]) -> Image.Image:
    """The picture (h, w, 3) with a level more or less in three lit pixels: one of three colours is taken for a mask."""
    lit = np.flatnonzero(image.reshape(-1, 3).max(axis=1))
    noisy = image.copy().reshape(-1, 3)
    noisy[lit[[len(lit) // 2, len(lit) // 3, len(lit) // 4]], (0, 1, 2)] -= 1
    return Image.fromarray(noisy.reshape(image.shape))


def pixels(prepared: Prepared) -> NDArray[np.int64]:
    return np.asarray(Image.open(BytesIO(prepared.jpeg)), dtype=np.int64)


def within(size: int, share: float) -> NDArray[np.bool_]:
    """The pixels of a crop that lie within a share of the disc's radius."""
    centres = np.arange(size) + 0.5 - size / 2
    return np.hypot(centres, centres[:, None]) < share * size / 2


def fidelity(data: bytes, made: Prepared) -> float:
    """PSNR, in dB, against decoding in full and one Lanczos resize by Pillow, within the disc.

    Left out: the rim, and a few pixels along the border of a frame that cuts the disc, where black is mixed in.
    """
    image = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    got = pixels(made)
    (cx, cy, radius), size = made.disc, len(got)
    margin = math.ceil(max(0, radius - cx, radius - cy, cx + radius - image.width, cy + radius - image.height))
    box = (cx - radius + margin, cy - radius + margin, cx + radius + margin, cy + radius + margin)
    want = np.asarray(ImageOps.expand(image, margin).resize((size, size), Image.Resampling.LANCZOS, box=box))
    step = 2 * radius / size
    centres = (np.arange(size) + 0.5) * step - radius
    x, y = centres + cx, centres[:, None] + cy
    rim = 5 * max(step, 1)
    inside = np.hypot(x - cx, y - cy) < radius - rim
    inside &= (x > rim) & (x < image.width - rim) & (y > rim) & (y < image.height - rim)
    assert inside.mean() > 0.3
    return 10 * math.log10(255**2 / np.mean((got[inside] - want[inside].astype(float)) ** 2))


def folder(*parts: str) -> Path:
    if not SHARED.exists():
        pytest.skip("needs the shared data, which is not part of the project")
    return SHARED.joinpath(*parts)


@pytest.mark.parametrize(
    ("settings", "quoted"),
    [
        ({"size": 31}, "31"),
        ({"size": 4097}, "4097"),
        ({"quality": 0}, "0"),
        ({"quality": 101}, "101"),
        ({"enhance": "sharpen"}, "'sharpen'"),
    ],
)
def test_impossible_recipes_are_refused_and_the_bad_value_is_quoted(settings: dict[str, object], quoted: str) -> None:
    with pytest.raises(ValueError, match=quoted):
        Recipe(**settings)


def test_recipes_survive_json_and_cannot_be_changed() -> None:
    recipe = Recipe(size=224, quality=90, enhance="clahe")
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    with pytest.raises(FrozenInstanceError):
        recipe.size = 256


@pytest.mark.parametrize("broken", [{}, {"size": "512"}, {"version": VERSION + 1}, {"version": "3"}, {"enhance": None}])
def test_what_is_no_recipe_that_can_be_made_here_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"recipe|version"):
        Recipe.from_dict({**Recipe().as_dict(), **broken} if broken else {})


def test_digests_tell_recipes_apart() -> None:
    recipes = [Recipe(), Recipe(size=511), Recipe(quality=94), Recipe(enhance="graham"), Recipe(enhance="clahe")]
    recipes += [Recipe(enhance=enhance, version=version) for enhance, version in EARLIER_VERSION.items()]
    digests = {recipe.digest for recipe in recipes}
    assert len(digests) == len(recipes)
    assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in digests)
    assert Recipe(512, 95, "none").digest == Recipe().digest
    assert Recipe(version=1).digest == "363b46c900ea5425"  # as in the caches and weights of the earlier version


@pytest.mark.parametrize("enhance", ["none", "graham", "clahe"])
@pytest.mark.parametrize("size", [64, 225])
def test_what_comes_out_is_a_plain_square_jpeg_with_a_black_frame(size: int, enhance: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encoded(eye(320, 240, 160, 120, 110), "JPEG", exif=exif)
    made = prepare(data, Recipe(size, 95, enhance))
    image = Image.open(BytesIO(made.jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size))
    assert get_sampling(image) == 0  # 4:4:4
    assert not image.getexif()
    assert (made.width, made.height, made.flags) == (320, 240, ())
    frame = pixels(made)
    frame[1:-1, 1:-1] = 0
    assert frame.max() <= 24  # what JPEG leaves of black beside light
    assert prepare(data, Recipe(size, 95, enhance)) == made


@pytest.mark.parametrize(
    ("width", "height", "cx", "cy", "radius"),
    [
        (320, 240, 160, 120, 110),
        (320, 240, 161.3, 118.6, 139.7),  # cut at top and bottom
        (320, 240, 70, 120, 110),  # cut at the left
        (900, 300, 450, 150, 120),
        (240, 400, 120, 200, 115),
    ],
)
@pytest.mark.parametrize("size", [128, 300])
def test_the_crop_is_what_pillow_makes_of_it(
    width: int, height: int, cx: float, cy: float, radius: float, size: int
) -> None:
    data = encoded(eye(width, height, cx, cy, radius))
    made = prepare(data, Recipe(size, 100))
    assert made.disc == pytest.approx((cx, cy, radius), abs=0.01 * radius)
    assert fidelity(data, made) > 45


@pytest.mark.parametrize(("width", "height"), [(333, 251), (251, 333), (640, 207)])
@pytest.mark.parametrize("size", [100, 255])
def test_a_circle_stays_a_circle(width: int, height: int, size: int) -> None:
    radius = 0.4 * min(width, height)
    image = pixels(prepare(encoded(eye(width, height, width / 2, height / 2, radius)), Recipe(size)))
    lit = image[..., 0] > 60
    across, down = np.ptp(np.flatnonzero(lit.any(axis=0))) + 1, np.ptp(np.flatnonzero(lit.any(axis=1))) + 1
    assert abs(across - down) <= 0.02 * size
    assert across >= 0.97 * size


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_photograph_gives_the_same_pixels(orientation: int) -> None:
    upright = eye(480, 320, 230, 170, 140)
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    undo = Image.Exif()
    undo[0x0112] = back
    stored = ImageOps.exif_transpose(Image.open(BytesIO(encoded(upright, exif=undo))))
    made = prepare(encoded(stored, exif=exif), Recipe(128))
    want = prepare(encoded(upright), Recipe(128))
    assert made[1:] == want[1:]
    np.testing.assert_array_equal(pixels(made), pixels(want))


@pytest.mark.parametrize("radius", [170, 250, 550])
def test_scaled_decoding_never_costs_detail(radius: int) -> None:
    """A small disc in a large frame is decoded again at a finer scale, a large one at a coarser one."""
    data = encoded(eye(1600, 1200, 800, 600, radius), "JPEG", quality=98, subsampling=0)
    made = prepare(data, Recipe(128, 100))
    assert fidelity(data, made) > 45


def test_without_a_disc_the_whole_frame_is_kept() -> None:
    x, y = np.meshgrid(np.arange(200), np.arange(100))
    data = encoded(Image.fromarray(np.stack([x + 40, 2 * y + 40, (x + y) // 2], axis=-1).astype(np.uint8)))
    made = prepare(data, Recipe(100, 100))
    assert (made.disc, made.flags) == (None, ("no_disc",))
    want = read_photo(data).image.reshape(50, 2, 100, 2, 3).mean(axis=(1, 3))
    image = pixels(made)
    assert np.abs(image[30:70, 5:-5] - want[5:-5, 5:-5]).max() <= 8
    assert image[:24].max() <= 8
    assert image[76:].max() <= 8


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_frames_are_flagged(level: int) -> None:
    made = prepare(encoded(Image.new("RGB", (300, 200), (level,) * 3)), Recipe(64, enhance="graham"))
    assert (made.disc, made.flags) == (None, ("blank", "no_disc"))


def test_light_beside_the_disc_widens_the_square_and_is_flagged() -> None:
    image = eye(400, 300, 250, 150, 120)
    image.paste((255, 255, 255), (10, 20, 60, 40))
    made = prepare(encoded(image), Recipe(128))
    assert made.flags == ("widened",)
    assert (pixels(made).min(axis=2) > 200).any()


@pytest.mark.parametrize("enhance", ["none", "graham", "clahe"])
@pytest.mark.parametrize("background", ["white", "grey", "noise"])
def test_a_background_that_is_not_black_is_made_black(background: str, enhance: str) -> None:
    image = np.asarray(eye(640, 512, 320, 256, 235.5)).copy()
    outside = image.max(axis=2) == 0
    noise = np.random.default_rng(0).integers(0, 70, image.shape)
    image[outside] = {"white": 255, "grey": 128, "noise": noise[outside]}[background]
    made = prepare(encoded(Image.fromarray(image)), Recipe(256, enhance=enhance))
    assert made.flags == ()
    assert made.disc == pytest.approx((320, 256, 235.5), abs=0.01 * 235.5)
    assert pixels(made)[~within(256, 1.01)].max() <= 24  # what JPEG leaves of black beside light
    black = np.where(outside[..., None], 0, image)
    want = pixels(prepare(encoded(Image.fromarray(black)), Recipe(256, enhance=enhance)))
    assert np.abs(pixels(made) - want)[within(256, 0.8)].mean() < (6 if enhance == "clahe" else 2)


def test_nearly_white_photographs_are_flagged() -> None:
    image = np.asarray(eye(320, 240, 160, 120, 110)).copy()
    image[image.max(axis=2) > 0] = (250, 225, 200)
    assert prepare(encoded(as_photographed(image)), Recipe(64)).flags == ("overexposed",)


def test_an_ultra_wide_field_is_flagged_and_whole() -> None:
    x, y = np.arange(1300) + 0.5 - 650, np.arange(1024)[:, None] + 0.5 - 512
    inside = np.hypot(x / 630, y / 496) < 1
    made = prepare(encoded(as_photographed((inside[..., None] * (120, 140, 5)).astype(np.uint8))), Recipe(260))
    assert made.flags == ("wide_field",)
    assert made.disc == pytest.approx((650, 512, 630), abs=6)
    lit = pixels(made)[..., 1] > 70
    assert np.ptp(np.flatnonzero(lit.any(axis=0))) == pytest.approx(260, abs=5)
    assert np.ptp(np.flatnonzero(lit.any(axis=1))) == pytest.approx(260 * 496 / 630, abs=5)


def test_a_mask_is_no_photograph() -> None:
    mask = np.zeros((120, 160, 3), np.uint8)
    mask[40:60, 50:80], mask[70:80, 50:80] = 255, 128
    with pytest.raises(PhotoError, match="a mask or a drawing, no photograph"):
        prepare(encoded(Image.fromarray(mask)), Recipe(64))
    assert prepare(encoded(Image.fromarray(np.zeros_like(mask))), Recipe(64)).flags == ("blank", "no_disc")


def test_weights_of_the_earlier_version_get_the_pixels_that_they_were_trained_on() -> None:
    """The earlier version takes every background for black, and so finds no disc on white."""
    image = np.asarray(eye(640, 512, 320, 256, 235.5)).copy()
    image[image.max(axis=2) == 0] = 255
    earlier = prepare(encoded(Image.fromarray(image)), Recipe(128, version=EARLIER_VERSION["none"]))
    assert (earlier.disc, earlier.flags) == (None, ("no_disc",))
    assert pixels(earlier)[30:98, 2:4].min() > 200


@pytest.mark.parametrize(("width", "height"), [(1, 1), (28, 28), (33, 17), (3, 40)])
def test_tiny_photographs_are_enlarged(width: int, height: int) -> None:
    radius = 0.45 * min(width, height)
    made = prepare(encoded(eye(width, height, width / 2, height / 2, radius)), Recipe(64))
    assert pixels(made).shape == (64, 64, 3)
    assert (made.width, made.height) == (width, height)


def test_strips_are_no_photographs() -> None:
    with pytest.raises(PhotoError, match="4000 x 20 pixels: a strip"):
        prepare(encoded(Image.new("RGB", (4000, 20))), Recipe(64))


def flat_eye(level: int) -> bytes:
    image = np.asarray(eye(300, 300, 150, 150, 140)) > 0
    return encoded(as_photographed(image.any(axis=2, keepdims=True).repeat(3, 2).astype(np.uint8) * np.uint8(level)))


def test_graham_makes_what_is_even_middle_grey_and_what_is_outside_black() -> None:
    image = pixels(prepare(flat_eye(90), Recipe(240, 100, "graham")))
    assert np.abs(image[within(240, 0.87)] - 128).max() <= 6
    assert image[~within(240, 0.93)].max() <= 24


@pytest.mark.parametrize("bar", [0, 12], ids=["by its frame", "by a black bar"])
def test_graham_leaves_no_trace_of_where_the_camera_cut_the_disc(bar: int) -> None:
    """The disc reaches past the frame by 40 pixels of 280 at the top and, with the bar, by 52 at the bottom."""
    image = np.array(Image.open(BytesIO(flat_eye(90))))[50:250]
    image[len(image) - bar :] = 0
    graham = pixels(prepare(encoded(Image.fromarray(image)), Recipe(240, 100, "graham")))
    top, bottom = round(40 * 240 / 280), round((240 - bar) * 240 / 280)
    inside = within(240, 0.87)
    inside[: top + 4] = inside[bottom - 4 :] = False
    assert np.abs(graham[inside] - 128).max() <= 6
    assert max(graham[: top - 4].max(), graham[bottom + 4 :].max()) <= 24


def test_graham_raises_local_contrast_fourfold() -> None:
    image = np.array(Image.open(BytesIO(flat_eye(90))))
    image[150, 150] += 20  # a dot far smaller than the blur, so 4 x its contrast remains
    plain = pixels(prepare(encoded(Image.fromarray(image)), Recipe(280, 100)))
    graham = pixels(prepare(encoded(Image.fromarray(image)), Recipe(280, 100, "graham")))
    assert graham[130:150, 130:150].max() - 128 == pytest.approx(4 * (plain[130:150, 130:150].max() - 90), rel=0.15)


def test_clahe_raises_contrast_within_the_disc_and_leaves_black_outside() -> None:
    data = encoded(eye(300, 300, 150, 150, 140).point(lambda v: v // 4))
    plain, clahe = (pixels(prepare(data, Recipe(240, enhance=enhance))) for enhance in ("none", "clahe"))
    inside = within(240, 0.95)
    assert clahe[inside].std() > 1.2 * plain[inside].std()
    assert clahe[~within(240, 1.05)].max() <= 24


def test_threads_make_what_one_thread_makes() -> None:
    files = [encoded(eye(320, 240, 150 + k, 120, 100), "JPEG") for k in range(8)]
    make = partial(prepare, recipe=Recipe(96, enhance="clahe"))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(make, files * 3)) == list(map(make, files)) * 3


@pytest.mark.parametrize("name", ["492_right.jpeg", "25313_right.jpeg", "white.jpeg", "flat128.png"])
def test_blank_cases(name: str) -> None:
    made = prepare(folder("cases", "B15", "data", "train", name).read_bytes(), Recipe(64))
    assert "blank" in made.flags


@pytest.mark.parametrize("name", ["dim03", "dim05", "dim10", "dim20"])
def test_dim_cases_keep_their_disc(name: str) -> None:
    made = prepare(folder("cases", "B16", "data", "train", f"{name}.png").read_bytes(), Recipe(64))
    assert made.disc == pytest.approx((160, 120, 0.46 * 240), abs=3)


def test_clipped_cases_lose_no_retina() -> None:
    for path in sorted(folder("cases", "B17", "data", "train").iterdir()):
        data = path.read_bytes()
        made = prepare(data, Recipe(200, 100))
        cx, cy, radius = made.disc
        y, x = np.nonzero(read_photo(data).image.max(axis=2) > 30) + np.array([[0.5], [0.5]])
        kept = (abs(x - cx) < radius) & (abs(y - cy) < radius)
        assert kept.sum() >= 0.99 * len(kept), path.name


def test_full_size_photographs_keep_their_detail() -> None:
    for path in sorted(folder("data", "fullres", "train").iterdir()):
        data = path.read_bytes()
        made = prepare(data, Recipe(512, 100))
        assert fidelity(data, made) > 45, path.name
