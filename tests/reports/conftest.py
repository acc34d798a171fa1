import importlib.util
from pathlib import Path

import pytest


def _synthetic():
    specification = importlib.util.spec_from_file_location(
        "synthetic", Path(__file__).parents[1] / "studies" / "synthetic.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def synthetic():
    return _synthetic()
