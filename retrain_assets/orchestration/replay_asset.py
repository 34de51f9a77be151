"""`<m>/replay`: the usual policies over stored history, as a table and a picture.

Not here: playing them.
"""

from dataclasses import asdict

import dagster as dg
import polars as pl

from retrain_assets.orchestration import checks
from retrain_assets.orchestration.model_assets import Model
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.specs.model import usual_policies

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
        from retrain_assets.reports.plots import markdown
        from retrain_assets.reports.replay import replay_figure
        from retrain_assets.steps.replay import replayed

        def tell(name: str, done: int, total: int) -> None:
            if done % NEWS == 0 or done == total:
                context.log.info("%s: %d of %d partitions", name, done, total)

        state = model.state(storage.open())
        outcome = replayed(state, usual_policies(model.spec), tell)
        rows = pl.DataFrame([asdict(one) for one in outcome.standings])
        return dg.MaterializeResult(
            metadata={
                "proposal": outcome.said,
                "policies": checks.table(rows.to_dicts()),
                "cost_and_benefit": dg.MetadataValue.md(markdown(replay_figure(outcome))),
            }
        )

    return replay
