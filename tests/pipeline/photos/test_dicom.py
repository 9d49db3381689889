"""DICOM files come out as the colours that were put in, whatever their header calls them, or as one reason in a line
that quotes nothing of them."""

import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
openjpeg = pytest.importorskip("openjpeg", reason="needs the extra dicom")

from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.pixels import apply_color_lut, pixel_array  # noqa: E402

from pipeline.errors import PhotoError  # noqa: E402
from pipeline.photos.dicom import read_tags  # noqa: E402
from pipeline.photos.formats import sniff  # noqa: E402
from pipeline.photos.jpeg import with_colour_model  # noqa: E402
from pipeline.photos.photo import Photo, read_photo  # noqa: E402
from tests.dicoms import EXPLICIT, dicom  # noqa: E402

FILES = Path(__file__).resolve().parents[3].parent / "shared/sets/files"
IMPLICIT, DEFLATED, BIG_ENDIAN, RLE = (f"1.2.840.10008.1.2{end}" for end in ("", ".1.99", ".2", ".5"))
BASELINE, LOSSLESS, J2K, JPEG_LS = (f"1.2.840.10008.1.2.4.{end}" for end in (50, 70, 90, 80))


def eye(width: int = 96, height: int = 64) -> np.ndarray:
    """A disc of an eye's colours on black, uint8 (height, width, 3)."""
    x, y = np.meshgrid(np.linspace(-1.5, 1.5, width), np.linspace(-1, 1, height))
    colours = np.stack([190 - 30 * x, 90 + 30 * y, 45 + 20 * x * y], axis=-1)
    return np.where(np.hypot(x, y)[..., None] < 0.9, colours, 0).astype(np.uint8)


def wide(top: int, channels: int = 3) -> np.ndarray:
    """Values of 16 bits up to `top`."""
    values = np.random.default_rng(0).integers(0, top + 1, (40, 50, channels), dtype=np.uint16)
    values[0, 0] = top
    return values.squeeze()


def scaled(values: np.ndarray, top: int) -> np.ndarray:
    grey = (2 * 255 * values.astype(int) + top) // (2 * top)
    return np.broadcast_to(grey if grey.ndim == 3 else grey[..., None], (*values.shape[:2], 3))


def ycc(values: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(values).convert("YCbCr"))


def jpeg(values: np.ndarray, **options: object) -> bytes:
    out = BytesIO()
    Image.fromarray(values).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def pydicoms(name: str) -> Path:
    """One of pydicom's own files to test with."""
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("this release of pydicom comes without it")
    return Path(str(path))


def assert_alike(data: bytes, values: np.ndarray, level: float = 3) -> None:
    for cover in (None, 16):
        photo = read_photo(data, cover=cover)
        want = np.asarray(Image.fromarray(values).convert("RGB").reduce(photo.scale)).astype(int)
        assert np.abs(photo.image - want).mean() <= level


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED, BIG_ENDIAN])
@pytest.mark.parametrize("values", [eye(), eye(95, 63), eye()[..., 0], wide(65535), wide(65535, 1)])
def test_uncompressed(values: np.ndarray, syntax: str) -> None:
    photo = read_photo(dicom(values, syntax=syntax))
    assert (photo.height, photo.width, photo.scale, photo.burned_in) == (*values.shape[:2], 1, False)
    top = 255 if values.dtype == np.uint8 else 65535
    np.testing.assert_array_equal(photo.image, scaled(values, top))


def test_planes_of_colours() -> None:
    data = dicom(eye(), stream=eye().transpose(2, 0, 1).tobytes(), PlanarConfiguration=1)
    np.testing.assert_array_equal(read_photo(data).image, eye())


