"""All that reaches into the private modules of Dagster, so that a new version is checked here.

Not here: what sensors and assets decide. The names below are for the modules that need no more.
"""

from dagster._core.definitions import unresolved_asset_job_definition
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES as NOT_FINISHED_STATUSES
from dagster._utils.schedules import is_valid_cron_string as is_valid_cron_string
from dagster._utils.warnings import disable_dagster_warnings as disable_dagster_warnings
from dagster_shared.error import SerializableErrorInfo as SerializableErrorInfo
from dagster_shared.utils.config import discover_config_file as discover_config_file
from dagster_shared.utils.config import load_toml_as_dict as load_toml_as_dict

AssetJob = unresolved_asset_job_definition.UnresolvedAssetJobDefinition
