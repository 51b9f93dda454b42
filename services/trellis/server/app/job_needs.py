"""What jobs reserve, and how many accelerators that is; the same at submit, at admission, and in the ledger."""

from dataclasses import dataclass

from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.capacity import Resources
from trellis.spec import TrainSpec


@dataclass(frozen=True, slots=True)
class JobNeeds:
    """The sizes of things on this platform."""

    capacity: Resources
    """All that jobs and trainers may have together."""
    worker: Resources
    """What each worker reserves of a job that runs by itself."""
    trainers: TrainerOptions = TrainerOptions()

    @property
    def trainer(self) -> Resources:
        """What a shared trainer reserves, with all its workers."""
        options = self.trainers
        return Resources(options.cpus * options.workers, options.gpus * options.workers)

    def alone(self, spec: TrainSpec) -> Resources:
        """What the job reserves; nothing if it runs on a shared trainer."""
        if spec.distributed is None:
            return Resources()
        workers = max(1, spec.distributed.workers)
        return Resources(self.worker.cpus * workers, self.worker.gpus * workers)

    def accelerators(self, needs: Resources) -> float:
        """How many accelerators that is: GPUs where the platform has any, else CPUs."""
        return needs.gpus if self.capacity.gpus else needs.cpus

    def of_quota(self, spec: TrainSpec) -> float:
        """Accelerators that the job takes of its tenant's quota while it runs: a seat's part of a shared trainer."""
        if spec.distributed is None:
            return self.accelerators(self.trainer) / self.trainers.max_jobs
        return self.accelerators(self.alone(spec))
