"""The thin Dagster layer: assets, checks, jobs, sensors, partitions, resources.

Not here: what an asset does (`steps`), and the YAML (`components`).
"""

import warnings

import dagster as dg

# One run over a range is what makes a year of partitions cheap; that Dagster calls its policy beta
# is known, and would be said once for each asset at each load.
warnings.filterwarnings("ignore", category=dg.BetaWarning, message=".*backfill_policy.*")
