"""Packages that may be missing, and what may stand in their place."""

import sys

import pytest

from stablegrad.errors import UsageError
from stablegrad.packages import is_installed, load_package

ADVICE = "that needs more packages: pip install x"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory that Python imports from."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "an_optional_package"]:
        del sys.modules[name]


def test_a_package_is_loaded(here):
    (here / "an_optional_package.py").write_text("def start(): return 3")
    assert is_installed("an_optional_package")
    assert load_package("an_optional_package", "start", ADVICE).start() == 3


def test_a_missing_package_is_not_installed(here):
    assert not is_installed("an_optional_package")
    with pytest.raises(UsageError, match=f"^{ADVICE}$"):
        load_package("an_optional_package", "start", ADVICE)


@pytest.mark.parametrize("module", ["an_optional_package", "an_optional_package.part"])
def test_a_folder_of_its_name_is_no_package(here, module):
    (here / "an_optional_package" / "part").mkdir(parents=True)
    (here / "an_optional_package" / "run-1.log").touch()
    assert not is_installed(module)
    with pytest.raises(UsageError, match=f"^{ADVICE} .'{here}/an_optional_package.* only has its name"):
        load_package(module, "start", ADVICE)


def test_a_file_of_its_name_is_said_to_hide_it(here):
    (here / "an_optional_package.py").write_text("notes = 3")
    with pytest.raises(UsageError, match=f"^{ADVICE} .'{here}/an_optional_package.py' only has its name"):
        load_package("an_optional_package", "start", ADVICE)


def test_a_package_that_cannot_be_imported_is_one_line(here):
    (here / "an_optional_package.py").write_text("1 / 0")
    with pytest.raises(UsageError, match=f"^{ADVICE}; importing 'an_optional_package' raised ZeroDivisionError$"):
        load_package("an_optional_package", "start", ADVICE)
