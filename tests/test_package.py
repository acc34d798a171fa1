"""What can be had from the package's top."""

import subprocess
import sys

import pytest

import stablegrad


def test_the_top_has_the_names_that_people_need_first_and_loads_torch_only_for_them():
    program = (
        "import sys, stablegrad\n"
        "assert {'Monitor', 'diagnose', 'Report', 'Thresholds', '__version__'} <= set(dir(stablegrad))\n"
        "heavy = {'torch', 'numpy', 'stablegrad.diagnostics'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from stablegrad import Monitor, diagnose\n"
        "assert heavy <= set(sys.modules)\n"
        "import stablegrad.diagnostics as inner\n"
        "assert (Monitor, diagnose) == (inner.Monitor, inner.diagnose)\n"
        "assert 'plotly' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_all_that_is_promised_is_there():
    assert all(getattr(stablegrad, name) is not None for name in stablegrad.__all__)
    with pytest.raises(AttributeError, match="'stablegrad' has no attribute 'monitor'"):
        stablegrad.monitor  # noqa: B018
    with pytest.raises(ImportError):
        from stablegrad import nothing_of_this_name  # noqa: F401
