"""Export what serves, for servers without this platform: members, state of the layer, formula.

Not here: releases of one version for this platform (`release`), and serving (`serving`).
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrain_assets.domain.adaptation import layer, linear
from retrain_assets.steps.decision import train
from retrain_assets.steps.monitoring import in_service
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.registry.model_file import MODEL_FILE

README = """# What serves {model}

`layer.json` names the members, the newest first, and holds the formula's numbers. Each member has a
folder:

- `features.json`: `columns` of its matrix in order; of each text column `categories`, whose code is
  the place in the list (NaN for other values); the columns `empty` in training, which are 0; and
  `classes`, the columns of its probabilities. If `encoded` is false, it takes no such matrix but a
  frame of pandas with these columns: numbers as floats, texts as they are (type `category`).
- its file: that of its library (LightGBM, XGBoost, CatBoost), or `model.skops` with a pipeline of
  scikit-learn, which `skops.io.load(file, trusted=[...])` reads; look at the types first, which
  `skops.io.get_untrusted_types(file=file)` lists. It predicts the matrix. With XGBoost, that is
  `DMatrix(matrix, feature_types=booster.feature_types)`. A file of CatBoost takes the columns
  without categories first, then the codes as texts, `-1` for NaN.

`serve` takes what the members predict: probabilities of the second class, of all `classes` of
`layer.json` (0 for one that a member does not have), or numbers. It needs numpy only.

```python
import json
import numpy as np

LAYER = json.load(open("layer.json"))
KIND, DEVIATION = LAYER["kind"], LAYER["deviation"]

def link(values, least):
    if KIND == "regression":
        return values / DEVIATION
    inside = np.clip(values, least, 1 - least)
    return np.log(inside / (1 - inside)) if KIND == "binary" else np.log(inside)

def inverse(eta):
    if KIND == "regression":
        return eta * DEVIATION
    if KIND == "binary":
        return 1 / (1 + np.exp(-eta))
    raised = np.exp(eta - eta.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)

def serve(outputs):
    newest, inputs = outputs[0], [link(outputs[i], LAYER["clip"]) for i in LAYER["roles"]]
    mixed = LAYER["weights"][0] * newest
    for weight, head in zip(LAYER["weights"][1:], LAYER["heads"]):
        eta = np.array(head["bias"]) + sum(w * z for w, z in zip(head["weights"], inputs))
        mixed = mixed + weight * inverse(eta)
    with np.errstate(all="ignore"):
        near = np.abs(link(mixed, 0.0) - inputs[0]) <= LAYER["far"]
    near = near & np.isfinite(np.array(outputs)).all(axis=0)
    near = near if near.ndim == 1 else near.all(axis=1)[:, None]
    return np.where(near, mixed, newest)
```
"""


def export(state: ModelState, folder: Path) -> dict[str, Any]:
    """Write what serves now into a new folder.

    Returns:
        `model`, `state`, the partition of the layer's state (None while the newest version serves
        alone), and `members`, their versions.

    Raises:
        LookupError: No version is in production.
        ValueError: The folder exists, or the newest state is too old to serve.
    """
    name, history = state.spec.name, state.ledger.read()
    if history.production is None:
        raise LookupError(f"model {name} has no version in production: nothing serves")
    try:
        newest = in_service.read_newest(state, history)
    except in_service.OldStateError as error:
        raise ValueError(str(error)) from error
    if folder.exists():
        raise ValueError(f"{folder} exists: name a new folder")
    newest, members, classes = _load_members(state, history.production, newest)
    for version, pipeline in members.items():
        _export_member(version, pipeline, folder)
    value = {"model": name, "state": newest and newest.name, "members": [*members]}
    facts = value | {"classes": classes} | _describe(state, newest)
    (folder / "layer.json").write_text(json.dumps(facts, indent=1))
    (folder / "README.md").write_text(README.replace("{model}", name))
    return value


def _load_members(
    state: ModelState, production: LedgerRow, newest: in_service.Newest | None
) -> tuple[in_service.Newest | None, dict[int, Any], tuple[str, ...]]:
    """Return what the service answers with: state, pipelines by their version, and classes.

    It leaves out older members whose features are no longer made, and a state of another shape.
    """
    rows = newest.members if newest else (production,)
    pipelines = {row.version: state.registry.load(row.version, row.sha256) for row in rows}
    first, *older = pipelines
    has_classes = state.spec.target.kind == "multiclass"
    classes = (*(train.get_classes(pipelines[first]) or ()),) if has_classes else ()
    if newest is None or not newest.fits(classes, state.spec.layer.members):
        return None, {first: pipelines[first]}, classes
    for version in older:
        if train.list_missing_features(state, pipelines[version]):
            del pipelines[version]
    rows = (*(row for row in rows if row.version in pipelines),)
    return replace(newest, members=rows), pipelines, classes


def _describe(state: ModelState, newest: in_service.Newest | None) -> dict[str, Any]:
    """Return the numbers of the formula; without heads, the newest version serves alone."""
    value = {"kind": state.spec.target.kind, "clip": linear.CLIP, "far": layer.FAR}
    if newest is None:
        return value | {"deviation": 1.0, "roles": [0], "weights": [1.0], "heads": []}
    now, count = newest.state, len(newest.members)
    heads = zip(now.heads, (1, 1, now.members, now.members), strict=True)
    return value | {
        "deviation": now.deviation,
        "roles": layer.fill_roles(range(count), now.members),
        "weights": now.weights.tolist(),
        "heads": [
            {"bias": head.coefficients[:-k].tolist(), "weights": head.coefficients[-k:].tolist()}
            for head, k in heads
        ],
    }


def _export_member(version: int, pipeline: Any, folder: Path) -> None:
    from retrain_assets.domain.encoder import FrameColumns

    encoder, place = pipeline[0], folder / str(version)
    place.mkdir(parents=True)
    facts = {
        "encoded": not isinstance(encoder, FrameColumns),
        "columns": encoder.columns_,
        "categories": encoder.categories_,
        "empty": encoder.empty_,
        "classes": train.get_classes(pipeline),
    }
    (place / "features.json").write_text(json.dumps(facts, indent=1, default=str))
    for name, content in _list_files(pipeline):
        (place / name).write_bytes(content)


def _list_files(pipeline: Any) -> Iterator[tuple[str, bytes]]:
    import skops.io

    if hasattr(pipeline[-1], "native_"):
        yield pipeline[-1].family.flavor(pipeline[-1]).file, pipeline[-1].native_
    else:
        yield MODEL_FILE, skops.io.dumps(pipeline[1:])
