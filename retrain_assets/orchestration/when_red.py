"""What to do when a check fails: shown with the check, and in docs/operations.md.

Not here: what is checked.
"""

WHEN_RED: dict[str, str] = {
    "not_worse_than_before": "With `watch: auto`, the version before is already in production "
    "again. Otherwise run `retrain rollback`, unless the data since the promotion were unusual.",
    "schema_matches": "Look at the file and the row in the table. If the file was cut off or has "
    "wrong columns, have it delivered again. If a column is new or has a new type, change the "
    "YAML.",
    "required_values_present": "Ask whoever delivers the data why the values are missing. "
    "`retrain quarantine` lists the refused rows. A corrected file replaces its partition.",
    "values_within_range": "If the values are wrong, have the file delivered again. If the range "
    "is too narrow, widen it in the YAML.",
    "categories_allowed": "If the value is correct but new, add it to `allowed` in the YAML and "
    "materialize the partition again. Otherwise have the file corrected.",
    "keys_unique": "A row was delivered twice, or two rows with the same key differ: have the file "
    "corrected. Keys that occur in several partitions are only a warning.",
    "volume_within_range": "Ask whether the delivery is complete. A refused partition keeps its "
    "earlier rows. If the number of rows is correct, widen `rows` in the YAML.",
    "outlier_share_within_range": "Look at the named column or partition: a unit may have changed, "
    "or a sensor may be broken. The rows are used, unless the YAML has `action: quarantine`.",
    "accepted_rows_pass_great_expectations": "The table shows which expectation failed for which "
    "partitions. These partitions keep their earlier rows until the file is corrected.",
    "every_row_accounted_for": "Rows were lost between reading and storing. This is a fault of the "
    "platform: keep the file, stop the sensor of the dataset, and report the fault.",
    "features_match_training": "The data are used all the same. If the change is permanent, "
    "retrain the model. If it is a mistake, have the data corrected.",
    "target_balance_within_range": "Check that the labels are final and complete: `labels.delay` "
    "may be too short.",
    "no_data_drift": "Run `retrain plan`. It shows whether the YAML makes this drift a cause of "
    "retraining. If performance holds, you need not do anything.",
    "no_prediction_drift": "Compare it with data drift and performance. Prediction drift alone is "
    "a reason to look, not a reason to act.",
    "no_target_drift": "Check whether labels arrived late or their definition changed. If not, "
    "wait: the triggers decide whether to retrain.",
    "performance_holds": "You can wait: the triggers start a retraining, and the gate decides on "
    "the new candidate. If the present model does harm, run `retrain rollback`.",
    "loads_and_predicts": "The version is not used. The message names the difference: another "
    "version of a library than in training, or a damaged file. Run the retrain job again.",
    "candidate_beats_production": "You need not do anything: production stays. The reason states "
    "how sure the result is, and how many more partitions would probably settle it.",
    "no_slice_regresses": "Production stays. The table shows how much worse the candidate is on "
    "each slice. Check whether the training rows represent that slice well.",
    "alias_matches_ledger": "Somebody moved the alias by hand, or MLflow did not answer. "
    "Materialize `production_model` again: this sets the alias as the ledger requires.",
    "trained_on_current_data": "The named partitions were corrected after the training. If they "
    "matter, start the retrain job by hand. In any case, the next retraining uses the new data.",
}
