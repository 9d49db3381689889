"""Peak memory of a worker on photographs of 5184 x 3456 pixels: under 350 MB. With one worker the work is done in this
very process, which also holds the main program."""

import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from turns import SHARED

from pipeline.photos.preparation import Recipe
from tools.preprocessing.preprocess import PreprocessSettings, preprocess
from tools.sources.layouts import list_source


def peak() -> float:
    """MB, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "src").mkdir()
        script = (
            "import sys; from PIL import Image; large = Image.open(sys.argv[1]).resize((5184, 3456)); "
            "large.save(sys.argv[2], quality=95, subsampling=0, progressive=bool(sys.argv[3:]))"
        )
        for path in sorted((SHARED / "data/fullres").rglob("*.jpeg")):
            baseline, progressive = (
                folder / "src" / f"{path.stem}-{kind}.jpeg" for kind in ("baseline", "progressive")
            )
            subprocess.run([sys.executable, "-c", script, path, baseline], check=True)
            subprocess.run([sys.executable, "-c", script, path, progressive, "progressive"], check=True)
            for copy in range(5):
                shutil.copy(baseline, folder / "src" / f"{baseline.stem}-{copy}.jpeg")
        width, height = Image.open(next((folder / "src").iterdir())).size
        before = peak()
        preprocess(
            list_source(folder / "src"), folder / "cache", Recipe(), PreprocessSettings(workers=1), lambda *_: None
        )
        print(f"{width} x {height}: peak {peak():.0f} MB of one worker, {before:.0f} MB before it began; wanted < 350")


if __name__ == "__main__":
    main()
