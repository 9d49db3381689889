"""Any photograph's bytes come out as the RGB pixels another reader gives, or as one reason in a line."""

import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.errors import PhotoError
from pipeline.machine import ignore_odd_metadata
from pipeline.photos.photo import MAX_PIXELS, read_photo, sniff

CASES = Path(__file__).resolve().parents[3].parent / "shared" / "cases"
FORMATS = ["JPEG", "PNG", "TIFF", "BMP", "WEBP"]


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """Smooth colours that are different in every corner, so that any turn or swap of channels shows."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray(np.stack([200 * x, 120 * y, 255 * x * y], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pillows(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def shared(case: str, name: str) -> bytes:
    if not CASES.exists():
        pytest.skip("needs the shared cases, which are not part of the project")
    return (CASES / case / "data" / "train" / name).read_bytes()


def without_segment(jpeg: bytes, marker: bytes) -> bytes:
    start = jpeg.index(marker)
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"subsampling": 0, "quality": 100}),
        ("PNG", "RGB", {}),
        ("PNG", "L", {}),
        ("PNG", "1", {}),
        ("PNG", "P", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "RGB", {"compression": "jpeg"}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "P", {}),
        ("BMP", "RGB", {}),
        ("BMP", "L", {}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
    ],
)
def test_every_format_gives_the_pixels_that_pillow_gives(kind: str, mode: str, options: dict[str, object]) -> None:
    data = encoded(picture().convert(mode), kind, **options)
    photo = read_photo(data)
    assert (photo.width, photo.height, photo.scale) == (96, 64, 1)
    assert photo.image.dtype == np.uint8
    np.testing.assert_array_equal(photo.image, pillows(data))
    np.testing.assert_array_equal(read_photo(memoryview(data)).image, photo.image)


def test_a_cmyk_jpeg_without_adobes_marker_is_read_as_one_with_it() -> None:
    data = encoded(picture().convert("CMYK"), "JPEG", quality=100)
    bare = without_segment(data, b"\xff\xee")
    assert b"Adobe" in data
    assert b"Adobe" not in bare
    np.testing.assert_array_equal(read_photo(bare).image, read_photo(data).image)
    assert np.abs(read_photo(bare).image.astype(int) - np.asarray(picture())).mean() < 3


def test_of_two_pictures_in_an_mpo_the_first_is_read() -> None:
    data = encoded(picture(), "MPO", save_all=True, append_images=[ImageOps.invert(picture())])
    np.testing.assert_array_equal(read_photo(data).image, pillows(encoded(picture(), "JPEG")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_divided_by_257(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 128 * 257, 65535 - 129, 65535]], dtype=np.uint16)
    image = read_photo(encoded(Image.fromarray(values), kind)).image
    assert image[0, :, 0].tolist() == [0, 0, 1, 1, 128, 254, 255]
    assert (image == image[..., :1]).all()


def test_16_bit_colour_is_within_a_level_of_v_by_257() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    image = read_photo(cv2.imencode(".png", values[..., ::-1])[1].tobytes()).image
    assert np.abs(image - values / 257).max() <= 1


@pytest.mark.parametrize("mode", ["F", "I"])
def test_32_bit_pixels_are_refused_with_a_cure(mode: str) -> None:
    data = encoded(Image.fromarray(np.full((8, 8), 70000, dtype=np.int32)).convert(mode), "TIFF")
    with pytest.raises(PhotoError, match="32-bit numbers: save it with 8 or 16 bits"):
        read_photo(data)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("cover", [None, 8])
def test_transparency_is_composited_on_black(kind: str, cover: int | None) -> None:
    alpha = np.repeat(np.array([0, 51, 255], np.uint8), 16)[:, None].repeat(48, axis=1)
    white = Image.fromarray(np.full((48, 48), 255, np.uint8))
    data = encoded(Image.merge("RGBA", [white] * 3 + [Image.fromarray(alpha)]), kind, lossless=True)
    photo = read_photo(data, cover=cover)
    assert photo.scale == (1 if cover is None else 2)
    assert photo.image[:: 16 // photo.scale, 0, 0].tolist() == [0, 51, 255]


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "LA"])
def test_every_other_kind_of_transparency_is_too(mode: str) -> None:
    image = Image.new("L", (4, 4), 200).convert(mode)
    if mode == "LA":
        image.putalpha(0)
        data = encoded(image, "PNG")
    else:
        key = image.getpixel((0, 0))
        data = encoded(image, "PNG", transparency=key)
    assert (read_photo(data).image == 0).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("cover", [None, 16])
def test_photographs_come_upright(kind: str, orientation: int, cover: int | None) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), kind, exif=exif)
    want = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    photo = read_photo(data, cover=cover)
    assert (photo.width, photo.height) == want.size
    small = np.asarray(want.reduce(photo.scale), dtype=int)
    assert np.abs(photo.image - small).max() <= (0 if photo.scale == 1 else 6)


@pytest.mark.parametrize("name", ["o2", "o3", "o4", "o5", "o6", "o7", "o8", "o99", "exifjunk"])
def test_odd_orientations_of_the_cases(name: str) -> None:
    want = read_photo(shared("B06", "o1.jpeg")).image.astype(int)
    assert np.abs(read_photo(shared("B06", f"{name}.jpeg")).image - want).mean() <= 3


def oddly_described(kind: str) -> bytes:
    """A photograph of whose metadata Pillow warns."""
    if kind == "JPEG":
        entries = struct.pack("<HHHLL", 1, 0x010F, 2, 5000, 26)  # a maker's name of 5000 letters that are not there
        return encoded(picture(), kind, exif=b"Exif\0\0II*\0\x08\0\0\0" + entries + bytes(8))
    if kind == "PNG":
        data, frames = encoded(picture(), kind), b"acTL" + bytes(8)  # moving, with no frame
        chunk = struct.pack(">L", 8) + frames + struct.pack(">L", zlib.crc32(frames))
        return data[:33] + chunk + data[33:]  # behind the header
    data = bytearray(encoded(picture(), kind, description="x" * 64))
    at = data.index(struct.pack("<HHL", 0x010E, 2, 65))
    data[at + 4 : at + 8] = struct.pack("<L", 10**6)  # a million letters in place of 65
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_what_becomes_of_warnings_of_odd_metadata_the_process_decides(kind: str) -> None:
    data = oddly_described(kind)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        photo = read_photo(data)
        assert warnings.filters == filters
    assert {each.category for each in warned} == {UserWarning}
    assert photo.image.shape == (64, 96, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            read_photo(data)
        ignore_odd_metadata()
        np.testing.assert_array_equal(read_photo(data).image, photo.image)


@pytest.mark.parametrize(("cover", "scale"), [(None, 1), (301, 1), (300, 2), (151, 2), (150, 4), (75, 8), (1, 8)])
def test_jpegs_are_decoded_at_the_smallest_scale_that_covers(cover: int | None, scale: int) -> None:
    data = encoded(picture(900, 600), "JPEG")
    photo = read_photo(data, cover=cover)
    assert (photo.width, photo.height, photo.scale) == (900, 600, scale)
    reference = Image.open(BytesIO(data))
    reference.draft("RGB", (900 // scale, 600 // scale))
    np.testing.assert_array_equal(photo.image, np.asarray(reference))


def test_other_formats_are_averaged_down_to_twice_what_is_to_be_covered() -> None:
    image = picture(900, 601)
    photo = read_photo(encoded(image, "PNG"), cover=75)
    assert (photo.width, photo.height, photo.scale) == (900, 601, 4)
    np.testing.assert_array_equal(photo.image, np.asarray(image.reduce(4)))


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">L", 13) + chunk + struct.pack(">L", zlib.crc32(chunk)) + b"\0\0\0\0IDAT"


def bomb(kind: str) -> bytes:
    if kind == "PNG":
        return png_header(20000, 20000)
    data = bytearray(encoded(picture(), kind))
    if kind == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", 65500, 65500)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ll", 30000, 30000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_bombs_are_refused_from_the_header(kind: str) -> None:
    with pytest.raises(PhotoError, match=r"^\d+ x \d+ pixels, more than the 120,000,000 allowed$"):
        read_photo(bomb(kind))


def test_just_under_the_limit_is_no_bomb() -> None:
    with pytest.raises(PhotoError, match="cut off"):  # the header passes, and there is nothing behind it
        read_photo(png_header(MAX_PIXELS // 10_000, 10_000))


def test_100_million_pixels_are_read_without_a_warning() -> None:
    photo = read_photo(shared("B12", "warn100mp.png"), cover=512)
    assert (photo.width, photo.height, photo.scale) == (10000, 10000, 8)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("cover", [None, 25])
def test_a_cut_off_file_never_gives_part_of_a_picture(kind: str, cover: int | None) -> None:
    data = encoded(picture(300, 200), kind)
    whole = read_photo(data, cover=cover).image
    refused = 0
    lengths = np.linspace(0, len(data) - 1, 60, dtype=int)
    for length in lengths:
        try:
            image = read_photo(data[:length], cover=cover).image
        except PhotoError:
            refused += 1
        else:  # only checksums and closing words were missing
            np.testing.assert_array_equal(image, whole)
    assert refused >= len(lengths) - 2


@pytest.mark.parametrize("cover", [None, 25])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_marker_is_cut_off(progressive: bool, cover: int | None) -> None:
    data = encoded(picture(300, 200), "JPEG", progressive=progressive)
    assert data.endswith(b"\xff\xd9")
    with pytest.raises(PhotoError, match=r"^cut off: "):
        read_photo(data[:-2], cover=cover)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "not an image: HTML text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"image,level\n10_left,0\n", "not an image: text"),
        (b"BM is how this text begins", "not an image: text"),
        (b"GIF89a\x01\0\x01\0", "not a JPEG, PNG, TIFF, BMP or WebP"),
        (b"\xff", "not a JPEG, PNG, TIFF, BMP or WebP"),
        (b"\xff\xd8\xff\xe0 and then nothing of the kind", "damaged JPEG|cut off"),
        (b"RIFF\x08\0\0\0WEBPVP8 ", "damaged WEBP"),
    ],
)
def test_what_is_no_photograph_is_told_apart(data: bytes, reason: str) -> None:
    with pytest.raises(PhotoError, match=reason) as caught:
        read_photo(data)
    assert "\n" not in caught.value.message


@given(
    kind=st.sampled_from(FORMATS),
    place=st.floats(0, 1),
    junk=st.binary(min_size=1, max_size=24),
    cover=st.sampled_from([None, 8]),
)
@example(kind="TIFF", place=0.0, junk=b"II*\0" + b"\xff" * 4, cover=None)
@settings(deadline=None, max_examples=300)
def test_damage_is_survived_or_refused_but_never_raises_anything_else(
    kind: str, place: float, junk: bytes, cover: int | None
) -> None:
    data = bytearray(encoded(picture(), kind))
    start = int(place * (len(data) - 1))
    data[start : start + len(junk)] = junk
    try:
        photo = read_photo(bytes(data), cover=cover)
    except PhotoError:
        return
    assert photo.image.shape == (-(-photo.height // photo.scale), -(-photo.width // photo.scale), 3)


def test_threads_read_what_one_thread_reads() -> None:
    files = [encoded(picture(300 + 10 * k, 200), kind) for k in range(4) for kind in FORMATS] * 3
    want = [read_photo(data, cover=60).image for data in files]
    with ThreadPoolExecutor(8) as pool:
        for image, photo in zip(want, pool.map(lambda data: read_photo(data, cover=60), files), strict=True):
            np.testing.assert_array_equal(photo.image, image)


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_known_by_their_first_16_bytes(kind: str) -> None:
    assert sniff(encoded(picture(), kind)[:16]) == kind
    assert sniff(encoded(picture(), kind)[:2]) is None


@pytest.mark.parametrize("head", [b"", b"BM is how this text begins", b"%PDF-1.7", b"GIF89a", b"RIFF\0\0\0\0WAVEfmt "])
def test_other_files_are_none_of_the_formats(head: bytes) -> None:
    assert sniff(head) is None
