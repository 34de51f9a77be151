"""`LandedDataset`: one source of data, from files that land to a versioned table."""

import dagster as dg

from retrain_assets.components import spec_check
from retrain_assets.components.spec_component import SpecComponent
from retrain_assets.orchestration.build import dataset_definitions
from retrain_assets.specs.dataset import DatasetSpec


class LandedDataset(SpecComponent[DatasetSpec]):
    """Landing files checked against a contract, kept as a Delta table with a quarantine."""

    spec_class = DatasetSpec

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Assets, checks, job and sensor of the dataset.

        Raises:
            SpecError: Its name is taken, or it says what cannot be.
        """
        self.check_name(context.component_tree)
        self.refuse(spec_check.of_dataset(self.spec))
        return dataset_definitions(self.spec)
