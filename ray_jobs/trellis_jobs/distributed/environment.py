"""What Ray Train and the workers' processes find in their environment."""

import os


def prepare_driver() -> None:
    """Set what Ray Train reads in the driver, and hands on."""
    # A minute is not enough for a node that is only just started, or that imports from a slow disk; it begins anew then.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    # Else a folder for each attempt becomes the workers' working directory, and relative paths point elsewhere.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")


def worker_environment(threads: int, *, on_gpu: bool) -> dict[str, str]:
    """The environment that a worker's process is started with."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    if on_gpu:
        return environment
    # What has reserved no GPU must not find one. And where DeepSpeed is not told, it looks for accelerators by importing
    # their packages, whole or half installed.
    return {**environment, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
