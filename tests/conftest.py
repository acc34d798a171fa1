import pytest
import torch
from hypothesis import settings

# The suite is deterministic; `make fuzz` draws anew.
settings.register_profile("suite", derandomize=True)
settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors are slower on two threads than on one, and one thread gives the same bits on every machine."""
    torch.set_num_threads(1)
