"""JPEGs damaged in every way: refused or cached, flagged where libjpeg noticed, never a crash, never a hang."""

import io
import random
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from pipeline.cache.cache import Cache, open_cache
from pipeline.errors import PhotoError
from pipeline.loading.loaders import dali_installed, open_loader
from pipeline.photos.photo import read_photo

ROOT = Path(__file__).resolve().parents[2]
PEAK = (
    "import resource, subprocess, sys\n"
    "code = subprocess.run([sys.executable, '-m', 'tools', *sys.argv[1:]], timeout=540).returncode\n"
    "print('peak kB', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    "sys.exit(code)"
)


def photograph(seed: int) -> Image.Image:
    """A soft disc with a vessel or two, as real photographs compress: 8 x 8 blocks with few coefficients."""
    x, y = np.meshgrid(np.linspace(-1.3, 1.3, 208), np.linspace(-1, 1, 160))
    light = (np.hypot(x, y) < 0.9) * (150 - 60 * np.hypot(x, y) - 50 * np.exp(-((y - np.sin(3 * x + seed)) ** 2) * 200))
    return Image.fromarray((light[..., None] * (1.0, 0.6, 0.3)).astype(np.uint8))


def jpegs() -> list[bytes]:
    """One of each kind that cameras and archives make."""
    kinds: list[tuple[str, dict[str, object]]] = [
        ("RGB", {}),
        ("RGB", {"subsampling": 0, "quality": 97}),
        ("RGB", {"progressive": True}),
        ("RGB", {"restart_marker_blocks": 4}),
        ("RGB", {"optimize": True, "quality": 50}),
        ("L", {}),
        ("CMYK", {}),
    ]
    made = []
    for seed, (mode, options) in enumerate(kinds):
        data = io.BytesIO()
        photograph(seed).convert(mode).save(data, "JPEG", **{"quality": 85, **options})
        made.append(data.getvalue())
    return made


def segments(jpeg: bytes) -> list[bytes]:
    """The marker segments; the last one is the first scan and all behind it."""
    cuts, at = [0, 2], 2
    while jpeg[at + 1] != 0xDA:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        cuts.append(at)
    return [jpeg[a:b] for a, b in zip(cuts, [*cuts[1:], len(jpeg)], strict=True)]


def mutant(jpeg: bytes, draw: random.Random) -> bytes:
    """Flipped bytes, a cut, an insertion, a run of zeros, or segments that changed places; often several of them."""
    data = bytearray(jpeg)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        at = draw.randrange(2, len(data)) if len(data) > 2 else 0
        match draw.choice(["flip", "flip", "flips", "cut", "insert", "zeros", "drop", "swap"]):
            case "flip":
                data[at : at + 1] = bytes([draw.randrange(256)])
            case "flips":
                for place in draw.sample(range(len(data)), min(20, len(data))):
                    data[place] ^= 1 << draw.randrange(8)
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = draw.randbytes(draw.randrange(1, 40))
            case "zeros":
                run = min(draw.randrange(1, 400), len(data) - at)
                data[at : at + run] = bytes(run)
            case "drop":
                del data[at : at + draw.randrange(1, 200)]
            case "swap" if bytes(data) == jpeg and jpeg.startswith(b"\xff\xd8"):
                parts = segments(jpeg)
                a, b = draw.sample(range(1, len(parts)), 2)
                parts[a], parts[b] = parts[b], parts[a]
                data = bytearray(b"".join(parts))
    return bytes(data)


def pictures(cache: Cache, loader: str) -> np.ndarray:
    """(rows, 3, size, size), int16."""
    with open_loader(loader, cache, split="all", batch_size=32) as it:
        return np.concatenate([batch.images.numpy() for batch in it.epoch(0)]).astype(np.int16)


