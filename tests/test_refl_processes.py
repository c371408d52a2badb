"""Several processes under ``accelerate launch`` make the update that one makes with the same batch.

``--multi_gpu`` on a machine without a GPU gives processes on the CPU; ``--cpu`` would start one only.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from refl_processes import run
from two_processes import LAUNCH

pytest.importorskip("accelerate")
TESTS = Path(__file__).parent


@pytest.mark.parametrize("kind", ["refl", "twins", "raft"])
def test_two_processes_train_as_one(tmp_path, kind):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    script = [str(TESTS / "refl_processes.py"), kind, str(tmp_path / "two")]
    done = subprocess.run([*LAUNCH, *script], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    try:
        one = run(kind, tmp_path / "one")
    finally:
        torch.set_default_dtype(torch.float32)
    first, second = (torch.load(tmp_path / f"two/process_{rank}.pt", weights_only=True) for rank in range(2))
    for alone, a, b in zip(one.parameters(), first, second, strict=True):
        assert torch.equal(a, b)
        assert torch.allclose(alone.detach(), a, atol=1e-9)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [sorted(line) for line in lines[0]] == [sorted(line) for line in lines[1]]
    for ours, theirs in zip(*lines, strict=True):
        assert all(ours[k] == pytest.approx(theirs[k], rel=1e-5, abs=2e-6) for k in ours)
