"""All that reaches into the private modules of Dagster, so that a new version is checked here.

Not here: what sensors and assets decide. The names below are for the modules that need no more.
"""

from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition as AssetJob,
)
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._utils.schedules import is_valid_cron_string
from dagster_shared.utils.config import discover_config_file, load_toml_as_dict

__all__ = [
    "NOT_FINISHED_STATUSES",
    "AssetJob",
    "discover_config_file",
    "is_valid_cron_string",
    "load_toml_as_dict",
]
