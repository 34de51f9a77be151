"""Each of scikit-learn's own estimators that can be stored is restored and predicts the same."""

import math
import re
from inspect import signature
from io import BytesIO
from zipfile import ZipFile

import numpy as np
import pytest
import skops.io
from sklearn import (
    calibration,
    ensemble,
    feature_selection,
    gaussian_process,
    linear_model,
    multiclass,
    naive_bayes,
    neighbors,
    neural_network,
    preprocessing,
    svm,
)
from sklearn import model_selection as selection
from sklearn.base import BaseEstimator, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 needed to import it
from sklearn.gaussian_process import kernels
from sklearn.impute import IterativeImputer
from sklearn.pipeline import make_pipeline
from sklearn.utils import all_estimators

from retrain_assets.domain.model.families.scikit_learn import _PROBABLE, _UNFIT
from retrain_assets.stores.registry.model_file import (
    TRUSTED_TYPES,
    ModelFileError,
    content_digest,
    digest,
    load_model,
)

RANDOM = np.random.default_rng(0)
FEATURES = np.abs(RANDOM.normal(size=(60, 3)))
BINARY = (FEATURES[:, 0] + RANDOM.normal(size=60) > 0.7).astype(int)
CLASSES = np.array(list("abc"))[np.arange(60) % 3]
NUMBERS = np.exp(FEATURES[:, 0])
LOGISTIC, RIDGE = linear_model.LogisticRegression(), linear_model.Ridge()
NEAREST, GAUSSIAN = neighbors.KNeighborsClassifier, gaussian_process.GaussianProcessClassifier
# These cannot be fitted on a matrix and one column of labels, or give no probabilities.
UNUSABLE = {
    *("CCA", "IsotonicRegression", "MultiTaskElasticNet", "MultiTaskElasticNetCV"),
    *("MultiTaskLasso", "MultiTaskLassoCV", "PLSCanonical", "CategoricalNB"),
    *("NuSVC", "SGDClassifier", "SVC", "SelfTrainingClassifier"),
}
DEFAULTS = [
    estimator()
    for kind in ("classifier", "regressor")
    for name, estimator in all_estimators(type_filter=kind)
    if name not in UNUSABLE
    and (kind == "regressor" or hasattr(estimator, "predict_proba"))
    and all(part.default is not part.empty for part in signature(estimator).parameters.values())
]
WITH_PARAMS = [
    *(NEAREST(metric=name) for name in ("braycurtis", "chebyshev", "hamming", "manhattan")),
    *(NEAREST(metric=name) for name in ("dice", "jaccard", "rogerstanimoto", "russellrao")),
    *(NEAREST(metric=name) for name in ("sokalmichener", "sokalsneath")),
    *(NEAREST(algorithm="ball_tree", metric=name) for name in ("canberra", "euclidean")),
    NEAREST(p=3),
    *(neural_network.MLPClassifier(solver=name, max_iter=20) for name in ("sgd", "lbfgs")),
    *(calibration.CalibratedClassifierCV(method=name) for name in ("isotonic", "temperature")),
    calibration.CalibratedClassifierCV(svm.SVC()),
    GAUSSIAN(kernels.Matern() + kernels.WhiteKernel()),
    GAUSSIAN(kernels.RationalQuadratic() * 2),
    GAUSSIAN(kernels.DotProduct() ** 2),
    *(
        gaussian_process.GaussianProcessRegressor(kernel, alpha=99, optimizer=None)
        for kernel in (kernels.PairwiseKernel(), kernels.ExpSineSquared())
    ),
    multiclass.OneVsRestClassifier(LOGISTIC),
    linear_model.SGDClassifier(loss="log_loss"),
    *(machine(probability=True) for machine in (svm.SVC, svm.NuSVC)),
    ensemble.StackingClassifier([("a", LOGISTIC), ("b", naive_bayes.GaussianNB())]),
    ensemble.VotingClassifier([("a", LOGISTIC), ("b", naive_bayes.GaussianNB())], voting="soft"),
    selection.TunedThresholdClassifierCV(LOGISTIC),
    selection.GridSearchCV(LOGISTIC, {"C": [1, 2]}, cv=selection.TimeSeriesSplit(2)),
    selection.GridSearchCV(RIDGE, {"alpha": [1, 2]}, cv=selection.KFold(2)),
    *(linear_model.TweedieRegressor(power=power) for power in (1.5, 2)),
    linear_model.TweedieRegressor(power=1.5, link="identity"),
    ensemble.StackingRegressor([("a", RIDGE), ("b", linear_model.Lasso())]),
    TransformedTargetRegressor(RIDGE, transformer=preprocessing.StandardScaler()),
    make_pipeline(preprocessing.SplineTransformer(), RIDGE),
    make_pipeline(IterativeImputer(), RIDGE),
    *(
        make_pipeline(feature_selection.SelectKBest(score, k=2), LOGISTIC)
        for score in (
            *(feature_selection.f_classif, feature_selection.chi2),
            feature_selection.mutual_info_classif,
        )
    ),
    *(
        make_pipeline(feature_selection.SelectKBest(score, k=2), RIDGE)
        for score in (
            *(feature_selection.f_regression, feature_selection.r_regression),
            feature_selection.mutual_info_regression,
        )
    ),
]


