"""frontrunner runs multi-objective deep-learning methods and compares the fronts they reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from frontrunner.front.front import Front
    from frontrunner.front.objective import Objective
    from frontrunner.run import Run, load, run
    from frontrunner.runner.coreset_training import CoresetTraining

__all__ = ["CoresetTraining", "Front", "Objective", "Run", "__version__", "load", "run"]

_HOMES = {
    "CoresetTraining": "frontrunner.runner.coreset_training",
    "Front": "frontrunner.front.front",
    "Objective": "frontrunner.front.objective",
    "Run": "frontrunner.run",
    "load": "frontrunner.run",
    "run": "frontrunner.run",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import frontrunner` costs nothing until something is used.
    if name not in _HOMES:
        raise AttributeError(f"module 'frontrunner' has no attribute '{name}'")
    import importlib

    module = importlib.import_module(_HOMES[name])
    # The module `run` is itself callable, so that the name means the same however it was imported.
    return module if name == "run" else getattr(module, name)
