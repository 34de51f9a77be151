"""`RetrainedModel`: one model, kept fresh."""

from __future__ import annotations

import dagster as dg

from retrain_assets.components.landed_dataset import LandedDataset
from retrain_assets.components.spec_component import SpecComponent
from retrain_assets.orchestration.build import model_definitions
from retrain_assets.orchestration.model_assets import Model
from retrain_assets.specs.base import SpecError
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec


class RetrainedModel(SpecComponent[ModelSpec]):
    """A model that is watched, retrained, compared and replaced when a better one is shown."""

    spec_class = ModelSpec

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Assets, checks, jobs, sensors and schedule of the model."""
        return model_definitions(self.model(context.component_tree))

    def model(self, tree: dg.ComponentTree) -> Model:
        """The model beside its datasets, which are found among the other components.

        Raises:
            SpecError: A dataset it names is not there, or cannot be used as it wants.
        """
        datasets = {found.spec.name: found.spec for found in tree.get_all_components(LandedDataset)}
        wanted = [self.spec.dataset, *self.spec.lookups]
        missing = [name for name in wanted if name not in datasets]
        if missing:
            raise SpecError(
                f"model {self.spec.name}: no LandedDataset named {', '.join(missing)}; "
                f"there are {', '.join(sorted(datasets)) or 'none'}"
            )
        dataset = datasets[self.spec.dataset]
        if dataset.partition.by == "none":
            raise SpecError(
                f"model {self.spec.name}: dataset {dataset.name} has no partitions, which windows "
                "are counted in: partition it by a date column"
            )
        lookups = {name: datasets[name] for name in self.spec.lookups}
        _check_columns(self.spec, dataset, lookups)
        return Model(self.spec, dataset, lookups)


def _check_columns(spec: ModelSpec, dataset: DatasetSpec, lookups: dict[str, DatasetSpec]) -> None:
    for name, lookup in spec.lookups.items():
        used = [*lookup.on, *([lookup.as_of] if lookup.as_of else [])]
        for side in (dataset, lookups[name]):
            unknown = [column for column in used if column not in side.columns]
            if unknown:
                raise SpecError(
                    f"model {spec.name}: lookups.{name}: {', '.join(unknown)} not among the "
                    f"columns of {side.name}"
                )
