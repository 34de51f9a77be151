"""The results of checks as Dagster stores them."""

import dagster as dg
import pytest

from retrain_assets.orchestration import checks

KEY, NAME = dg.AssetKey("rows"), "keys_unique"


@pytest.mark.parametrize("by_partition", [True, False])
def test_a_partitioned_check_has_a_result_for_each_partition(
    monkeypatch: pytest.MonkeyPatch, *, by_partition: bool
) -> None:
    monkeypatch.setenv(checks.BY_PARTITION, "1" * by_partition)
    parts = dg.StaticPartitionsDefinition(["a", "b", "c"])

    @dg.asset(
        key=KEY,
        partitions_def=parts,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[checks.spec(KEY, NAME, "So it is.", parts)],
    )
    def rows(context: dg.AssetExecutionContext):  # noqa: ANN202 Dagster reads the annotation
        yield dg.MaterializeResult()
        cases = [{"partition": "b", "rows": 2}]
        yield from checks.spread(context, [checks.result(NAME, KEY, cases)])

    tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([rows], instance=instance, tags=tags).success
        check = dg.AssetCheckKey(KEY, NAME)
        stored = instance.event_log_storage.get_asset_check_execution_history(check, 9)
        (run,) = instance.get_runs()
        lines = list(checks.failures(instance, run.run_id))
    results = {row.partition: row.status.value for row in stored}
    expected = {"a": "SUCCEEDED", "b": "FAILED", "c": "SUCCEEDED"}
    assert results == (expected if by_partition else {None: "FAILED"})
    assert lines == ["rows keys_unique: partition b, rows 2"]
