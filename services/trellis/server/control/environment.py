"""The environment that every training process on the cluster gets."""

from trellis.server.control.context import ControlSettings


def process_environment(settings: ControlSettings, cpus: float) -> dict[str, str]:
    """The variables of a process that reserves so many CPUs."""
    threads = str(max(1, int(cpus)))
    trusted = {"TRELLIS_WORKER_CA": settings.worker_ca} if settings.worker_ca else {}
    return {
        **dict(settings.environment),
        **trusted,
        "TRELLIS_WORKER_ENDPOINT": settings.worker_endpoint,
        # As many threads as CPUs are reserved, and none that spins while it waits: torch processes that share cores
        # otherwise slow each other down severalfold.
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
