"""Build the pipeline of a stored model file without running anything that is in the file.

The file's digest, stored apart from the file, is compared first; then skops builds the objects,
from a list of types that is ours and not the file's. A model of another library is in it as the
library's native file, which that library reads when it first predicts. Not here: where files are
stored, and what MLflow says about them.
"""

import json
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from retrain_assets.domain.model.families.catalogue import FAMILIES, TITLES
from retrain_assets.errors import PermanentError
from retrain_assets.specs.model import may_trust

MODEL_FILE = "model.skops"
SMALL_BYTES = 2**24  # of a file whose model may stay in memory
# Of an object, and of the file of an array; short where Python itself lies at low addresses.
_ADDRESS = r'(?<="__id__": )\d+|\d+(?=\.np[yz]")'
# Trees of neighbours count how often they were asked, in these places of their state.
_ASKED, _COUNTS = ("KDTree", "BallTree"), slice(7, 11)
# Beside what skops trusts by itself (estimators of scikit-learn, numbers, arrays, containers),
# these types of scikit-learn's own estimators were reviewed: to build one runs no code that a file
# names. What a partial, scorer or kernel of a function calls must be trusted too.
_OF_SKLEARN = {
    "_loss.loss": "HalfTweedieLoss HalfTweedieLossIdentity",
    "calibration": "_CalibratedClassifier _SigmoidCalibration _TemperatureScaling",
    "ensemble._hist_gradient_boosting.predictor": "TreePredictor",
    "feature_selection._mutual_info": "mutual_info_classif mutual_info_regression",
    "feature_selection._univariate_selection": "chi2 f_classif f_regression r_regression",
    "gaussian_process._gpc": "_BinaryGaussianProcessClassifierLaplace",
    "gaussian_process.kernels": "ConstantKernel DotProduct ExpSineSquared "
    "Exponentiation Matern PairwiseKernel Product RBF RationalQuadratic Sum WhiteKernel",
    "impute._iterative": "IterativeImputer _ImputerTriplet",
    "metrics._classification": "balanced_accuracy_score",
    "metrics._dist_metrics": "BrayCurtisDistance64 CanberraDistance64 ChebyshevDistance64 "
    "DiceDistance64 EuclideanDistance64 HammingDistance64 JaccardDistance64 ManhattanDistance64 "
    "MinkowskiDistance64 RogersTanimotoDistance64 RussellRaoDistance64 SokalMichenerDistance64 "
    "SokalSneathDistance64",
    "metrics._scorer": "_CurveScorer _PassthroughScorer _Scorer",
    "model_selection._split": "KFold StratifiedKFold TimeSeriesSplit",
    "neighbors._ball_tree": "BallTree",
    "neighbors._kd_tree": "KDTree",
    "neural_network._stochastic_optimizers": "AdamOptimizer SGDOptimizer",
    "tree._tree": "Tree",
    "utils._bunch": "Bunch",
    "utils._metadata_requests": "MetadataRequest MethodMetadataRequest",
    "utils.validation": "check_array",
}
_NATIVE = sorted({name for family in FAMILIES for name in family.trusted_types})
TRUSTED_TYPES = (
    "functools.partial",
    "numpy.dtype",
    "retrain_assets.domain.encoder.FrameColumns",
    "retrain_assets.domain.encoder.FrameEncoder",
    "scipy._lib.array_api_compat.numpy._aliases.asarray",
    "scipy.interpolate._bsplines.BSpline",
    *(
        f"sklearn.{module}.{name}"
        for module, names in _OF_SKLEARN.items()
        for name in names.split()
    ),
    *_NATIVE,
)


class ModelFileError(PermanentError):
    """A model file cannot be used; the message names the version and what would do."""


