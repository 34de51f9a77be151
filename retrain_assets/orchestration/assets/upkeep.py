"""Define `<m>/report`, `<m>/replay` and `<m>/storage`.

`<m>/report` is the page of the model, `<m>/replay` plays policies over stored history, and
`<m>/storage` compacts the tables of a model and its datasets and removes what nobody needs.

Not here: playing a policy (`steps.replay`), and choosing what to remove (`steps.upkeep`).
"""

from dataclasses import asdict
from typing import Any

import dagster as dg
from pydantic import Field

from retrain_assets.orchestration import checks, metadata
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.specs.model import usual_policies
from retrain_assets.steps.inspect import report, status
from retrain_assets.steps.state import ModelState
from retrain_assets.steps.upkeep.vacuum import HOURS, vacuum
from retrain_assets.stores.storage import Storage

LOG_INTERVAL = 50  # partitions between two lines of the log
WEEKLY = "17 3 * * 0"


def report_asset(model: Model) -> dg.AssetsDefinition:
    """Return `<m>/report`, which each run of monitoring or retraining writes again."""
    text = "What is in production and why, the time line, what waits for a person, what is next."
    deps = [model.key("monitoring"), model.key("production_model")]

    @dg.asset(**model.asset("report", text, "html"), **model.by_member(), deps=deps)
    def report_(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> dg.MaterializeResult[None]:
        opened, member = storage.open(), model.decided(context)
        described = metadata.describe_stored(
            context,
            "report",
            lambda: _describe_report(member, member.state(opened), opened),
            remedy=f"retrain report {member.spec.name}",
        )
        return dg.MaterializeResult(metadata=described)

    return report_


def _describe_report(model: Model, state: ModelState, storage: Storage) -> dict[str, Any]:
    name = model.spec.name
    value = report.write_report(state, storage.reports, f"{name}.html")
    return {
        "report": metadata.link_page(f"models/{name}", storage.report(name)),
        "in production": status.describe_production(value),
        **{
            name: "\n".join(texts) or "nothing waits for a person"
            for name, texts in status.answer(value).items()
        },
    }


def replay_asset(model: Model) -> dg.AssetsDefinition:
    """Return `<m>/replay`; nothing asks for it but a person."""
    text = "What other triggers would have brought over stored history; changes nothing."
    deps = [model.key("features"), model.key("profile")]

    kinds = "polars", "scikitlearn"

    @dg.asset(**model.asset("replay", text, *kinds), **model.by_member(), deps=deps)
    def replay(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> dg.MaterializeResult[None]:
        from retrain_assets.steps.replay import replay_policies

        def report(name: str, count: int, total: int) -> None:
            if count % LOG_INTERVAL == 0 or count == total:
                context.log.info("%s: %d of %d partitions", name, count, total)

        state = model.decided(context).state(storage.open())
        outcome = replay_policies(state, usual_policies(state.spec), report)
        return dg.MaterializeResult(metadata=_describe_outcome(outcome))

    return replay


def _describe_outcome(outcome: Any) -> dict[str, Any]:
    from retrain_assets.reports.page import to_markdown
    from retrain_assets.reports.plots import draw_replay

    return {
        "proposal": outcome.summary,
        "policies": checks.table([asdict(standing) for standing in outcome.standings]),
        "cost_and_benefit": dg.MetadataValue.md(to_markdown(draw_replay(outcome))),
    }


class Age(dg.Config):
    """Configure how old a removed file is: who still reads or writes a younger one keeps it."""

    hours: int = Field(HOURS, ge=24)


def storage_asset(model: Model) -> dg.AssetsDefinition:
    """Return `<m>/storage`."""
    text = (
        "Tables of the model and its datasets, compacted and without the files of versions "
        "that no registered model needs. What is removed cannot be brought back."
    )

    @dg.asset(**model.asset("storage", text, "deltalake"), pool="storage")
    def storage_(config: Age, storage: StorageResource) -> dg.MaterializeResult[None]:
        groups = {*model.members, model.dataset.name, *model.lookups}
        tables = vacuum(storage.open(), groups, config.hours)
        return dg.MaterializeResult(
            metadata={
                "freed_bytes": sum(table.bytes for table in tables),
                "removed_files": sum(table.files for table in tables),
                "tables": checks.table([asdict(table) for table in tables]),
            }
        )

    return storage_


def vacuum_schedule(model: Model) -> dg.ScheduleDefinition:
    """Return `<m>_vacuum_weekly`, which is off until a person switches it on."""
    return dg.ScheduleDefinition(
        name=f"{model.spec.name}_vacuum_weekly",
        job=dg.define_asset_job(
            f"{model.spec.name}_vacuum",
            selection=dg.AssetSelection.assets(model.key("storage")),
            description="Remove what no registered model needs of the tables.",
            tags={metadata.MODEL_TAG: model.spec.name},
        ),
        cron_schedule=WEEKLY,
        execution_timezone=model.dataset.partition.timezone,
        description="Removes what no registered model needs, Sundays; off until switched on.",
    )
