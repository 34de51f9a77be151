#!/bin/sh
# Removes from an environment what no service reads. Not here: anything that a feature needs.
set -eu
cd "$1"/lib/python3*/site-packages
find . -depth -type d '(' -name tests -o -name __pycache__ ')' -exec rm -rf {} +
# For compilers, for debuggers of the pages in a browser, and static libraries.
find . -type f '(' -name '*.h' -o -name '*.hpp' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.a' \
  -o -path '*/build/*.map' ')' -delete
# Arrow's network protocol, second copies of its libraries, and Kubernetes' client for asyncio.
rm -rf pyarrow/include pyarrow/*flight* pyarrow/libarrow*.so pyarrow/libarrow*.so.*.*.* \
  kubernetes/aio
# Names of functions within libraries; others than these may have been laid out anew, which strip
# does not understand.
for file in _polars_runtime_32/*.so pyarrow/*.so pyarrow/*.so.* obstore/*.so; do
  if [ -e "$file" ]; then strip --strip-unneeded "$file"; fi
done
# Compiled are only the modules that services import, which is a third of all: their root is
# read-only, so that each start would compile them again.
export MLFLOW_DISABLE_TELEMETRY=true DAGSTER_DISABLE_TELEMETRY=true
"$1"/bin/python - <<'END'
import importlib

for name in """
    retrain_assets.definitions retrain_assets.cli retrain_assets.demo.run retrain_assets.serving.run
    retrain_assets.orchestration.dagster_internals.event_log retrain_assets.stores.registry.apart
    dagster_webserver.cli dagster._daemon.cli dagster._grpc.server dagster_postgres dagster_k8s
    dagster_slack dagster_mlflow mlflow.sklearn mlflow.cli mlflow.server.fastapi_app
    mlflow.store.tracking.sqlalchemy_store mlflow.store.model_registry.sqlalchemy_store
    great_expectations.core.batch sklearn.ensemble sklearn.linear_model sklearn.pipeline
    sklearn.compose skops.io matplotlib.pyplot matplotlib.backends.backend_agg scipy.stats optuna
    obstore confluent_kafka psycopg psycopg2 sqlalchemy.dialects.postgresql
    sqlalchemy.dialects.sqlite uvicorn.protocols.http.httptools_impl distributed.cli.dask_worker
    distributed.cli.dask_scheduler dask.__main__ datasketches pyarrow.dataset
""".split():
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # of an extra that the image is built without
        print(f"{name} is not compiled: {error}")
END
