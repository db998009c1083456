from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from frontrunner.tasks import digits as module


def test_they_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = load_digits()
    read = module.digits()
    monkeypatch.setattr(module, "_FILE", "moved/elsewhere.csv.gz")
    for images, labels in (read, module.digits()):
        np.testing.assert_array_equal(images, theirs.images)
        np.testing.assert_array_equal(labels, theirs.target)
        assert (images.dtype, labels.dtype) == (theirs.images.dtype, theirs.target.dtype)


def test_reading_them_does_not_import_scikit_learn(environment: dict[str, Any]) -> None:
    program = "from frontrunner.tasks.digits import digits; digits(); import sys; "
    program += "sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
