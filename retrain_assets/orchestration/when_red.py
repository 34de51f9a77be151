"""What to do when a check fails: shown with the check, and in docs/operations.md.

Not here: what is checked.
"""

WHEN_RED: dict[str, str] = {
    "not_worse_than_before": "With `watch: auto` the version before is in production again. Else: "
    "`retrain rollback`, unless what came since was out of the ordinary.",
    "schema_matches": "Look at the file and row in the table. A file that was cut off or has other "
    "columns is delivered again; a new column or type is a change of the YAML.",
    "required_values_present": "Ask whoever delivers why the values are missing. The refused rows "
    "are listed by `retrain quarantine`; a corrected file replaces its partition.",
    "values_within_range": "Wrong values are delivered again; a range that no longer holds is "
    "widened in the YAML.",
    "categories_allowed": "A value that is right and new is added to `allowed`; then "
    "materialize the partition again.",
    "keys_unique": "A row was delivered twice or two rows contradict each other: have the file "
    "corrected. Keys in several partitions are told only, and change nothing.",
    "volume_within_range": "See whether the delivery is complete. A refused partition keeps its "
    "earlier rows; if so few are right, widen `rows`.",
    "outlier_share_within_range": "Look at the named column or partition: a unit that changed, a "
    "sensor that broke? Nothing is held back unless the YAML says so.",
    "accepted_rows_pass_great_expectations": "The linked page says which expectation failed for "
    "which partitions; these keep their earlier rows until the file is corrected.",
    "every_row_accounted_for": "Rows were lost between reading and storing: a fault of the "
    "platform. Keep the file, stop the dataset's sensor and report it.",
    "features_match_training": "Nothing is held back. If the change will stay, let the model be "
    "trained on it; if not, have the data corrected.",
    "target_balance_within_range": "See whether the labels are final and complete: `labels.delay` "
    "may be too short.",
    "no_data_drift": "Read `retrain plan`: drift asks for a retrain by itself where the YAML says "
    "so. Drift without loss of performance needs nothing.",
    "no_prediction_drift": "Read it beside data drift and performance: alone, it is a reason to "
    "look and not to act.",
    "no_target_drift": "See whether labels arrived late or their definition changed; else the "
    "triggers decide.",
    "performance_holds": "The triggers ask for a candidate, and the gate decides on it. If harm is "
    "done meanwhile: `retrain rollback`.",
    "loads_and_predicts": "The version is not used. The message says what differs: a library other "
    "than it was trained with, or a damaged file. Run the retrain job again.",
    "candidate_beats_production": "Nothing needs to be done: production stays. The reason says how "
    "sure that is, and how many more partitions it would take.",
    "no_slice_regresses": "Production stays. See whether the slice was sampled fairly in training; "
    "the table shows by how much it lost.",
    "alias_matches_ledger": "Somebody moved the alias, or MLflow was away. Materialize "
    "`production_model` again: the alias follows the ledger.",
    "trained_on_current_data": "The named partitions were corrected after training. If they "
    "matter, start the retrain job by hand; the next retrain uses them in any case.",
}
