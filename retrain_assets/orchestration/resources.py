"""Resources: settings that build the plain objects of `stores`.

They are module-level singletons, since two components that each bring their own resource of one
key cannot be merged. Not here: anything that works without Dagster.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from logging import Logger, getLogger
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dagster as dg

from retrain_assets.stores.notify import Notifier
from retrain_assets.stores.storage import Storage, storage_from

if TYPE_CHECKING:
    from collections.abc import Iterator


class StorageResource(dg.ConfigurableResource[Storage]):
    """Where everything is kept.

    `root` is `data/` of the project when empty, or what `RETRAIN_STORAGE` names.
    """

    root: str = ""
    tracking_uri: str = ""

    def open(self) -> Storage:
        """The storage, with settings taken before the environment."""
        settings = {"RETRAIN_STORAGE": self.root, "MLFLOW_TRACKING_URI": self.tracking_uri}
        given = {name: value for name, value in settings.items() if value}
        return storage_from(os.environ | given, Path.cwd())


class SlackNotifications(dg.ConfigurableResource[Notifier]):
    """Slack by way of dagster-slack; without a token, messages are logged only.

    The token is no setting, which would be stored with the configuration of a run: it is read from
    `SLACK_BOT_TOKEN` and from nowhere else.
    """

    base_url: str = ""

    def notifier(self, log: Logger) -> Notifier:
        """Who tells people, for one run."""
        token = os.environ.get("SLACK_BOT_TOKEN", "")
        if not token:
            return Notifier(None, log)
        return Notifier(lambda: self._client(token), log)

    def _client(self, token: str) -> Any:
        from dagster_slack import SlackResource

        client = SlackResource(token=token).get_client()
        if self.base_url:
            client.base_url = self.base_url if self.base_url.endswith("/") else f"{self.base_url}/"
        client.timeout = 10
        return client


STORAGE = StorageResource()
SLACK = SlackNotifications()
RESOURCES: dict[str, object] = {"storage": STORAGE, "slack": SLACK}


@contextmanager
def mlflow_run(
    context: dg.AssetExecutionContext, storage: Storage, experiment: str
) -> Iterator[str]:
    """An MLflow run linked to the Dagster run by dagster-mlflow; ended however the step ends.

    The resource is made in the step, since importing it imports MLflow, and it would otherwise
    leave its run active for the next one in the same process.

    Yields:
        The MLflow run's id.
    """
    storage.registry(experiment).prepare()
    import mlflow
    from dagster_mlflow.resources import MlFlow

    mlflow.end_run()
    MlFlow(
        SimpleNamespace(
            log=getLogger(__name__),
            dagster_run=context.run,
            run_id=context.run_id,
            resource_config={"experiment_name": experiment},
        )
    )
    try:
        yield mlflow.active_run().info.run_id
    except BaseException:
        mlflow.end_run("FAILED")
        raise
    mlflow.end_run("FINISHED")
