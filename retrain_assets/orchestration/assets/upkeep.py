"""`<m>/replay`: the usual policies over stored history, as a table and a picture.

`<m>/storage`: the tables of a model and its datasets without what no one needs, once a week.

Not here: playing them.
"""

from dataclasses import asdict

import dagster as dg
import polars as pl
from pydantic import Field

from retrain_assets.orchestration import checks
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.metadata import MODEL_TAG
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.specs.model import usual_policies
from retrain_assets.steps.upkeep.vacuum import HOURS, vacuum

NEWS = 50  # partitions between two lines of the log


def replay_asset(model: Model) -> dg.AssetsDefinition:
    """`<m>/replay`; nothing asks for it but a person."""

    @dg.asset(
        **model.asset(
            "replay",
            "What other triggers would have brought over stored history; changes nothing.",
            "polars",
            "scikitlearn",
        ),
        deps=[model.key("features"), model.key("profile")],
    )
    def replay(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> dg.MaterializeResult[None]:
        from retrain_assets.reports.plots import markdown, replay_figure
        from retrain_assets.steps.replay import replay_policies

        def tell(name: str, done: int, total: int) -> None:
            if done % NEWS == 0 or done == total:
                context.log.info("%s: %d of %d partitions", name, done, total)

        state = model.state(storage.open())
        outcome = replay_policies(state, usual_policies(model.spec), tell)
        rows = pl.DataFrame([asdict(one) for one in outcome.standings])
        return dg.MaterializeResult(
            metadata={
                "proposal": outcome.said,
                "policies": checks.table(rows.to_dicts()),
                "cost_and_benefit": dg.MetadataValue.md(markdown(replay_figure(outcome))),
            }
        )

    return replay


WEEKLY = "17 3 * * 0"


class Age(dg.Config):
    """What was given up within so many hours stays, for who still reads or writes it."""

    hours: int = Field(HOURS, ge=24)


def storage_asset(model: Model) -> dg.AssetsDefinition:
    """`<m>/storage`."""

    @dg.asset(
        **model.asset(
            "storage",
            "Tables of the model and its datasets, compacted and without the files of versions "
            "that no registered model needs. What is removed cannot be brought back.",
            "deltalake",
        ),
        pool="storage",
    )
    def storage_(config: Age, storage: StorageResource) -> dg.MaterializeResult[None]:
        groups = {model.spec.name, model.dataset.name, *model.lookups}
        done = vacuum(storage.open(), groups, config.hours)
        return dg.MaterializeResult(
            metadata={
                "freed_bytes": sum(one.bytes for one in done),
                "removed_files": sum(one.files for one in done),
                "tables": checks.table([asdict(one) for one in done]),
            }
        )

    return storage_


def vacuum_schedule(model: Model) -> dg.ScheduleDefinition:
    """`<m>_vacuum`, Sundays, if a person switches it on: earlier data are then gone."""
    return dg.ScheduleDefinition(
        name=f"{model.spec.name}_vacuum_weekly",
        job=dg.define_asset_job(
            f"{model.spec.name}_vacuum",
            selection=dg.AssetSelection.assets(model.key("storage")),
            description="Remove what no registered model needs of the tables.",
            tags={MODEL_TAG: model.spec.name},
        ),
        cron_schedule=WEEKLY,
        execution_timezone=model.dataset.partition.timezone,
        description="Removes what no registered model needs, Sundays; off until switched on.",
    )
