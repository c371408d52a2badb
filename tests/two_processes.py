"""How tests start two processes of one run. No test."""

from __future__ import annotations

import sys

# With --cpu accelerate starts one process only; --multi_gpu starts two on a machine without GPUs, too. Port 0: any.
LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch"),
    *("--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)
