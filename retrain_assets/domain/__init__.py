"""Pure: frames and numbers in, values out. No Dagster, MLflow, Delta, clock or environment."""