def test_where_bytes_come_in_words_those_of_big_endian_are_swapped() -> None:
    data = bytearray(dicom(eye(), syntax=BIG_ENDIAN))
    at = data.index(b"\x7f\xe0\0\x10OB")
    data[at + 4 : at + 6] = b"OW"
    pixels = np.frombuffer(bytes(data[at + 12 :]), ">u2").astype("<u2").tobytes()
    data[at + 12 :] = pixels
    np.testing.assert_array_equal(read_photo(bytes(data)).image, eye())


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("channels", [1, 3])
def test_bits_that_are_said_to_be_used_scale_values(channels: int, bits: int) -> None:
    top, values = (1 << bits) - 1, wide((1 << bits - 3) - 1, channels)  # dark: the values alone would tell fewer bits
    np.testing.assert_array_equal(read_photo(dicom(values, bits=bits)).image, scaled(values, top))
    shifted = dicom(values << (16 - bits), bits=bits, HighBit=15)
    np.testing.assert_array_equal(read_photo(shifted).image, scaled(values, top))


def test_values_of_12_bits_in_files_that_say_16_are_scaled_by_12() -> None:
    np.testing.assert_array_equal(read_photo(dicom(wide(4095))).image, scaled(wide(4095), 4095))


@pytest.mark.parametrize("values", [eye()[..., 0], wide(65535, 1)])
def test_where_zero_is_white_it_comes_out_white(values: np.ndarray) -> None:
    data = dicom(values, says="MONOCHROME1")
    np.testing.assert_array_equal(read_photo(data).image, 255 - read_photo(dicom(values)).image)
    grey = eye()[..., 0]
    compressed = dicom(grey, says="MONOCHROME1", syntax=BASELINE, stream=[jpeg(grey)])
    assert np.abs(read_photo(compressed, cover=16).image[0, 0].astype(int) - 255).max() <= 3


@pytest.mark.parametrize("values", [eye(), eye()[..., 0], wide(65535), wide(65535, 1)])
def test_run_lengths(values: np.ndarray) -> None:
    dataset = pydicom.dcmread(BytesIO(dicom(values)))
    dataset.compress(RLE)
    out = BytesIO()
    dataset.save_as(out)
    np.testing.assert_array_equal(read_photo(out.getvalue()).image, read_photo(dicom(values)).image)