def list_cases() -> list[tuple[BaseEstimator, np.ndarray]]:
    cases = []
    for estimator in [*DEFAULTS, *WITH_PARAMS]:
        binary = [BINARY] if "Threshold" in str(estimator) else [BINARY, CLASSES]
        cases += [
            (estimator, labels) for labels in (binary if is_classifier(estimator) else [NUMBERS])
        ]
    return cases


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "labels"), list_cases(), ids=lambda case: " ".join(f"{case}".split())[:60]
)
def test_an_estimator_of_scikit_learn_is_restored_and_predicts_the_same(
    estimator: BaseEstimator, labels: np.ndarray
) -> None:
    estimator.fit(FEATURES, labels)
    content = skops.io.dumps(estimator)
    restored = load_model(content, digest(content), "a model")
    method = "predict_proba" if is_classifier(estimator) else "predict"
    # A copy, since the very array of the fit takes another path through some distances.
    expected, actual = (getattr(model, method)(FEATURES.copy()) for model in (estimator, restored))
    np.testing.assert_array_equal(actual, expected)


def test_what_is_unusable_here_is_known_when_definitions_load() -> None:
    never = UNUSABLE - {"SelfTrainingClassifier"}  # which needs an estimator
    assert never == _PROBABLE.keys() | _UNFIT.keys()


def test_what_runs_code_of_a_file_is_not_trusted() -> None:
    content = skops.io.dumps(preprocessing.FunctionTransformer(math.exp))
    with pytest.raises(ModelFileError, match=re.escape("math.exp")):
        load_model(content, digest(content), "a model")
    for module in ("builtins", "os", "subprocess", "operator", "importlib"):
        assert not any(name.startswith(f"{module}.") for name in TRUSTED_TYPES)


def test_bytes_between_the_fields_of_nodes_do_not_count() -> None:
    kind = np.dtype({"names": ["child", "left"], "formats": ["<i8", "u1"], "itemsize": 16})

    def nodes(child: int, padding: bytes) -> str:
        content = child.to_bytes(8, "little") + b"\x01" + padding
        return content_digest(skops.io.dumps({"nodes": np.frombuffer(content * 3, kind)}))

    assert nodes(5, b"1234567") == nodes(5, b"abcdefg")
    assert nodes(5, b"1234567") != nodes(6, b"1234567")


def test_the_digest_of_a_model_does_not_depend_on_where_its_objects_lie() -> None:
    """Of a Python at low addresses, as Debian's, numbers of objects have few digits."""

    def move(content: bytes, first: int) -> bytes:
        moved, target = dict[str, str](), BytesIO()
        with ZipFile(BytesIO(content)) as source, ZipFile(target, "w") as written:
            for address in re.findall(r'"__id__": (\d+)', source.read("schema.json").decode()):
                moved.setdefault(address, str(first + len(moved)))
            for name in source.namelist():
                part, (stem, _, end) = source.read(name), name.rpartition(".")
                if name == "schema.json":
                    text = part.decode()
                    part = re.sub(
                        r"\d+", lambda found: moved.get(found[0], found[0]), text
                    ).encode()
                written.writestr(f"{moved.get(stem, stem)}.{end}", part)
        return target.getvalue()

    content = skops.io.dumps(linear_model.LogisticRegression().fit(FEATURES, BINARY))
    assert content_digest(move(content, 1000)) == content_digest(move(content, 10**12))
    other = skops.io.dumps(linear_model.LogisticRegression(C=2.0).fit(FEATURES, BINARY))
    assert content_digest(move(other, 1000)) != content_digest(move(content, 1000))
