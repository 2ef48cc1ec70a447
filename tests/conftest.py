"""One torch thread per test process: small tests gain nothing from more."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
os.environ["GOMP_SPINCOUNT"] = "1000"  # as the command line sets it

import torch

torch.set_num_threads(1)
