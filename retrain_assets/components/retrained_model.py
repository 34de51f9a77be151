"""`RetrainedModel`: one model, kept fresh."""

import dagster as dg

from retrain_assets.components import spec_check
from retrain_assets.components.landed_dataset import LandedDataset
from retrain_assets.components.spec_component import SpecComponent
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.build import model_definitions
from retrain_assets.specs.base import hint
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.yaml import Loc


class RetrainedModel(SpecComponent[ModelSpec]):
    """A model that is watched, retrained, compared and replaced when a better one is shown."""

    spec_class = ModelSpec

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Assets, checks, jobs, sensors and schedule of the model.

        Raises:
            SpecError: As `model`, or its name is taken.
        """
        self.check_name(context.component_tree)
        return model_definitions(self.model(context.component_tree))

    def model(self, tree: dg.ComponentTree) -> Model:
        """The model beside its datasets, which are found among the other components.

        Raises:
            SpecError: A dataset it names is not there, or cannot be used as it wants.
        """
        datasets = {found.spec.name: found.spec for found in tree.get_all_components(LandedDataset)}
        wanted: dict[Loc, str] = {("dataset",): self.spec.dataset}
        wanted |= {("lookups", name): name for name in self.spec.lookups}
        self.refuse(
            (loc, f"no LandedDataset named {name!r}{hint(name, datasets)}")
            for loc, name in wanted.items()
            if name not in datasets
        )
        dataset = datasets[self.spec.dataset]
        lookups = {name: datasets[name] for name in self.spec.lookups}
        self.refuse(spec_check.of_model(self.spec, dataset, lookups))
        return Model(self.spec, dataset, lookups)
