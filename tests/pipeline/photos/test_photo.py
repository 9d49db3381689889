"""Any photograph's bytes come out as the RGB pixels another reader gives, or as one reason in a line."""

import struct
import sys
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
from PIL.PngImagePlugin import PngInfo

from pipeline.errors import PhotoError
from pipeline.machine import ignore_odd_metadata
from pipeline.photos.formats import MAX_PIXELS, sniff
from pipeline.photos.jpeg import with_comment
from pipeline.photos.photo import read_photo
from pipeline.storage.artifacts import SYNTHETIC

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
CASES = SHARED / "cases"
FILES = SHARED / "sets" / "files"
FORMATS = ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "JPEG2000", "AVIF", "PPM", "GIF"]
CALLED = {"WEBP": "WebP", "JPEG2000": "JPEG 2000"}  # where Pillow has another name


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """Smooth colours that are different in every corner, so that any turn or swap of channels shows."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray(np.stack([200 * x, 120 * y, 255 * x * y], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def of_clinics(name: str) -> bytes:
    """One of the shared files, and the package that it takes."""
    if not FILES.exists():
        pytest.skip("needs the shared files, which are not part of the project")
    if name.endswith(".heic"):
        pytest.importorskip("pi_heif")
    if name.endswith(".jxl"):
        pytest.importorskip("imagecodecs")
    return (FILES / name).read_bytes()


def jpeg_xl(values: np.ndarray, **options: object) -> bytes:
    return bytes(pytest.importorskip("imagecodecs").jpegxl_encode(values, lossless=True, **options))


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
        ("JPEG2000", "RGB", {}),
        ("JPEG2000", "L", {"no_jp2": True}),
        ("JPEG2000", "RGB", {"irreversible": True, "quality_layers": [20]}),
        ("AVIF", "RGB", {}),
        ("AVIF", "L", {}),
        ("PPM", "RGB", {}),
        ("PPM", "L", {}),
        ("GIF", "P", {}),
        ("GIF", "L", {}),
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


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_values_in_16_bit_files_are_scaled_by_the_bits_in_use(channels: int, kind: str, bits: int) -> None:
    """round(v * 255 / (2**bits - 1)), in whole numbers."""
    top = (1 << bits) - 1
    values = np.random.default_rng(0).integers(0, top + 1, (20, 30, channels), dtype=np.uint16)
    values[0, 0] = top
    values[..., 3:] = 65535  # opaque, whatever the colours use
    photo = read_photo(
        cv2.imencode(kind, values[..., [2, 1, 0, 3][:channels]] if channels > 1 else values)[1].tobytes()
    )
    want = (2 * 255 * values[..., :3].astype(int) + top) // (2 * top)
    np.testing.assert_array_equal(photo.image, np.broadcast_to(want, (20, 30, 3)))


@pytest.mark.parametrize("channels", [1, 3])
def test_dark_pictures_of_8_bits_widened_to_16_stay_dark(channels: int) -> None:
    dark = np.random.default_rng(0).integers(0, 12, (20, 30, channels), dtype=np.uint16)
    image = read_photo(cv2.imencode(".png", dark * 257)[1].tobytes()).image
    np.testing.assert_array_equal(image, np.broadcast_to(dark[..., ::-1], (20, 30, 3)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_black_picture_of_16_bits_is_black(channels: int) -> None:
    black = np.zeros((4, 5, channels), np.uint16)
    assert not read_photo(cv2.imencode(".png", black)[1].tobytes()).image.any()


def test_the_earlier_version_takes_the_upper_byte() -> None:
    values = np.random.default_rng(0).integers(0, 4096, (20, 30, 3), dtype=np.uint16)
    data = cv2.imencode(".png", values[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(read_photo(data, bits_in_use=False).image, values >> 8)
    np.testing.assert_array_equal(read_photo(data, bits_in_use=False).image, pillows(data))


@pytest.mark.parametrize("highest", [1, 99, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_ppm_is_scaled_by_the_highest_value_that_it_names(channels: int, highest: int) -> None:
    values = np.random.default_rng(0).integers(0, highest + 1, (20, 30, channels))
    values[0, 0] = highest
    header = f"P{5 if channels == 1 else 6}\n# a camera\n30 20\n{highest}\n".encode()
    data = header + values.astype(">u2" if highest > 255 else np.uint8).tobytes()
    want = (2 * 255 * values + highest) // (2 * highest)
    np.testing.assert_array_equal(read_photo(data).image, np.broadcast_to(want, (20, 30, 3)))
    with pytest.raises(PhotoError):
        read_photo(data[:-1])


@pytest.mark.parametrize(
    ("width", "height"), [(8, 8), (256, 256), (320, 256), (48, 40), (640, 360), (1001, 17), (5, 600)]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_xl_gives_the_pixels_that_were_encoded(width: int, height: int, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    values[..., 3:] = 255
    photo = read_photo(jpeg_xl(values.squeeze()))
    assert (photo.width, photo.height) == (width, height)
    np.testing.assert_array_equal(photo.image, np.broadcast_to(values[..., :3], (height, width, 3)))


def test_jpeg_xl_of_16_bits_is_scaled_by_the_bits_in_use() -> None:
    values = np.random.default_rng(0).integers(0, 4096, (20, 30, 3), dtype=np.uint16)
    values[0, 0] = 4095
    want = (2 * 255 * values.astype(int) + 4095) // (2 * 4095)
    np.testing.assert_array_equal(read_photo(jpeg_xl(values)).image, want)


def test_pictures_in_the_formats_of_clinics_show_what_their_twin_shows() -> None:
    twin = pillows(of_clinics("twin.png")).astype(int)
    names = ["a.jp2", "b.avif", "p.ppm", "twelve_bit.png", "sixteen_bit.png", "two_pages.tif", "c.heic", "d.jxl"]
    for name in names:
        assert np.abs(read_photo(of_clinics(name)).image - twin).mean() <= 4, name


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP", "AVIF"])
def test_of_several_pages_the_first_is_read_and_that_is_said(kind: str) -> None:
    one, other = (image.convert("P") if kind == "GIF" else image for image in (picture(), ImageOps.invert(picture())))
    several = read_photo(encoded(one, kind, save_all=True, append_images=[other]))
    alone = read_photo(encoded(one, kind))
    assert (several.first_page, alone.first_page) == (True, False)
    assert np.abs(several.image.astype(int) - alone.image).mean() <= (3 if kind in ("AVIF", "WEBP") else 0)


@pytest.mark.parametrize(
    ("package", "head", "reason"),
    [
        ("pi_heif", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"^HEIC: needs .*: pip install 'fundus-grading\[heic\]'$"),
        ("imagecodecs", b"\xff\x0a\0\0", r"^JPEG XL: needs .*: pip install 'fundus-grading\[jxl\]'$"),
        ("pydicom.filereader", bytes(128) + b"DICM", r"^DICOM: needs .*: pip install 'fundus-grading\[dicom\]'$"),
        ("imagecodecs", b"\0\0\0\x0cJXL \r\n\x87\n", r"^JPEG XL: needs .*: pip install 'fundus-grading\[jxl\]'$"),
    ],
)
def test_a_format_whose_package_is_missing_is_refused_by_name(
    package: str, head: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PhotoError, match=reason):
        read_photo(head + bytes(100))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("cover", [None, 8, 40])
def test_a_lossless_jpeg_is_averaged_down(channels: int, cover: int | None) -> None:
    """libjpeg does not scale it, and simplejpeg crashed where it was asked to."""
    values = np.random.default_rng(0).integers(0, 256, (120, 160, channels), dtype=np.uint8).squeeze()
    data = bytes(pytest.importorskip("imagecodecs").jpeg8_encode(values, lossless=True))
    photo = read_photo(data, cover=cover)
    assert photo.scale == {None: 1, 8: 4, 40: 1}[cover]
    want = Image.fromarray(values).reduce(photo.scale).convert("RGB")
    np.testing.assert_array_equal(photo.image, np.asarray(want))


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
    elif kind == "PPM":
        data = bytearray(b"P6\n30000 30000\n255\n")
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", 60000, 60000)
    elif kind == "JPEG2000":
        header, stream = data.index(b"ihdr") + 4, data.index(b"\xff\x4f\xff\x51") + 8
        data[header : header + 8] = data[stream : stream + 8] = struct.pack(">LL", 30000, 30000)
    elif kind == "AVIF":
        place = data.index(b"ispe") + 8
        data[place : place + 8] = struct.pack(">LL", 16000, 16000)
    return bytes(data)


def test_bombs_in_heic_and_jpeg_xl_are_refused_from_the_header() -> None:
    heic = bytearray(of_clinics("c.heic"))
    place = heic.index(b"ispe") + 8
    heic[place : place + 8] = struct.pack(">LL", 16000, 16000)
    with pytest.raises(PhotoError):  # libheif has a limit of its own, or finds the size to be wrong
        read_photo(bytes(heic))
    pytest.importorskip("imagecodecs")
    # SizeHeader: not small; the height less one in 30 bits, as the selector 3 says; the ratio 1, a square.
    bits = 3 << 1 | (30000 - 1) << 3 | 1 << 33
    with pytest.raises(PhotoError, match="30000 x 30000 pixels, more than"):
        read_photo(b"\xff\x0a" + bits.to_bytes(8, "little") + bytes(50))


def test_a_jpeg_2000_whose_codestream_is_larger_than_its_header_says_is_refused() -> None:
    data = bytearray(encoded(picture(), "JPEG2000"))
    stream = data.index(b"\xff\x4f\xff\x51") + 8
    data[stream : stream + 8] = struct.pack(">LL", 30000, 30000)
    with pytest.raises(PhotoError, match="damaged JPEG 2000: its header and its codestream differ in size"):
        read_photo(bytes(data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM", "GIF", "JPEG2000", "AVIF"])
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


@pytest.mark.parametrize("name", ["c.heic", "d.jxl"])
def test_a_cut_off_heic_or_jpeg_xl_never_gives_part_of_a_picture_either(name: str) -> None:
    data = of_clinics(name)
    whole = read_photo(data).image
    for length in np.linspace(0, len(data) - 1, 40, dtype=int):
        try:
            image = read_photo(data[:length]).image
        except PhotoError:
            continue
        np.testing.assert_array_equal(image, whole)


@pytest.mark.parametrize("name", ["c.heic", "d.jxl"])
def test_threads_read_heic_and_jpeg_xl_as_one_thread_does(name: str) -> None:
    data = of_clinics(name)
    whole = read_photo(data).image
    with ThreadPoolExecutor(8) as pool:
        for photo in pool.map(read_photo, [data] * 40):
            np.testing.assert_array_equal(photo.image, whole)


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
        (b"GIF89a\x01\0\x01\0", "damaged GIF"),
        (b"\xff", "not a JPEG, PNG, TIFF, BMP, WebP, JPEG 2000, AVIF, HEIC, JPEG XL, PPM, GIF or DICOM"),
        (b"P6 is how this text begins", "not an image: text"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "not a JPEG, PNG"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "cut off"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\0", "cut off"),
        (b"\xff\xd8\xff\xe0 and then nothing of the kind", "damaged JPEG|cut off"),
        (b"RIFF\x08\0\0\0WEBPVP8 ", "damaged WebP"),
    ],
)
def test_what_is_no_photograph_is_told_apart(data: bytes, reason: str) -> None:
    with pytest.raises(PhotoError, match=reason) as caught:
        read_photo(data)
    assert "\n" not in caught.value.message


PICTURES = {kind: encoded(picture(), kind) for kind in FORMATS}


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
    data = bytearray(PICTURES[kind])
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
    assert sniff(encoded(picture(), kind)[:16]) == CALLED.get(kind, kind)
    assert sniff(encoded(picture(), kind)[:2]) is None


@pytest.mark.parametrize(
    "head", [b"", b"BM is how this text begins", b"%PDF-1.7", b"GIF89", b"P6 2 mg", b"RIFF\0\0\0\0WAVEfmt "]
)
def test_other_files_are_none_of_the_formats(head: bytes) -> None:
    assert sniff(head) is None


def test_a_comment_changes_no_pixel_and_is_the_one_that_pillow_reads() -> None:
    for jpeg in (encoded(picture(), "JPEG"), encoded(picture(), "JPEG", exif=Image.Exif())):
        marked = with_comment(jpeg, "drawn")
        assert len(marked) == len(jpeg) + 4 + len("drawn")
        with Image.open(BytesIO(marked)) as there:
            assert there.info["comment"] == b"drawn"
            np.testing.assert_array_equal(there, Image.open(BytesIO(jpeg)))
        np.testing.assert_array_equal(read_photo(marked).image, read_photo(jpeg).image)


def test_a_drawn_eye_says_so_in_a_comment_a_text_chunk_or_exif() -> None:
    text, exif = PngInfo(), Image.Exif()
    text.add_text("Software", SYNTHETIC)
    exif[305] = SYNTHETIC  # Software
    marked = (
        with_comment(encoded(picture(), "JPEG"), SYNTHETIC),
        encoded(picture(), "PNG", pnginfo=text),
        encoded(picture(), "JPEG", exif=exif),
    )
    assert all(read_photo(data).synthetic for data in marked)
    assert not any(read_photo(encoded(picture(), kind)).synthetic for kind in ("JPEG", "PNG"))
