"""A real browser for the tests that look at pages."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _module() -> ModuleType:
    # Tests are not importable by name: the helper is loaded from its file.
    spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A `browser.Browser`; skipped where there is none."""
    module = _module()
    if module.CHROMIUM is None:
        pytest.skip("no Chromium or Chrome to open pages with")
    with module.Browser(tmp_path_factory.mktemp("profile")) as page:
        yield page
