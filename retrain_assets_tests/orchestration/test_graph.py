"""The graph that ships, as a golden text: a change of it is a change one sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from retrain_assets.definitions import build_defs
from retrain_assets.orchestration.resources import StorageResource

GOLDEN = Path(__file__).parents[1] / "golden" / "graph.txt"


def lines(definitions: dg.Definitions) -> Iterator[str]:
    graph = definitions.resolve_asset_graph()
    checks: dict[str, list[str]] = {}
    for check in sorted(graph.asset_check_keys):
        checks.setdefault(check.asset_key.to_user_string(), []).append(check.name)
    for key in sorted(graph.get_all_asset_keys()):
        node, name = graph.get(key), key.to_user_string()
        partitioned = " partitioned" if node.is_partitioned else ""
        external = "" if node.is_materializable else " external"
        yield f"asset {name} [{node.group_name}]{partitioned}{external}"
        yield from (f"  from {parent.to_user_string()}" for parent in sorted(node.parent_keys))
        yield from (f"  check {check}" for check in checks.get(name, []))
    repository = definitions.get_repository_def()
    named = [job.name for job in repository.get_all_jobs() if not job.name.startswith("__")]
    yield from (f"job {name}" for name in sorted(named))
    yield from (f"sensor {sensor.name}" for sensor in repository.sensor_defs)
    yield from (f"schedule {schedule.name}" for schedule in repository.schedule_defs)


def test_the_graph_is_the_golden_one() -> None:
    """After a wanted change, write what this prints to golden/graph.txt and look at the diff."""
    found = "\n".join(lines(build_defs())) + "\n"
    assert found == GOLDEN.read_text(encoding="utf-8"), found


def test_every_asset_and_check_says_what_it_is() -> None:
    graph = build_defs().resolve_asset_graph()
    assert all(graph.get(key).description for key in graph.get_all_asset_keys())


def test_resources_can_be_overridden() -> None:
    mine = StorageResource(root="/elsewhere")
    definitions = build_defs({"storage": mine})
    top = definitions.get_repository_def().get_top_level_resources()
    assert top["storage"].configurable_resource_cls is StorageResource
    assert definitions.resources is not None
    assert definitions.resources["storage"] is mine


@pytest.mark.parametrize("job", ["flights_ingest", "flight_delay_monitor"])
def test_a_backfill_over_a_range_is_one_run(job: str) -> None:
    definition = build_defs().resolve_job_def(job)
    assert definition.backfill_policy == dg.BackfillPolicy.single_run()
