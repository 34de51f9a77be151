"""The flights by polars alone: read, judge, join. What the platform's data steps are compared with.

Not here: storing anything, and anything of `retrain_assets`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DAY, TARGET = "_landing_partition", "delayed"
LAG, TOLERANCE = timedelta(hours=1), timedelta(hours=6)
TYPES = {"int": pl.Int64, "float": pl.Float64, "category": pl.String, "text": pl.String}


def read(landing: Path, spec: dict[str, Any]) -> pl.DataFrame:
    """All files of a dataset as typed rows, each with its file and partition."""
    pattern = landing / spec["landing"].replace("{partition}", "*")
    types = {name: TYPES.get(column["type"], pl.String) for name, column in spec["columns"].items()}
    if pattern.suffix == ".parquet":
        rows = pl.read_parquet(pattern, include_file_paths="_file")
    elif pattern.suffix == ".csv":
        rows = pl.read_csv(pattern, schema=types, include_file_paths="_file")
    else:
        rows = pl.read_ndjson(pattern, schema=types, include_file_paths="_file")
    times = [name for name, column in spec["columns"].items() if column["type"] == "datetime"]
    utc = pl.Datetime("us", "UTC")
    return rows.with_columns(
        pl.col("_file").str.extract(r"([^/]*)\.\w+$").alias(DAY),
        *(
            pl.col(name).str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
            if rows.schema[name] == pl.String
            else pl.col(name).cast(utc)
            for name in times
        ),
    )


def rules(spec: dict[str, Any]) -> Iterator[pl.Expr]:
    """An expression a rule, named for it, true where a row breaks it."""
    for name, column in spec["columns"].items():
        value = pl.col(name)
        if column.get("required"):
            yield value.is_null().alias(f"{name} required")
        if "min" in column or "max" in column:
            low, high = column.get("min", -np.inf), column.get("max", np.inf)
            yield (~value.is_between(low, high)).alias(f"{name} range")
        if column.get("allowed"):
            yield (~value.is_in(column["allowed"])).alias(f"{name} allowed")
    dated = spec["partition"].get("column")
    if dated is not None:
        day = pl.col(dated)
        if spec["columns"][dated]["type"] == "datetime":
            day = day.dt.convert_time_zone(spec["partition"]["timezone"]).dt.date()
        yield (day.cast(pl.String) != pl.col(DAY)).alias(f"{dated} partition")
    yield pl.struct(DAY, *spec["key"]).is_duplicated().alias("key")


def split(rows: pl.DataFrame, spec: dict[str, Any]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The accepted rows, and the refused with their reasons; a day with too many is refused."""
    broken = {f"_{rule.meta.output_name()}": rule.fill_null(False) for rule in rules(spec)}
    flagged = rows.with_columns(**broken).with_columns(_bad=pl.any_horizontal(*broken))
    per_day = flagged.group_by(DAY).agg(pl.len(), pl.col("_bad").mean())
    low, high = (spec.get("rows", {}).get(bound) for bound in ("min", "max"))
    sound = per_day.filter(
        pl.col("_bad") <= spec.get("quarantine", {}).get("max_fraction", 0.05),
        pl.col("len").is_between(low or 1, high or np.inf),
    )
    bad = pl.col("_bad") | ~pl.col(DAY).is_in(sound[DAY].implode())
    reasons = pl.concat_list(pl.when(name).then(pl.lit(name[1:])) for name in broken)
    refused = flagged.filter(bad).with_columns(_reasons=reasons.list.drop_nulls())
    return flagged.filter(~bad).drop("_bad", *broken), refused.drop("_bad", *broken)


def build_features(tables: Mapping[str, pl.DataFrame], model: dict[str, Any]) -> pl.DataFrame:
    """Weather as of an hour before, planes, then the model's SQL; with key and target."""
    flights, weather, planes = (
        tables[name].drop("_file", strict=False) for name in ("flights", "weather", "planes")
    )
    weather = weather.drop(DAY).rename(lambda c: c if c == "origin" else f"weather_{c}")
    known = weather.with_columns(known_at=pl.col("weather_time_hour") + LAG).sort("known_at")
    rows = (
        flights.sort("time_hour")
        .join_asof(
            known,
            left_on="time_hour",
            right_on="known_at",
            by="origin",
            tolerance=TOLERANCE - LAG,
            check_sortedness=False,
        )
        .join(
            planes.drop(DAY).rename(lambda c: c if c == "tailnum" else f"planes_{c}"),
            on="tailnum",
            how="left",
            maintain_order="left",
        )
    )
    key = pl.concat_str(["carrier", "flight", "origin", "sched_dep_time"], separator="|")
    late = pl.sql_expr(model["target"]["expression"]).cast(pl.Float64)
    identity = rows.select(DAY, key.alias("_key"), late.alias(TARGET))
    features = pl.SQLContext(rows=rows).execute(model["features"]["sql"], eager=True)
    return pl.concat([identity, features], how="horizontal").sort(DAY, "_key")
