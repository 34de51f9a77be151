"""`LandedDataset` and `RetrainedModel`: each makes Dagster definitions from a spec in a YAML file.

Dagster's own loader lets the last of two equal keys win and reads a bare `on` or `NO` as a
boolean; so what it has read is left aside, and the file is read again. Not here: the fields of the
YAML, what makes a spec mistaken, and the assets.
"""

import os
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import dagster as dg
from dagster.components.core import defs_module
from pydantic import BaseModel, RootModel

from retrain_assets.components import segment_list, spec_check
from retrain_assets.components.code_check import Mistake
from retrain_assets.components.scaffold import ModelScaffolder
from retrain_assets.domain.decision.budget import apply_budget
from retrain_assets.orchestration import build
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.dagster_internals.warm import EXPECTATIONS, warm
from retrain_assets.specs.base import NamedSpec, Spec, SpecError, hint
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.yaml import ROOT, Document, load_strictly, parse_spec, resolve

SpecT = TypeVar("SpecT", bound=NamedSpec)


class SpecComponent(dg.Component, Generic[SpecT]):
    """A component whose attributes are a spec.

    Args:
        spec: The YAML's `attributes`.
        document: Where they stand.
        folder: The folder of the file.
    """

    spec_class: ClassVar[type[NamedSpec]]

    def __init__(self, spec: SpecT, document: Document, folder: Path = Path()) -> None:
        self.spec, self.document, self.folder = spec, document, folder
        self._refused: str | None = None

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """Return a model that takes all attributes, and whose schema describes them for editors."""
        return _describe(cls.spec_class)

    @classmethod
    def load(cls, attributes: Any, context: dg.ComponentLoadContext) -> Self:
        """Make the component of one YAML document.

        Raises:
            SpecError: A YAML file of the project cannot be read in one way only, or its attributes
                are mistaken; there is a line for each mistake of the project.
        """
        document = _document(attributes, context)
        try:
            document = resolve(document, os.environ)
            spec = cast("SpecT", parse_spec(document, cls.spec_class))
            return cls(spec, document, context.path)
        except SpecError as error:
            messages = [str(error)]
        if document.lines:
            messages += list_refusals(context.component_tree.defs_module_path)
        raise SpecError("\n".join(dict.fromkeys(messages)))

    @property
    def names(self) -> set[str]:
        """Return the names that nothing else may have."""
        return {self.spec.name}

    def find_mistakes(self, tree: dg.ComponentTree) -> Iterator[Mistake]:
        """Yield what is wrong with the spec among the other components of the project."""
        raise NotImplementedError

    def check(self, tree: dg.ComponentTree) -> None:
        """Refuse a spec that does not fit the other components of the project.

        Raises:
            SpecError: It does not; there is a line for each mistake of all components.
        """
        if self._refusal(tree):
            components = tree.get_all_components(SpecComponent)  # type: ignore[type-abstract]
            refusals = (component._refusal(tree) for component in components)  # noqa: SLF001
            raise SpecError("\n".join(filter(None, refusals)))

    def _refusal(self, tree: dg.ComponentTree) -> str:
        """Return the lines of the mistakes; they are looked for once, since no tree changes."""
        if self._refused is None:
            mistakes = [*self._find_taken_name(tree), *self.find_mistakes(tree)]
            reasons = [((ROOT, *loc), why) for loc, why in mistakes]
            self._refused = str(self.document.refusal(*reasons)) if reasons else ""
        return self._refused

    def _find_taken_name(self, tree: dg.ComponentTree) -> Iterator[Mistake]:
        """Yield that another component of the project has the same name."""
        for component in tree.get_all_components(SpecComponent):  # type: ignore[type-abstract]
            shared = self.names & component.names if component is not self else ()
            for name in sorted(shared):
                kind, file = type(component).__name__, component.document.file
                place = f"{file}, line {component.document.line((ROOT, 'name'))}"
                yield ("name",), f"{name!r} is also a {kind} in {place}: rename one"


