"""What fine texture alone says of referable DR, at each size: a yardstick for networks that so few photographs teach.

    python benchmarks/texture.py CACHE...

Each photograph becomes 105 numbers: in every channel and at five scales the spread of a difference of Gaussians within
the retina, and six of its percentiles by that spread. A logistic regression on them is judged on patients that it has
not seen: on the cache's own test photographs, having learnt from train and val, and by ten folds of all photographs.
"""

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer

from pipeline.cache.cache import open_cache
from pipeline.cache.splits import SPLITS
from pipeline.command_line import Guarded
from pipeline.grades import REFERABLE, UNKNOWN
from pipeline.photos.contact_sheet import decode_small

SIGMAS = (0.7, 1.4, 2.8, 5.6, 11.2)  # pixels
PERCENTILES = (0.1, 1, 5, 95, 99, 99.9)
EDGE = 0.88
"""Of the half width: what lies beyond is the rim of the retina and its frame."""
DARK = 15


def texture(photo: NDArray[np.uint8]) -> list[float]:
    """(size, size, 3) to 105 numbers."""
    half = len(photo) / 2
    rows, columns = (places + 0.5 - half for places in np.ogrid[: len(photo), : len(photo)])
    retina = (np.hypot(rows, columns) < EDGE * half) & (photo.max(axis=2) > DARK)
    found: list[float] = []
    for channel in cv2.split(photo.astype(np.float32)):
        for sigma in SIGMAS:
            difference = cv2.GaussianBlur(channel, (0, 0), sigma) - cv2.GaussianBlur(channel, (0, 0), 1.6 * sigma)
            values = difference[retina] if retina.any() else np.zeros(1)
            spread = np.percentile(abs(values), 68) + 1e-6
            found += [float(np.log(spread)), *(np.percentile(values, PERCENTILES) / spread).tolist()]
    return found


@click.command(cls=Guarded)
@click.argument("caches", nargs=-1, required=True)
def main(caches: tuple[str, ...]) -> None:
    for path in caches:
        with open_cache(path) as cache:
            grades = cache.grades
            splits = [rows[grades[rows] != UNKNOWN] for rows in map(cache.rows, SPLITS)]
            rows = np.concatenate(splits)
            size = cache.recipe.size
            numbers = np.array([texture(np.asarray(decode_small(cache.read(row), size))) for row in rows])
            truth = grades[rows] >= REFERABLE
            patients = cache.manifest["patient"].to_numpy()[rows]
        scaled = QuantileTransformer(n_quantiles=50, output_distribution="normal")
        model = make_pipeline(scaled, LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000))
        folds = cross_val_predict(model, numbers, truth, groups=patients, cv=GroupKFold(10), method="predict_proba")
        known = len(rows) - len(splits[-1])
        model.fit(numbers[:known], truth[:known])
        test = roc_auc_score(truth[known:], model.predict_proba(numbers[known:])[:, 1])
        click.echo(
            f"{path}, {len(rows)} photographs of {size} px: AUC of referable DR {test:.3f} on test, "
            f"{roc_auc_score(truth, folds[:, 1]):.3f} by ten folds"
        )


if __name__ == "__main__":
    main()
