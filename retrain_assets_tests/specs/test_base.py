"""What all specs share: durations, and that every field is described."""

from pathlib import Path

import pytest

import retrain_assets
from retrain_assets.specs.base import duration
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.yaml import load_strictly


@pytest.mark.parametrize(
    "text", ["3", "h", "3 h", "-3h", "3h\n", "\uff13h", "1.5h", "9999999d", ""]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write 90m, 3h or 2d"):
        duration(text)


def test_every_shipped_document_is_sound_and_every_field_described() -> None:
    paths = sorted((Path(retrain_assets.__file__).parent / "defs").glob("*/defs.yaml"))
    documents = [document.value for path in paths for document in load_strictly(path)]
    classes = {"LandedDataset": DatasetSpec, "RetrainedModel": ModelSpec}
    names = [
        classes[item["type"].partition(".")[2]].model_validate(item["attributes"]).name
        for item in documents
    ]
    assert {"flights", "weather", "planes", "flight_delay"} <= set(names)
    for schema in (DatasetSpec.model_json_schema(), ModelSpec.model_json_schema()):
        for part in (schema, *schema["$defs"].values()):
            undescribed = [n for n, f in part["properties"].items() if "description" not in f]
            assert undescribed == [], part["title"]