class LandedDataset(SpecComponent[DatasetSpec]):
    """Landing files checked against a contract, kept as a Delta table with a quarantine."""

    spec_class = DatasetSpec

    def find_mistakes(self, tree: dg.ComponentTree) -> Iterator[Mistake]:  # noqa: ARG002 as a model's
        """Yield the parts of the dataset that cannot work."""
        return spec_check.find_dataset_mistakes(self.spec)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return assets, checks, job and sensor of the dataset.

        Raises:
            SpecError: The spec cannot work, or another component has its name.
        """
        self.check(context.component_tree)
        warm(*([EXPECTATIONS] if self.spec.expectations else []))
        parts, tree = [build.dataset_definitions(self.spec)], context.component_tree
        if sharing := list_sharing(tree, self.spec.name):
            for component in sharing:
                component.check(tree)
            models = [component.model(tree) for component in sharing]
            parts.append(build.shared_definitions(models))
        return dg.Definitions.merge(*parts)


@dg.scaffold_with(ModelScaffolder)
class RetrainedModel(SpecComponent[ModelSpec]):
    """A model that is watched, retrained, compared and replaced when a better one is shown."""

    spec_class = ModelSpec

    def __init__(self, spec: ModelSpec, document: Document, folder: Path = Path()) -> None:
        super().__init__(segment_list.complete(spec, folder), document, folder)
        self.written = spec  # without the listed segments

    @cached_property
    def names(self) -> set[str]:
        """Return the names of the model and of its segments."""
        return {spec.name for spec in self.spec.members()}

    def find_mistakes(self, tree: dg.ComponentTree) -> Iterator[Mistake]:
        """Yield the datasets that do not exist, or else what does not fit them."""
        datasets = dataset_specs(tree)
        names: list[Mistake] = [(("dataset",), self.spec.dataset)]
        names += [(("lookups", name), name) for name in self.spec.lookups]
        unknown = [(loc, name) for loc, name in names if name not in datasets]
        for loc, name in unknown:
            yield loc, f"no LandedDataset named {name!r}{hint(name, datasets)}"
        if not unknown:
            model = self.model(tree)
            yield from spec_check.find_model_mistakes(model.spec, model.dataset, model.lookups)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return assets, checks, jobs, sensors and schedule of the model.

        Raises:
            SpecError: The model does not fit its datasets, or another component has its name.
        """
        self.check(context.component_tree)
        sharing = list_sharing(context.component_tree, self.spec.dataset)
        model = self.model(context.component_tree)
        return build.model_definitions(model, shares_runs=self in sharing)

    def shares(self, dataset: str) -> bool:
        """Tell if a run may monitor the model beside others of a dataset."""
        size = self.spec.resources
        return self.spec.dataset == dataset and size.cpu is None and size.memory is None

    def model(self, tree: dg.ComponentTree) -> Model:
        """Return the model with its datasets, which are among the other components."""
        datasets = dataset_specs(tree)
        lookups = {name: datasets[name] for name in self.spec.lookups}
        dataset = datasets[self.spec.dataset]
        return Model(apply_budget(self.spec, dataset), dataset, lookups)


def list_sharing(tree: dg.ComponentTree, dataset: str) -> list[RetrainedModel]:
    """Return the models of a dataset that one run monitors: several, none with its own size."""
    retrained = [part for part in tree.get_all_components(RetrainedModel) if part.shares(dataset)]
    return retrained if len(retrained) > 1 else []


COMPONENTS: dict[str, type[SpecComponent[Any]]] = {
    kind.__name__: kind for kind in (LandedDataset, RetrainedModel)
}


def list_refusals(folder: Path) -> Iterator[str]:
    """Yield what is wrong with each YAML file below a folder, or with its documents."""
    for path in sorted(folder.rglob("defs.y*ml")):
        try:
            documents = load_strictly(path)
        except SpecError as error:
            yield str(error)
            continue
        for document in documents:
            try:
                _check_document(document)
            except SpecError as error:
                yield str(error)


def _check_document(document: Document) -> None:
    """Refuse what Dagster would refuse beside the attributes, or look for in vain, and mistakes.

    Raises:
        SpecError: A field is not known or of another type, or `type` names no component of ours.
    """
    head = parse_spec(document, defs_module.ComponentFileModel, ())
    package, _, name = head.type.rpartition(".")
    if package != "retrain_assets":
        return
    if name not in COMPONENTS:
        raise document.refusal((("type",), f"no component {name!r}{hint(name, COMPONENTS)}"))
    parse_spec(resolve(document, os.environ), COMPONENTS[name].spec_class)


@cache
def _describe(spec_class: type[Spec]) -> type[BaseModel]:
    class Attributes(RootModel[dict[Any, Any]]):
        @classmethod
        def model_json_schema(cls, *_args: Any, **_kwargs: Any) -> dict[str, Any]:
            # The empty alternative lets `dg check` pass everything on to `load`, whose messages
            # name the file, the line and what would do.
            schema = spec_class.model_json_schema()
            return {"$defs": schema.pop("$defs", {}), "anyOf": [schema, {}]}

    return Attributes


def dataset_specs(tree: dg.ComponentTree) -> dict[str, DatasetSpec]:
    """Return the specs of the datasets of a project by name."""
    components = tree.get_all_components(LandedDataset)
    return {component.spec.name: component.spec for component in components}


def _document(attributes: Any, context: dg.ComponentLoadContext) -> Document:
    """Return the document of a component; nothing but its attributes where it has no file."""
    place = context.component_loc
    if isinstance(place, defs_module.ComponentPath) and isinstance(place.instance_key, int):
        file = defs_module.find_defs_or_component_yaml(place.file_path)
        if file is not None:
            return load_strictly(file)[place.instance_key]
    return Document("attributes", {ROOT: attributes.root}, {})
