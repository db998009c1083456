"""scikit-learn's 1,797 handwritten digits: the images of the tasks that need no files."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FILE = "datasets/data/digits.csv.gz"  # of the package


def digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """Images (1797, 8, 8) in [0, 16] and labels (1797,), those of ``sklearn.datasets.load_digits``.

    They are read from scikit-learn's file where it is in its place: importing scikit-learn, and
    pandas with it, takes longer than many a run on these images.
    """
    spec = find_spec("sklearn")
    path = Path(spec.origin).parent / _FILE if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
    else:
        with gzip.open(path, "rt", encoding="ascii") as handle:
            table: NDArray[Any] = np.loadtxt(handle, delimiter=",")
        images, labels = table[:, :-1], table[:, -1]
    return images.reshape(-1, 8, 8), labels.astype(np.intp)
