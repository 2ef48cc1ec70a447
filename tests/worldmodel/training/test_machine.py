"""What is told to the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from worldmodel.training.machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(5000, 4096)  # 80 MB: more than glibc ever keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
if keep_freed_memory():
    faults()
    print(plain, faults())
"""


def test_memory_that_tensors_free_is_taken_again_without_page_faults() -> None:
    """In a process of its own: the setting stays for as long as the process lives."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    if not done.stdout:
        pytest.skip("this C library has no mallopt")
    plain, kept = map(int, done.stdout.split())
    assert plain > 20, "otherwise there is nothing to save, and this test shows nothing"
    assert kept * 20 < plain