def prepare_threads() -> None:
    """Let idle OpenMP threads sleep instead of spin; call it before scikit-learn is first imported.

    Where more processes run than there are cores, spinning threads make a fit of
    HistGradientBoosting ten times as slow. The variable is read once, when libgomp is loaded. It
    is set here since the `domain` package, which fits, does not touch the environment.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def digest(content: bytes) -> str:
    """Return the digest of a model file."""
    return sha256(content).hexdigest()


def content_digest(content: bytes) -> str:
    """Return a digest of the objects of a model file.

    Two files of equal objects differ in times of day and in addresses of memory: skops numbers
    objects by these. Here they are numbered in the order in which they are met. A prediction
    changes no model, so what counts predictions is left out.
    """
    with ZipFile(BytesIO(content)) as archive:
        schema, names = archive.read("schema.json").decode(), archive.namelist()
        if any(f'"{name}"' in schema for name in _ASKED):
            schema = json.dumps(json.loads(schema, object_hook=_clear_counts))
        numbers: dict[str, str] = {}
        for address in re.findall(_ADDRESS, schema):
            numbers.setdefault(address, str(len(numbers)))
        schema = re.sub(_ADDRESS, lambda match: f"#{numbers[match[0]]}", schema)
        inner = sorted(
            (numbers.get(Path(name).stem, name), digest(_clear_padding(archive.read(name), name)))
            for name in names
            if name != "schema.json"
        )
    return digest(repr((schema, inner)).encode())


def _clear_counts(node: dict[str, Any]) -> dict[str, Any]:
    """Return a node of a schema without the numbers that each prediction raises."""
    if node.get("__class__") in _ASKED:
        node["content"]["content"][_COUNTS] = []
    return node


def _clear_padding(content: bytes, name: str) -> bytes:
    """Return a file of an array with zeros between its fields, where trees have any bytes."""
    if not name.endswith(".npy"):
        return content
    array = np.load(BytesIO(content), allow_pickle=False)
    if array.dtype.names is None:
        return content
    cleared = np.zeros(array.shape, array.dtype)  # `zeros_like` sets the fields only
    for field in array.dtype.names:
        cleared[field] = array[field]
    return bytes(content[: len(content) - array.nbytes] + cleared.tobytes())


def may_crash(content: bytes) -> bool:
    """Return whether a file holds a native file, which may crash the process if it is damaged."""
    with ZipFile(BytesIO(content)) as archive:
        schema = archive.read("schema.json").decode()
    return any(f'"{name.rpartition(".")[2]}"' in schema for name in _NATIVE)


def load_model(content: bytes, expected: str, name: str, trusted: Sequence[str] = ()) -> Any:
    """Build the pipeline of a model file.

    Args:
        content: The file.
        expected: Its digest, from a place that whoever can write the file cannot write.
        name: The model version, for messages.
        trusted: Types of the user that it may hold (`estimator.trusted`); their modules are
            imported, from where Python finds them and not from the file.

    Raises:
        ModelFileError: The digest differs, nothing was deserialised; or a type is not trusted, or
            its module is not here.
    """
    if (actual := digest(content)) != expected:
        raise ModelFileError(
            f"{name}: {MODEL_FILE} has sha256 {actual[:12]}…, {expected[:12]}… was recorded: the "
            "file was changed after training, restore it or roll back to another version"
        )
    prepare_threads()
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        if trusted or len(content) > SMALL_BYTES:
            return _build(content, trusted)
        return _build_once(content)
    except UntrustedTypesFoundException as error:
        raise ModelFileError(describe_untrusted(name, content, trusted)) from error
    except (ImportError, AttributeError) as error:
        if not trusted:
            raise
        raise ModelFileError(
            f"{name}: holds one of {', '.join(trusted)}, which cannot be imported ({error}): put "
            "its module on PYTHONPATH, as where the model was trained"
        ) from error


def _build(content: bytes, trusted: Sequence[str] = ()) -> Any:
    import skops.io

    return skops.io.loads(content, trusted=[*TRUSTED_TYPES, *trusted])


# A decision loads production, its candidate and the members of the layer several times. Whoever
# loads changes nothing.
_build_once = lru_cache(maxsize=8)(_build)


def describe_untrusted(name: str, content: bytes, trusted: Sequence[str]) -> str:
    """Describe a file that holds types outside the list, and the YAML that would trust them."""
    import skops.io

    allowed = {*TRUSTED_TYPES, *trusted}
    types = sorted({*skops.io.get_untrusted_types(data=content)} - allowed)
    remedy = f"choose an estimator of {TITLES}, or one made of their own parts"
    if all(map(may_trust, types)):
        line = ", ".join([*trusted, *types])
        remedy += f"; or, if you trust that code, write estimator.trusted: [{line}]"
    return (
        f"{name}: holds {', '.join(types)}, which is not among the types that are loaded: {remedy}"
    )
