"""The YAML of the sizes of runs that are Jobs of Kubernetes.

Not here: the tags by which a Job gets them.
"""

from pydantic import Field

from retrain_assets.specs.base import Spec


class SizeSpec(Spec):
    """The size of a run that is a Job of Kubernetes.

    Args:
        cpu: Number of CPUs that are reserved.
        memory: The memory that is reserved, and its limit, such as `16Gi`.
    """

    cpu: float | None = Field(None, gt=0)
    memory: str | None = Field(None, pattern="^[1-9]\\d*(Mi|Gi)$")


class ResourcesSpec(SizeSpec):
    """The sizes of the runs of a model.

    Args:
        cpu: Number of CPUs that are reserved for a run.
        memory: The memory that is reserved for a run, and its limit, such as `4Gi`.
        retrain: What a retraining needs instead.
        serving: What the model adds to each pod that serves, see `retrain component`.
    """

    retrain: SizeSpec = SizeSpec()
    serving: SizeSpec = SizeSpec()
