"""The YAML of `retrain replay --policies`: what a model's policy might have been.

Not here: playing them.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from retrain_assets.specs.base import Spec
from retrain_assets.specs.gate import GateSpec
from retrain_assets.specs.model import ModelSpec, WindowsSpec
from retrain_assets.specs.triggers import TriggersSpec

CALENDARS = (1, 7, 14, 28)
AS_IT_IS, NEVER = "as it is", "never"


class PolicySpec(Spec):
    """Parts of a model's YAML that replace its own in a replay."""

    name: str = Field(min_length=1, max_length=60, description="Its name.")
    every: int | None = Field(
        None,
        ge=1,
        description="Instead of triggers and gate: each time after this many partitions, fit "
        "through the newest mature one and put the result into production.",
    )
    triggers: TriggersSpec | None = Field(None, description="Replaces the model's own.")
    gate: GateSpec | None = Field(None, description="Replaces the model's own.")
    windows: WindowsSpec | None = Field(None, description="Replaces the model's own.")
    refit: bool | None = Field(None, description="Replaces the model's own.")

    @property
    def parts(self) -> dict[str, Any]:
        """What is put in place, as it is written in YAML."""
        return self.model_dump(
            by_alias=True, exclude_unset=True, exclude={"name", "every"}, exclude_none=True
        )

    def of(self, model: ModelSpec) -> ModelSpec:
        """The model under this policy; what it lets pass needs nobody's approval."""
        given = model.model_dump(by_alias=True) | {"approval": "auto"}
        return ModelSpec.model_validate(given | self.parts)


def usual_policies(model: ModelSpec) -> list[PolicySpec]:
    """The model's own policy, others near it, and what they are held against.

    These are: never again, and each so many partitions whatever was seen.
    """
    own = model.triggers
    by_age = [own.model_copy(update={"new_partitions": n, "cooldown": n}) for n in (7, 14, 28)]
    near = {f"new_partitions: {n.new_partitions}": n for n in by_age}
    if (trigger := own.performance) is not None and trigger.max_drop is not None:
        for times in (0.25, 0.5, 2.0):
            drop = round(min(1.0, trigger.max_drop * times), 4)
            changed = trigger.model_copy(update={"max_drop": drop})
            near[f"max_drop: {drop:g}"] = own.model_copy(update={"performance": changed})
    return [
        PolicySpec(name=AS_IT_IS),
        *(PolicySpec(name=name, triggers=triggers) for name, triggers in near.items()),
        PolicySpec(name=NEVER, triggers=TriggersSpec()),
        *(PolicySpec(name=f"every {n}", every=n) for n in CALENDARS),
    ]