@pytest.mark.parametrize("says", ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "NONSENSE"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("kind", ["marked", "bare", "rgb", "rgb bare"])
def test_no_jpeg_turns_green(kind: str, subsampling: int, says: str) -> None:
    stream = jpeg(eye(), subsampling=subsampling)
    if "rgb" in kind:
        stream = jpeg(eye(), keep_rgb=True)
    if "bare" in kind:
        stream = with_colour_model(stream, None).replace(b"\x03R\x11\0G\x11\0B\x11\0", b"\x03\1\x11\0\2\x11\0\3\x11\0")
        stream = stream.replace(b"\x03R\0G\0B\0", b"\x03\1\0\2\0\3\0")
    assert_alike(dicom(eye(), says=says, syntax=BASELINE, stream=[stream]), eye(), 4)


@pytest.mark.parametrize("mark", ["RGB", "YCbCr"])
@pytest.mark.parametrize("inside", ["RGB", "YCbCr"])
def test_no_jpeg_turns_green_whose_own_mark_is_wrong(inside: str, mark: str) -> None:
    stream = jpeg(eye(), keep_rgb=True) if inside == "RGB" else jpeg(eye(), subsampling=0)
    for says in ("RGB", "YBR_FULL"):
        assert_alike(dicom(eye(), says=says, syntax=BASELINE, stream=[with_colour_model(stream, mark)]), eye(), 4)


@pytest.mark.parametrize("said", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("inside", [eye(), ycc(eye())], ids=["RGB", "YBR_FULL"])
def test_no_uncompressed_picture_turns_green(inside: np.ndarray, said: str) -> None:
    assert_alike(dicom(inside, says=said), eye(), 1)
    assert_alike(dicom(255 - eye() if said == "RGB" else ycc(255 - eye()), says=said), 255 - eye(), 1)


@pytest.mark.parametrize("said", ["RGB", "YBR_FULL"])
def test_without_black_and_white_the_header_is_believed(said: str) -> None:
    retina = np.random.default_rng(0).integers(60, 180, (40, 50, 3), dtype=np.uint8)
    values = retina if said == "RGB" else ycc(retina)
    assert_alike(dicom(values, says=said), retina, 1)
    stream = openjpeg.encode(values, photometric_interpretation=1, use_mct=False)
    assert_alike(dicom(values, says=said, syntax=J2K, stream=[stream]), retina, 1)


def test_colours_of_every_second_pixel() -> None:
    values = ycc(eye())
    shared = np.repeat(values[:, ::2, 1:], 2, axis=1)
    pairs = np.stack([values[:, ::2, 0], values[:, 1::2, 0], values[:, ::2, 1], values[:, ::2, 2]], axis=-1)
    want = Image.fromarray(np.concatenate([values[..., :1], shared], axis=2))
    data = dicom(eye(), says="YBR_FULL_422", stream=pairs.tobytes())
    whole = read_photo(dicom(np.asarray(want), says="YBR_FULL")).image
    np.testing.assert_array_equal(read_photo(data).image, whole)
    assert_alike(dicom(values, says="YBR_FULL_422"), eye(), 1)  # it says so, and has three values a pixel
    with pytest.raises(PhotoError, match=r"^cut off: "):
        read_photo(dicom(eye(), says="YBR_FULL_422", stream=pairs.tobytes()[:-2]))


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transform", [False, True])
def test_jpeg_2000(transform: bool, channels: int, bits: int) -> None:
    values = wide((1 << bits) - 1, channels)
    values = values.astype(np.uint8) if bits == 8 else values
    colour = channels == 3
    stream = openjpeg.encode(
        values, bits_stored=bits, photometric_interpretation=1 if colour else 2, use_mct=colour and transform
    )
    says = "MONOCHROME2" if not colour else "YBR_RCT" if transform else "RGB"
    data = dicom(values, says=says, syntax=J2K, stream=[stream], bits=bits)
    np.testing.assert_array_equal(read_photo(data).image, scaled(values, (1 << bits) - 1))


@pytest.mark.parametrize("said", ["RGB", "YBR_FULL", "YBR_RCT", "YBR_ICT"])
@pytest.mark.parametrize("inside", ["transformed", "plain", "YCbCr"])
def test_no_jpeg_2000_turns_green(inside: str, said: str) -> None:
    values = ycc(eye()) if inside == "YCbCr" else eye()
    stream = openjpeg.encode(values, photometric_interpretation=1, use_mct=inside == "transformed")
    assert_alike(dicom(values, says=said, syntax=J2K, stream=[stream]), eye(), 1)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("first", [0, 10])
def test_palettes(first: int, depth: int) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 1 << depth, (3, 200), dtype=np.uint16)
    values = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    tags: dict[str, object] = {}
    for colour, entries in zip(("Red", "Green", "Blue"), table, strict=True):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [200, first, depth]
        packed = entries.astype(np.uint8).tobytes() if depth == 8 else entries.astype("<u2").tobytes()
        tags[f"{colour}PaletteColorLookupTableData"] = packed
    data = dicom(values, says="PALETTE COLOR", **tags)
    want = table.T[(values.astype(int) - first).clip(0, 199)] >> (depth - 8)
    np.testing.assert_array_equal(read_photo(data).image, want)
    without = dicom(values, says="PALETTE COLOR")
    with pytest.raises(PhotoError, match="its palette is missing"):
        read_photo(without)


@pytest.mark.parametrize("values", [eye(), eye()[..., 0]])
def test_a_lossless_jpeg(values: np.ndarray) -> None:
    encode = pytest.importorskip("imagecodecs").jpeg8_encode
    data = dicom(values, syntax=LOSSLESS, stream=[bytes(encode(np.ascontiguousarray(values), lossless=True))])
    np.testing.assert_array_equal(read_photo(data).image, scaled(values, 255))
    assert read_photo(data, cover=16).scale == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("JPEG-lossy.dcm", r"^DICOM: JPEG Extended \(Process 2 and 4\) of 12 bits is not read"),
        ("JPEGLSNearLossless_08.dcm", r"^DICOM: JPEG-LS Lossy .* is not read"),
        ("CT_small.dcm", "^DICOM: pixels of 1 or 32 bits or with signs"),
        ("SC_rgb_rle_32bit.dcm", "^DICOM: pixels of 1 or 32 bits or with signs"),
        ("MR_truncated.dcm", "^cut off: "),
        ("rtdose.dcm", "^DICOM: several grey frames, as of an angiogram"),
        ("rtplan.dcm", "^DICOM: there is no picture in it"),
        ("dicomdirtests/DICOMDIR", "^DICOM: an index of other files"),
    ],
)
def test_of_pydicoms_own_files_these_are_refused_by_name(name: str, reason: str) -> None:
    with pytest.raises(PhotoError, match=reason):
        read_photo(pydicoms(name).read_bytes())


