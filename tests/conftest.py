"""One torch thread per test process, as small tests gain nothing from more; and the same random weights each time."""

from __future__ import annotations

import os
import random

os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
os.environ["GOMP_SPINCOUNT"] = "1000"  # as the command line sets it

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


def seed_everything() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def seeded_module() -> None:
    """For fixtures that a whole file shares."""
    seed_everything()


@pytest.fixture(autouse=True)
def seeded_test() -> None:
    """A test of learning shall not fail once in a hundred runs, whichever tests ran before it in the same process."""
    seed_everything()
