"""One torch thread per test process: small tests gain nothing from more."""

from __future__ import annotations

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
torch.set_num_threads(1)