@pytest.mark.parametrize(
    "name",
    [
        *("ExplVR_BigEnd.dcm", "SC_jpeg_no_color_transform.dcm", "SC_jpeg_no_color_transform_2.dcm", "SC_rgb_jpeg.dcm"),
        *("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_+eb+cy+n2.dcm", "image_dfl.dcm"),
        *("SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm"),
        *("SC_rgb_jpeg_app14_dcmd.dcm", "SC_rgb_jpeg_dcmd.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm"),
        *("SC_rgb_rle.dcm", "SC_rgb_rle_16bit.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_rle_16bit_2frame.dcm"),
        *("SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm", "SC_rgb_small_odd_jpeg.dcm"),
        *("SC_ybr_full_422_uncompressed.dcm", "GDCMJ2K_TextGBR.dcm", "SC_rgb_gdcm_KY.dcm", "examples_palette.dcm"),
        *("examples_rgb_color.dcm", "examples_ybr_color.dcm", "examples_jpeg2k.dcm", "examples_overlay.dcm"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, as it reads what is odd in them
def test_of_pydicoms_own_files_these_look_as_pydicom_reads_them(name: str) -> None:
    path = pydicoms(name)
    dataset = pydicom.dcmread(path)
    several = int(dataset.get("NumberOfFrames") or 1) > 1
    want = pixel_array(dataset, index=0 if several else None)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        want = apply_color_lut(want, dataset) >> 8
    elif want.dtype == np.uint16:
        want = want * (255 / ((1 << dataset.BitsStored) - 1))
    photo = read_photo(path.read_bytes())
    assert np.abs(photo.image - (want if want.ndim == 3 else want[..., None]).astype(float)).max() <= 1
    assert photo.first_page == several


def test_the_files_of_clinics_show_what_their_twin_shows() -> None:
    if not FILES.exists():
        pytest.skip("needs the shared files, which are not part of the project")
    twin = np.asarray(Image.open(FILES / "twin.png").convert("RGB")).astype(int)
    for name in ("raw", "jpeg", "j2k"):
        assert np.abs(read_photo((FILES / f"{name}.dcm").read_bytes()).image - twin).mean() <= 4, name
    with pytest.raises(PhotoError, match=r"^DICOM: there is no picture in it$"):
        read_photo((FILES / "not_a_picture.dcm").read_bytes())


def test_of_several_frames_in_colour_the_first_is_read_and_that_is_said() -> None:
    both = np.stack([eye(), 255 - eye()])
    for data in (
        dicom(both, frames=2),
        dicom(both, frames=2, says="YBR_FULL_422", syntax=BASELINE, stream=[jpeg(each) for each in both]),
    ):
        assert read_photo(data).first_page
        assert_alike(data, eye())
    with pytest.raises(PhotoError, match=r"^DICOM: several grey frames, as of an angiogram"):
        read_photo(dicom(both[..., 0], frames=2))


def test_words_in_the_picture_are_told_of() -> None:
    assert read_photo(dicom(eye(), BurnedInAnnotation="YES")).burned_in
    assert not read_photo(dicom(eye(), BurnedInAnnotation="NO")).burned_in


def test_what_is_before_the_mark_does_not_count() -> None:
    data = b"II*\0\x08\0\0\0" + dicom(eye())[8:]
    assert sniff(data) == "DICOM"
    np.testing.assert_array_equal(read_photo(data).image, eye())


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED, BASELINE, J2K])
def test_bombs_are_refused_from_the_header(syntax: str) -> None:
    stream = [jpeg(eye())] if syntax in (BASELINE, J2K) else None
    with pytest.raises(PhotoError, match=r"^60000 x 50000 pixels, more than the 120,000,000 allowed$"):
        read_photo(dicom(eye(), syntax=syntax, stream=stream, Rows=50000, Columns=60000))


def test_a_deflated_bomb_is_not_inflated() -> None:
    with pytest.raises(PhotoError):
        read_photo(dicom(eye(), syntax=DEFLATED, stream=bytes(200_000_000), Rows=4, Columns=4, NumberOfFrames=10**9))


def test_run_lengths_of_a_bomb_end_with_the_picture() -> None:
    bomb = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\0" * 1_000_000
    data = dicom(eye()[..., 0], syntax=RLE, stream=[bomb])
    assert not read_photo(data).image.any()


@pytest.mark.parametrize("syntax", [BASELINE, LOSSLESS, J2K])
def test_pixels_that_begin_as_they_must_not_are_called_scrambled(syntax: str) -> None:
    scrambled = bytes(byte ^ 0x5A for byte in jpeg(eye()))
    with pytest.raises(PhotoError, match=r"^DICOM: scrambled, encrypted or damaged pixels, which are no JPEG"):
        read_photo(dicom(eye(), syntax=syntax, stream=[scrambled]))


@pytest.mark.parametrize("stream", [jpeg(eye()), openjpeg.encode(eye(), photometric_interpretation=1)])
def test_a_header_of_another_size_than_the_pixels_is_refused(stream: bytes) -> None:
    syntax = BASELINE if stream.startswith(b"\xff\xd8") else J2K
    with pytest.raises(PhotoError, match="differ in size"):
        read_photo(dicom(eye(), syntax=syntax, stream=[stream], Rows=32))


@pytest.mark.parametrize(
    "tags",
    [
        {"Rows": 0},
        {"Rows": 65535, "Columns": 1000},
        {"SamplesPerPixel": 4},
        {"BitsAllocated": 32},
        {"BitsStored": 0},
        {"HighBit": 40},
        {"PixelRepresentation": 1},
        {"NumberOfFrames": 10**9},
        {"PixelData": b""},
    ],
)
def test_headers_that_cannot_be(tags: dict[str, object]) -> None:
    with pytest.raises(PhotoError):
        read_photo(dicom(eye(), **tags))


SECRET = "Xanadu^Quentin"
WHOLE = {
    "raw": dicom(eye(), PatientName=SECRET, ManufacturerModelName=SECRET, StudyDescription=SECRET),
    "implicit": dicom(eye(), syntax=IMPLICIT, PatientName=SECRET),
    "deflated": dicom(eye(), syntax=DEFLATED, PatientName=SECRET),
    "jpeg": dicom(eye(), syntax=BASELINE, stream=[jpeg(eye(), comment=SECRET.encode())], PatientName=SECRET),
    "j2k": dicom(eye(), syntax=J2K, stream=[openjpeg.encode(eye(), photometric_interpretation=1)], PatientName=SECRET),
}


def read_or_why(data: bytes, cover: int | None = None) -> Photo | PhotoError:
    """The photograph, or why there is none, which must quote nothing."""
    try:
        return read_photo(data, cover=cover)
    except PhotoError as refusal:
        return refusal


def assert_quotes_nothing(refusal: PhotoError) -> None:
    assert "Xanadu" not in refusal.message
    assert "\n" not in refusal.message
    assert refusal.__cause__ is None


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("cover", [None, 16])
def test_a_file_that_was_cut_off_never_gives_part_of_a_picture(kind: str, cover: int | None) -> None:
    data = WHOLE[kind]
    whole = read_photo(data, cover=cover).image
    for length in np.linspace(0, len(data) - 1, 60, dtype=int):
        came = read_or_why(data[:length], cover)
        if isinstance(came, PhotoError):
            assert_quotes_nothing(came)
        else:
            np.testing.assert_array_equal(came.image, whole)


@given(
    kind=st.sampled_from(sorted(WHOLE)),
    place=st.floats(0, 1),
    junk=st.binary(min_size=1, max_size=24),
    cover=st.sampled_from([None, 8]),
)
@settings(deadline=None, max_examples=400)
def test_damage_is_survived_or_refused_and_nothing_is_quoted(
    kind: str, place: float, junk: bytes, cover: int | None
) -> None:
    data = bytearray(WHOLE[kind])
    start = 132 + int(place**2 * (len(data) - 133))  # the header more often
    data[start : start + len(junk)] = junk
    read_tags(BytesIO(bytes(data)))
    came = read_or_why(bytes(data), cover)
    if isinstance(came, PhotoError):
        assert_quotes_nothing(came)
    else:
        assert came.image.shape == (-(-came.height // came.scale), -(-came.width // came.scale), 3)


@pytest.mark.parametrize("tag", ["PhotometricInterpretation", "SOPClassUID", "NumberOfFrames", "SpecificCharacterSet"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, as it writes what cannot be
def test_a_text_in_the_wrong_place_is_not_quoted(tag: str) -> None:
    data = dicom(eye(), StudyDescription="x" * 14, NumberOfFrames=1)
    keyword = pydicom.datadict.tag_for_keyword(tag)
    assert keyword is not None
    element = struct.pack("<HH2sH", keyword >> 16, keyword & 0xFFFF, b"CS", len(SECRET)) + SECRET.encode()
    at = data.index(b"\x08\0\x30\x10LO")
    for changed in (data[:at] + element + data[at:], data.replace(EXPLICIT.encode(), b"Xanadu^Quentin12345")):
        came = read_or_why(changed)
        if isinstance(came, PhotoError):
            assert_quotes_nothing(came)


def test_threads_read_what_one_thread_reads() -> None:
    want = {kind: read_photo(data).image for kind, data in WHOLE.items()}
    with ThreadPoolExecutor(8) as pool:
        for kind, photo in pool.map(lambda kind: (kind, read_photo(WHOLE[kind])), [*WHOLE] * 20):
            np.testing.assert_array_equal(photo.image, want[kind])


def test_tags() -> None:
    about = {"Manufacturer": "Example", "ManufacturerModelName": "Cam 1", "StudyDate": "20240131"}
    tags = read_tags(BytesIO(dicom(eye(), PatientID="P 7 ", Laterality="L", AcquisitionDate="", **about)))
    assert tags is not None
    assert (tags.patient, tags.eye, tags.ignored, tags.complete) == ("P 7", "left", "", True)
    kept = {"manufacturer": "Example", "model": "Cam 1", "study date": "2024-01-31", "acquisition date": ""}
    assert tags.kept == kept
    tags = read_tags(BytesIO(dicom(eye(), AcquisitionDateTime="20240201123000")))
    assert tags is not None
    assert tags.kept["acquisition date"] == "2024-02-01"


@pytest.mark.parametrize(("image", "body", "eye_said"), [("R", "L", "right"), ("B", "", ""), (None, "R", "right")])
def test_the_eye_of_the_image_counts_before_that_of_the_study(image: str | None, body: str, eye_said: str) -> None:
    more = {} if image is None else {"ImageLaterality": image}
    tags = read_tags(BytesIO(dicom(eye(), Laterality=body, **more)))
    assert tags is not None
    assert tags.eye == eye_said


def test_tags_are_read_without_the_pixels() -> None:
    data = dicom(eye(), PatientID="P7", syntax=DEFLATED)
    for each in (data, dicom(eye(), PatientID="P7")[:700], dicom(eye(), PatientID="P7", syntax=IMPLICIT)):
        tags = read_tags(BytesIO(each))
        assert tags is not None
        assert tags.patient == "P7"
    assert read_tags(BytesIO(b"no DICOM at all")) is None


def test_without_the_package_no_tags_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom(eye(), PatientID="P7")
    monkeypatch.setitem(sys.modules, "pydicom.filereader", None)
    assert read_tags(BytesIO(data)) is None