def check_mutants(tmp_path: Path, count: int, seed: int) -> None:
    source, out, draw = tmp_path / "src", tmp_path / "c", random.Random(seed)
    source.mkdir()
    kinds = jpegs()
    for n in range(count):
        (source / f"{n}.jpeg").write_bytes(mutant(kinds[n % len(kinds)], draw))
    command = ["preprocess", source, "--out", out, "--size", 64, "--workers", 1, "--max-rejects", 1]
    run = subprocess.run([*map(str, [sys.executable, "-c", PEAK, *command])], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    said = re.search(r"found (\d+) = (\d+) cached \+ (\d+) rejected \+ 0 ignored", run.stdout)
    assert said
    found, cached, rejected = map(int, said.groups())
    assert found == count == cached + rejected
    assert cached > count / 10
    assert rejected > count / 10
    peak = re.search(r"peak kB (\d+)", run.stdout)
    assert peak
    assert int(peak[1]) < 500_000
    with open_cache(out) as cache:
        flagged = cache.manifest["flags"].str.contains("damaged").sum()
        assert flagged > count / 20
        assert f"flagged damaged: {flagged}" in run.stdout
        if dali_installed():
            assert np.abs(pictures(cache, "torchvision") - pictures(cache, "dali")).max() <= 1


def others() -> dict[str, bytes]:
    """The photograph in every other format that can be had here."""
    made = {}
    for kind in ("PNG", "TIFF", "BMP", "WEBP", "JPEG2000", "AVIF", "PPM", "GIF"):
        data = io.BytesIO()
        photograph(0).save(data, kind)
        made[kind] = data.getvalue()
    with suppress(ImportError):
        from imagecodecs import jpegxl_encode

        made["JPEG XL"] = bytes(jpegxl_encode(np.asarray(photograph(0))))
    with suppress(ImportError):
        from tests.dicoms import dicom

        made["DICOM"] = dicom(np.asarray(photograph(0)))
        made["DICOM, JPEG"] = dicom(np.asarray(photograph(0)), syntax="1.2.840.10008.1.2.4.50", stream=[jpegs()[0]])
    heic = ROOT.parent / "shared/sets/files/c.heic"
    if heic.exists():
        made["HEIC"] = heic.read_bytes()
    return made


@pytest.mark.parametrize("kind", others())
def test_300_mutants_of_every_other_format_are_read_or_refused(kind: str) -> None:
    whole, draw = others()[kind], random.Random(0)
    refused = []
    for _ in range(300):
        try:
            photo = read_photo(mutant(whole, draw), cover=40)
        except PhotoError as error:
            refused.append(error.message)
        else:
            assert photo.image.shape == (-(-photo.height // photo.scale), -(-photo.width // photo.scale), 3)
    assert refused
    assert not any("\n" in reason for reason in refused)


def test_2000_mutants(tmp_path: Path) -> None:
    check_mutants(tmp_path, 2000, seed=0)


@pytest.mark.slow
def test_30000_mutants(tmp_path: Path) -> None:
    check_mutants(tmp_path, 30_000, seed=1)


# --- what libjpeg warns of


@pytest.mark.parametrize("cover", [None, 40])
@pytest.mark.parametrize("kind", range(7))
def test_good_jpegs_are_not_called_damaged_and_their_pixels_are_pillows(kind: int, cover: int | None) -> None:
    data = jpegs()[kind]
    photo = read_photo(data, cover=cover)
    assert not photo.damaged
    picture = Image.open(io.BytesIO(data))
    picture.draft(None, (picture.width // photo.scale, picture.height // photo.scale))
    np.testing.assert_array_equal(photo.image, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("cover", [None, 40])
@pytest.mark.parametrize("kind", range(7))
def test_zeroed_scan_data_is_refused_or_called_damaged(kind: int, cover: int | None) -> None:
    data = bytearray(jpegs()[kind])
    start = data.index(b"\xff\xda") + 30
    middle = (start + len(data)) // 2
    data[middle : middle + 60] = bytes(60)
    with suppress(PhotoError):
        assert read_photo(bytes(data), cover=cover).damaged


def with_stray_bytes(data: bytes) -> bytes:
    """The JPEG with some bytes too many before its end marker."""
    return data[:-2] + bytes(64) + data[-2:]


def test_stray_bytes_before_the_end_marker_are_flagged_and_the_picture_is_whole() -> None:
    data = jpegs()[0]
    photo = read_photo(with_stray_bytes(data))
    assert photo.damaged
    np.testing.assert_array_equal(photo.image, read_photo(data).image)


def test_bytes_behind_the_end_marker_are_no_damage() -> None:
    """Some cameras append a preview or padding there."""
    assert not read_photo(jpegs()[0] + bytes(1000)).damaged


def test_damaged_photographs_are_cached_flagged_counted_and_take_part(
    tmp_path: Path, tools: Callable[..., Result]
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    rows = ["image,level\n"]
    for n in range(8):
        data = jpegs()[0]
        (source / f"{n}_left.jpeg").write_bytes(with_stray_bytes(data) if n < 3 else data)
        rows.append(f"{n}_left,{n % 5}\n")
    (source / "trainLabels.csv").write_text("".join(rows))
    result = tools("preprocess", source, "--out", tmp_path / "c", "--size", 64)
    assert result.exit_code == 0
    assert "flagged damaged: 3\n" in result.output
    with open_cache(tmp_path / "c") as cache:
        table = cache.manifest
        assert set(table.loc[table["flags"] == "damaged", "id"]) == {"0_left", "1_left", "2_left"}
        assert (table["split"] != "").all()
