"""What both components share: a spec made from a strict reading of the YAML they come from.

Dagster's own loader lets the last of two equal keys win and reads a bare `on` or `NO` as a
boolean; so what it has read is left aside, and the file is read again. Not here: assets.
"""

import os
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import dagster as dg
from dagster.components.core.defs_module import (
    ComponentFileModel,
    ComponentPath,
    find_defs_or_component_yaml,
)
from pydantic import BaseModel, GetJsonSchemaHandler, RootModel
from pydantic_core import CoreSchema

import retrain_assets
from retrain_assets.specs.base import NamedSpec, Spec, hint
from retrain_assets.specs.yaml import ROOT, Document, Loc, load_strictly, parse_spec, resolve

SpecT = TypeVar("SpecT", bound=NamedSpec)


class SpecComponent(dg.Component, Generic[SpecT]):
    """A component whose attributes are a spec.

    Args:
        spec: The YAML's `attributes`.
        document: Where they stand.
    """

    spec_class: ClassVar[type[NamedSpec]]

    def __init__(self, spec: SpecT, document: Document) -> None:
        self.spec, self.document = spec, document

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The schema of the attributes, for tools; Dagster itself is to let all of them pass."""
        return _as_written(cls.spec_class)

    @classmethod
    def load(cls, attributes: Any, context: dg.ComponentLoadContext) -> Self:
        """The component of one YAML document.

        Raises:
            SpecError: The file is not to be read in one way only, or its attributes are mistaken.
        """
        document = resolve(_document(attributes, context), os.environ)
        return cls(cast("SpecT", parse_spec(document, cls.spec_class)), document)

    def check_name(self, tree: dg.ComponentTree) -> None:
        """Refuse a name that another component of the project has.

        Raises:
            SpecError: One does.
        """
        for other in tree.get_all_components(SpecComponent):  # type: ignore[type-abstract]
            if other is not self and other.spec.name == self.spec.name:
                line = other.document.line((ROOT, "name"))
                why = (
                    f"{self.spec.name!r} is also a {type(other).__name__} in "
                    f"{other.document.file}, line {line}: rename one"
                )
                self.refuse([(("name",), why)])

    def refuse(self, reasons: Iterable[tuple[Loc, str]]) -> None:
        """Refuse the spec if there is a reason to.

        Args:
            reasons: What is wrong, by field below `attributes`.

        Raises:
            SpecError: There is one; all are told, by line.
        """
        found = [((ROOT, *loc), why) for loc, why in reasons]
        if found:
            raise self.document.refusal(*found)


def check_head(document: Document) -> None:
    """Refuse what Dagster would refuse beside the attributes, or look for in vain.

    Raises:
        SpecError: A field is not known or of another type, or `type` names no component of ours.
    """
    package, _, name = parse_spec(document, ComponentFileModel, ()).type.rpartition(".")
    offered = retrain_assets.__all__
    if package == retrain_assets.__name__ and name not in offered:
        raise document.refusal((("type",), f"no component {name!r}{hint(name, offered)}"))


@cache
def _as_written(spec_class: type[Spec]) -> type[BaseModel]:
    class AsWritten(RootModel[dict[Any, Any]]):
        @classmethod
        def __get_pydantic_json_schema__(
            cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
        ) -> dict[str, Any]:
            return handler(spec_class.__pydantic_core_schema__)

    return AsWritten


def _document(attributes: Any, context: dg.ComponentLoadContext) -> Document:
    """The document that a component is made from; none but its attributes where it has no file."""
    place = context.component_loc
    if isinstance(place, ComponentPath) and isinstance(place.instance_key, int):
        file = find_defs_or_component_yaml(place.file_path)
        if file is not None:
            return load_strictly(file)[place.instance_key]
    return Document("attributes", {ROOT: attributes.root}, {})
