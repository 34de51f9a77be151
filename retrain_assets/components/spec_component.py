"""What both components share: a strict second reading of the YAML they come from.

Dagster's own loader lets the last of two equal keys win and reads a bare `on` or `NO` as a
boolean; so the file is read again, strictly, and the spec is made from that. Not here: assets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import dagster as dg

from retrain_assets.specs.base import Spec, load_strictly

if TYPE_CHECKING:
    from pydantic import BaseModel

SpecT = TypeVar("SpecT", bound=Spec)


class SpecComponent(dg.Component, Generic[SpecT]):
    """A component whose attributes are a spec.

    Args:
        spec: The YAML's `attributes`.
    """

    spec_class: ClassVar[type[Spec]]

    def __init__(self, spec: SpecT) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The pydantic model of the attributes."""
        return cls.spec_class

    @classmethod
    def load(cls, attributes: Any, context: dg.ComponentLoadContext) -> Self:
        """The component of one YAML document.

        Raises:
            SpecError: A key stands twice or is not text.
        """
        path = context.component_path
        if path.instance_key is not None and path.file_path.is_dir():
            names = (path.file_path / name for name in ("defs.yaml", "defs.yml"))
            file = next(name for name in names if name.exists())
            document = load_strictly(file)[int(path.instance_key)]
            attributes = cls.spec_class.model_validate(document.get("attributes", {}))
        return cls(attributes)
