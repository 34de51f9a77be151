"""Every spec that loads is equal after it was stored as JSON, whatever fields it sets."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from retrain_assets.specs.base import Spec
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec, PolicySpec

MODEL: dict[str, Any] = {
    "name": "m",
    "dataset": "d",
    "features": {"sql": "SELECT x FROM rows"},
    "target": {"column": "y", "kind": "binary"},
    "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
    "gate": {"metric": "log_loss"},
}
DATASET: dict[str, Any] = {
    "name": "d",
    "landing": "d/{partition}.csv",
    "partition": {"by": "day", "column": "day", "start": "2020-01-01"},
    "columns": {"day": {"type": "date"}, "id": {"type": "int"}, "x": {"type": "float"}},
    "key": ["day", "id"],
}
BASES = {ModelSpec: MODEL, DatasetSpec: DATASET, PolicySpec: {"name": "p"}}
# Of texts that have a form: one of these fits wherever it is asked for.
TEXTS = ["a", "x", "day", "1h", "2d", "a:b", "0 6 * * *", "2020-01-01", "Europe/Berlin", "a@b.c"]


def values(schema: Mapping[str, Any], parts: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a JSON schema, many of which load."""
    if "$ref" in schema:
        return st.deferred(lambda: values(parts[schema["$ref"].rpartition("/")[2]], parts))
    if "anyOf" in schema:
        return st.one_of([values(option, parts) for option in schema["anyOf"]])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    return BY_TYPE.get(schema.get("type", "string"), texts)(schema, parts)


def texts(_: Mapping[str, Any], __: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from(TEXTS)


def mappings(schema: Mapping[str, Any], parts: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    if "properties" in schema:
        return objects(schema, parts)
    inner = schema.get("additionalProperties")
    value = values(inner, parts) if isinstance(inner, dict) else st.integers(1, 3)
    return st.dictionaries(st.sampled_from(["a", "x", "day"]), value, max_size=2)


def arrays(schema: Mapping[str, Any], parts: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    if "prefixItems" in schema:
        return st.tuples(*(values(item, parts) for item in schema["prefixItems"])).map(list)
    return st.lists(values(schema.get("items", {}), parts), max_size=2, unique_by=repr)


def numbers(schema: Mapping[str, Any], _: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 20))
    if schema["type"] == "integer":
        return st.integers(low, high)
    return st.floats(low, high, exclude_min=True, exclude_max=True).map(lambda x: round(x, 3))


@st.composite
def objects(draw: st.DrawFn, schema: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """An object with the fields that it needs and up to three others."""
    fields = schema["properties"]
    needed = schema.get("required", [])
    further = st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)
    return {name: draw(values(fields[name], parts)) for name in {*needed, *draw(further)}}


BY_TYPE = {
    "object": mappings,
    "array": arrays,
    "integer": numbers,
    "number": numbers,
    "boolean": lambda _schema, _parts: st.booleans(),
}
SCHEMAS = {kind: kind.model_json_schema(by_alias=True) for kind in BASES}


def places(
    schema: Mapping[str, Any], parts: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield where an object of the YAML stands: the names of the fields that lead to it."""
    if "$ref" in schema:
        schema = parts[schema["$ref"].rpartition("/")[2]]
    for option in schema.get("anyOf", ()):
        yield from places(option, parts, path)
    if "properties" in schema:
        yield path
        for name, field in schema["properties"].items():
            yield from places(field, parts, (*path, name))


def schema_at(kind: type[Spec], path: tuple[str, ...]) -> Mapping[str, Any]:
    parts = SCHEMAS[kind].get("$defs", {})
    schema = SCHEMAS[kind]
    for name in (*path, None):
        options = schema.get("anyOf", [schema])
        options = [parts[x["$ref"].rpartition("/")[2]] if "$ref" in x else x for x in options]
        schema = next(option for option in options if "properties" in option)
        schema = schema if name is None else schema["properties"][name]
    return schema


def spec_with(kind: type[Spec], path: tuple[str, ...], value: dict[str, Any]) -> Spec | None:
    """The example with some fields of one object, if that loads."""
    fields = deepcopy(BASES[kind])
    place = fields
    for name in path:
        place = place.setdefault(name, {})
    place |= value
    try:
        return kind.model_validate(fields)
    except ValidationError:
        return None


CASES = [(kind, path) for kind in BASES for path in places(SCHEMAS[kind], SCHEMAS[kind]["$defs"])]


@pytest.mark.parametrize(("kind", "path"), CASES, ids=str)
@given(data=st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=[*HealthCheck])
def test_every_spec_that_loads_is_equal_after_dump_and_load(
    kind: type[Spec], path: tuple[str, ...], data: st.DataObject
) -> None:
    schema, parts = schema_at(kind, path), SCHEMAS[kind]["$defs"]
    needed = {
        name: values(schema["properties"][name], parts) for name in schema.get("required", [])
    }
    base = data.draw(st.fixed_dictionaries(needed)) if path else {}
    pair = data.draw(objects(schema, parts))
    for name, field in schema["properties"].items():
        one = base | {name: data.draw(values(field, parts))}
        for value in (one, one | pair):
            spec = spec_with(kind, path, value)
            if spec is not None:
                stored = spec.model_dump_json()
                loaded = kind.model_validate_json(stored)
                assert loaded == spec
                assert loaded.model_dump_json() == stored
                assert kind.model_validate(spec.model_dump()) == spec
