"""Resources: settings that build the plain objects of `stores`.

They are module-level singletons, since two components that each bring their own resource of one
key cannot be merged. Not here: anything that works without Dagster.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL, Logger, getLogger
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg

from retrain_assets.specs.notify import Channel, NotifySpec
from retrain_assets.stores.messages import TIMEOUT_SECONDS, senders
from retrain_assets.stores.storage import Storage, storage_from

# Known to no configuration of logging, which would switch on again what was disabled.
_SILENT = Logger("slack", CRITICAL + 1)  # noqa: LOG001 see above


class StorageResource(dg.ConfigurableResource[Storage]):
    """The place of all data and models.

    `root` is `data/` of the project when empty, or what `RETRAIN_STORAGE` names; the others are
    what `MLFLOW_TRACKING_URI` and `RETRAIN_WORK` name.
    """

    root: str = ""
    tracking_uri: str = ""
    work: str = ""

    def open(self) -> Storage:
        """Return the storage; settings are taken before the environment."""
        settings = {
            "RETRAIN_STORAGE": self.root,
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "RETRAIN_WORK": self.work,
        }
        overrides = {name: value for name, value in settings.items() if value}
        return storage_from(os.environ | overrides, Path.cwd())


class Channels(dg.ConfigurableResource[Any]):
    """Slack (by way of dagster-slack), e-mail and webhooks.

    Servers and credentials are read from the environment: settings would be stored with the
    configuration of a run. `slack_url` is for a proxy.
    """

    slack_url: str = ""

    def senders(self, notify: NotifySpec) -> tuple[dict[Channel, Any], list[str]]:
        """Return the channels of a spec that can be used, and why the others cannot."""
        return senders(notify, os.environ, self._slack)

    def _slack(self, token: str) -> Any:
        from dagster_slack import SlackResource

        client = SlackResource(token=token).get_client()
        if self.slack_url:
            client.base_url = f"{self.slack_url.rstrip('/')}/"
        client.timeout = TIMEOUT_SECONDS
        client._logger = _SILENT  # noqa: SLF001 it would log what it is answered, whatever that is
        return client


CHANNELS = Channels()
RESOURCES: dict[str, object] = {"storage": StorageResource(), "channels": CHANNELS}


@contextmanager
def mlflow_run(
    context: dg.AssetExecutionContext, storage: Storage, experiment: str
) -> Iterator[str]:
    """Open an MLflow run linked to the Dagster run by dagster-mlflow; it ends when the step ends.

    The resource is made in the step, since importing it imports MLflow, and it would otherwise
    leave its run active for the next one in the same process.

    Yields:
        The id of the MLflow run.
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


@contextmanager
def nested_run() -> Iterator[str]:
    """Open an MLflow run below the active one, for a further fit.

    Yields:
        Its id.
    """
    import mlflow

    with mlflow.start_run(nested=True) as run:
        yield run.info.run_id
