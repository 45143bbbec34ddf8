"""What a measured time depends on."""

import os
import platform

import torch


def machine_facts() -> dict[str, str]:
    """What a measured number depends on: processor, cores, threads and how idle threads wait."""
    return {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "architecture": platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
    }
