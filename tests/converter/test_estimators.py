"""Every kind of estimator that people bring: the model in its bundle answers as it does, or it is
refused in words. Each is saved with skops, converted for real and asked fresh rows on a device's
runtime."""

import os

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNet,
    HuberRegressor,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    LocalOutlierFactor,
    RadiusNeighborsClassifier,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from converter.golden import SAFE_MARGIN

pytestmark = pytest.mark.slow

EVERY = int(os.environ.get("ESTIMATORS_EVERY", "1"))
"""Every kind is converted, or every third with 3: one takes about five seconds."""
ROWS = 400
SEED = {"random_state": 0}
logistic = LogisticRegression
scaled = lambda model: make_pipeline(StandardScaler(), model)  # noqa: E731 - reads as a table


def numbers(seed, kind="normal"):
    random = np.random.default_rng(seed)
    if kind == "text":
        return random.choice(["a", "b", "c", "dd"], (ROWS, 3))
    if kind == "whole":
        return random.integers(0, 16, (ROWS, 6))
    rows = random.normal(size=(ROWS, 6)).astype(np.float64 if kind == "double" else np.float32)
    if kind == "positive":
        return np.abs(rows)
    if kind == "gaps":
        rows[random.random(rows.shape) < 0.1] = np.nan
    return rows


def targets(rows):
    """Labels and values that follow from the rows, with some noise."""
    random = np.random.default_rng(9)
    if rows.dtype.kind == "U":
        two = ((rows[:, 0] == "a") | (rows[:, 1] == "b")).astype(int)
        return {"two": two}
    wide = np.nan_to_num(rows.astype(np.float64))
    wide = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    lean = wide[:, 0] + wide[:, 1] / 2 + random.normal(size=len(rows)) * 0.3
    value = wide @ np.arange(1, 7) + random.normal(size=len(rows)) * 0.1
    two, three = (lean > 0).astype(int), np.digitize(lean, [-0.6, 0.6])
    return {
        "two": two,
        "three": three,
        "words": np.array(["low", "mid", "high"])[three],
        "yes": two.astype(bool),
        "signs": two * 2 - 1,
        "pair": np.stack([two, 1 - (three > 1)], axis=1),
        "value": value,
        "count": np.exp(value / 10),
        "values": np.stack([value, 2 * value + 1], axis=1),
    }


# Name, estimator, target, and what differs: the kind of rows, the policy, outputs left out.
TABLE = [
    ("linear", LinearRegression(), "value"),
    ("ridge", Ridge(), "value"),
    ("elastic net", ElasticNet(alpha=0.1), "value"),
    ("bayesian ridge", BayesianRidge(), "value"),
    ("huber", HuberRegressor(max_iter=500), "value"),
    ("poisson", PoissonRegressor(), "count"),
    ("tweedie", TweedieRegressor(power=1.5), "count"),
    ("sgd regressor", SGDRegressor(**SEED), "value"),
    ("logistic, two classes", logistic(), "two"),
    ("logistic, three classes", logistic(), "three"),
    ("logistic, words", logistic(), "words"),
    ("logistic, booleans", logistic(), "yes"),
    ("logistic, signs", logistic(), "signs"),
    ("logistic, doubles", logistic(), "two", {"rows": "double"}),
    ("ridge classifier", RidgeClassifier(), "three"),
    ("sgd, hinge", SGDClassifier(**SEED), "three"),
    ("sgd, two classes", SGDClassifier(**SEED), "two"),
    ("sgd, log loss", SGDClassifier(loss="log_loss", **SEED), "two"),
    ("svc with probability", CalibratedClassifierCV(SVC(), cv=2), "three"),
    ("svc", SVC(), "three"),
    ("svc, two classes", SVC(), "two"),
    ("svc, its own probability", SVC(probability=True, **SEED), "three"),
    ("nu svc", NuSVC(), "two"),
    ("linear svc", LinearSVC(), "three"),
    ("linear svc, two classes", LinearSVC(), "two"),
    ("linear svc in a pipeline", scaled(LinearSVC()), "words"),
    ("svc in a pipeline", scaled(SVC()), "two"),
    ("svr", SVR(), "value"),
    ("one-class svm", OneClassSVM(nu=0.1), None),
    ("gaussian bayes", GaussianNB(), "three"),
    ("bernoulli bayes", BernoulliNB(), "two"),
    ("multinomial bayes", MultinomialNB(), "three", {"rows": "positive"}),
    ("neighbours", KNeighborsClassifier(), "three"),
    ("neighbours regressor", KNeighborsRegressor(), "value"),
    ("tree", DecisionTreeClassifier(max_depth=5, **SEED), "words"),
    ("tree regressor", DecisionTreeRegressor(max_depth=6, **SEED), "value"),
    ("forest", RandomForestClassifier(20, **SEED), "three"),
    ("forest, two classes", RandomForestClassifier(20, **SEED), "two"),
    ("forest of many processes", RandomForestClassifier(20, n_jobs=4, **SEED), "three"),
    ("forest, doubles", RandomForestClassifier(20, **SEED), "three", {"rows": "double"}),
    ("forest, whole numbers", RandomForestClassifier(20, **SEED), "three", {"rows": "whole"}),
    ("forest regressor", RandomForestRegressor(20, **SEED), "value"),
    ("forest, several values", RandomForestRegressor(20, **SEED), "values"),
    ("extra trees", ExtraTreesClassifier(20, **SEED), "words"),
    ("extra trees regressor", ExtraTreesRegressor(20, **SEED), "value"),
    ("boosting", GradientBoostingClassifier(n_estimators=20, **SEED), "three"),
    ("boosting regressor", GradientBoostingRegressor(n_estimators=20, **SEED), "value"),
    ("hist boosting", HistGradientBoostingClassifier(max_iter=20, **SEED), "three"),
    ("hist boosting regressor", HistGradientBoostingRegressor(max_iter=20, **SEED), "value"),
    (
        "hist boosting with gaps", HistGradientBoostingClassifier(max_iter=20, **SEED), "two",
        {"rows": "gaps", "nan_policy": "pass"},
    ),
    ("ada boost", AdaBoostClassifier(n_estimators=10, **SEED), "three"),
    ("bagging", BaggingClassifier(n_jobs=2, **SEED), "three"),
    ("voting", VotingClassifier([("a", logistic()), ("b", GaussianNB())], voting="soft"), "three"),
    (
        "voting by heads",  # as many voters as classes
        VotingClassifier([("a", logistic()), ("b", GaussianNB()), ("c", LinearSVC())]),
        "three",
        {"dropped": ["scores"]},
    ),
    ("voting regressor", VotingRegressor([("a", Ridge()), ("b", LinearRegression())]), "value"),
    ("stacking", StackingClassifier([("a", logistic()), ("b", GaussianNB())]), "three"),
    ("stacking regressor", StackingRegressor([("a", Ridge()), ("b", Ridge(9))]), "value"),
    ("network", MLPClassifier((8,), max_iter=500, **SEED), "three"),
    ("network, two classes", MLPClassifier((8,), max_iter=500, **SEED), "two"),
    ("network regressor", MLPRegressor(hidden_layer_sizes=(8,), max_iter=900, **SEED), "value"),
    ("scaler", scaled(logistic()), "three"),
    ("pca", make_pipeline(StandardScaler(), PCA(3), logistic()), "three"),
    ("selection", make_pipeline(SelectKBest(k=3), logistic()), "three"),
    ("polynomials", make_pipeline(PolynomialFeatures(2), Ridge()), "value"),
    ("power and range", make_pipeline(PowerTransformer(), MinMaxScaler(), logistic()), "three"),
    (
        "imputer", make_pipeline(SimpleImputer(), RobustScaler(), logistic()), "two",
        {"rows": "gaps", "nan_policy": "pass"},
    ),
    (
        "union", make_pipeline(FeatureUnion([("a", PCA(2)), ("b", StandardScaler())]), logistic()),
        "three",
    ),
    (
        "columns",
        make_pipeline(
            ColumnTransformer(
                [("s", StandardScaler(), [0, 1]), ("m", MinMaxScaler(), [2, 3])],
                remainder="passthrough",
            ),
            logistic(),
        ),
        "three",
    ),
    (
        "one-hot text", make_pipeline(OneHotEncoder(handle_unknown="ignore"), logistic()), "two",
        {"rows": "text"},
    ),
    (
        "columns of text",
        make_pipeline(
            ColumnTransformer(
                [("o", OneHotEncoder(handle_unknown="ignore"), [0, 1]), ("p", OrdinalEncoder(), [2])]
            ),
            RandomForestClassifier(10, **SEED),
        ),
        "two",
        {"rows": "text"},
    ),
    ("k-means", KMeans(3, n_init=2, **SEED), None),
    ("k-means in batches", scaled(MiniBatchKMeans(3, n_init=2, **SEED)), None),
    ("mixture", GaussianMixture(3, **SEED), None),
    ("isolation forest", IsolationForest(n_estimators=20, **SEED), None),
    ("outlier factor", LocalOutlierFactor(novelty=True), None),
    ("transformer", scaled(PCA(3)), None),
    ("transformer to a sparse matrix", OneHotEncoder(), None, {"rows": "text"}),
    ("several values", MultiOutputRegressor(Ridge()), "values"),
    ("linear, several values", LinearRegression(), "values"),
    ("several labels", MultiOutputClassifier(logistic()), "pair", {"dropped": ["probabilities"]}),
    (
        "forest, several labels", RandomForestClassifier(10, **SEED), "pair",
        {"dropped": ["probabilities"]},
    ),
    ("one against the rest", OneVsRestClassifier(logistic()), "three"),
    ("calibrated", CalibratedClassifierCV(LinearSVC(), cv=2), "three"),
    ("discriminant", LinearDiscriminantAnalysis(), "three"),
    ("partial least squares", PLSRegression(2), "value"),
    ("gaussian process", GaussianProcessRegressor(), "value"),
    ("search", GridSearchCV(scaled(SVC()), {"svc__C": [0.5, 1.0]}, cv=2), "two"),
    ("search in a pipeline", scaled(GridSearchCV(logistic(), {"C": [0.5, 1.0]}, cv=2)), "three"),
]  # fmt: skip

METRIC = {
    **dict.fromkeys(("value", "values", "count"), ("r2",)),
    **dict.fromkeys(("two", "three", "words", "yes", "signs", "pair"), ("accuracy",)),
    None: (),
}

# Name, estimator, target, code, and what is said.
REFUSED = [
    # Converted otherwise than it is: caught by its answers alone.
    (
        "hist boosting, poisson", HistGradientBoostingRegressor(loss="poisson", **SEED), "count",
        "parity_failed", "variable: off by at most",
    ),
    (
        "discriminant, two classes", LinearDiscriminantAnalysis(), "two",
        "parity_failed", "probabilities: off by at most 0.",
    ),
    (
        "neighbours by distance, on the rows they were taught with",
        KNeighborsClassifier(weights="distance"), "three", "parity_failed", "rows differ",
    ),
    (
        "gaussian process, of large weights that cancel", GaussianProcessRegressor(alpha=0.1),
        "value", "parity_failed", "GPmean: off by at most 0.",
    ),
    (
        "quadratic discriminant", QuadraticDiscriminantAnalysis(), "three",
        "model_invalid", "label in the shape (1, 400), the original in (400,)",
    ),
    # Converted into what onnxruntime does not take.
    ("gaussian process classifier", GaussianProcessClassifier(), "two", "model_invalid", "Solve"),
    ("radius neighbours", RadiusNeighborsClassifier(5.0), "three", "model_invalid", "cannot run"),
    # Not converted.
    ("dummy", DummyClassifier(), "two", "export_failed", "shape calculator for type"),
    ("own target", TransformedTargetRegressor(Ridge()), "value", "export_failed", "Transformed"),
    (
        "a function", make_pipeline(FunctionTransformer(np.tanh), logistic()), "two",
        "export_failed", "FunctionTransformer is not supported",
    ),
    (
        "imputer by neighbours", make_pipeline(KNNImputer(), logistic()), "two",
        "export_failed", "opset 17 < 18",
    ),
]  # fmt: skip


def by_name(case):
    return case[0]


def prepare(estimator, target, rows="normal", **options):
    given = numbers(0, rows)
    labels = None if target is None else targets(given)[target]
    return (estimator.fit(given) if target is None else estimator.fit(given, labels)), given, labels


@pytest.mark.parametrize("case", TABLE[::EVERY], ids=by_name)
def test_the_model_in_the_bundle_answers_as_the_estimator(case, ask, converted, serve):
    _, blank, target, options = (*case, {})[:4]
    estimator, given, labels = prepare(blank, target, **options)
    policy = {"nan_policy": options["nan_policy"]} if "nan_policy" in options else {}
    done = converted(ask(estimator, given, labels, **policy))
    assert done.report.verdict == "parity"
    dropped = [warning.split()[1] for warning in done.report.warnings]
    assert dropped == options.get("dropped", [])
    fresh = numbers(1, options.get("rows", "normal"))
    agree(estimator, fresh, ask_device(serve(done.bundle), fresh))
    are_clear(estimator, done.golden)
    assert tuple(done.manifest.lineage.metrics) == METRIC[target]


def ask_device(model, rows):
    (given,) = model.manifest.inputs
    kinds = {"FP32": np.float32, "INT64": np.int64, "BYTES": object}
    names = [spec.name for spec in model.manifest.outputs]
    answers = model.run({given.name: rows.astype(kinds[given.datatype])})
    return dict(zip(names, answers, strict=True))


def agree(estimator, rows, answers):
    """Compare with the estimator itself, by other means than the converter's."""
    seen = rows.astype(np.float32).astype(rows.dtype) if rows.dtype.kind == "f" else rows
    first, *others = answers.values()
    if not hasattr(estimator, "predict"):
        right = estimator.transform(seen)
        right = right.toarray() if hasattr(right, "toarray") else right
        assert np.allclose(first, right, rtol=1e-3, atol=1e-4)
        return
    right = np.asarray(estimator.predict(seen))
    if first.dtype.kind == "f":
        assert first.size == right.size
        assert np.allclose(first.reshape(right.shape), right, rtol=1e-3, atol=1e-3)
        return
    same = first.reshape(right.shape).astype(str) == as_answered(right).astype(str)
    scores = scores_of(estimator, seen)
    if others:
        assert np.allclose(others[0].reshape(scores.shape), scores, rtol=1e-3, atol=1e-3)
    wrong = ~same.reshape(len(same), -1).all(axis=1)
    clear = np.ones(len(same), bool) if scores is None else clearness(estimator, scores) > 1e-4
    assert not (wrong & clear).any()


def as_answered(labels):
    return labels.astype(np.int64) if labels.dtype.kind in "bf" else labels


def scores_of(estimator, rows):
    """Return the scores in the form that the converted model has them."""
    for method in ("predict_proba", "decision_function"):
        if hasattr(estimator, method):
            scores = getattr(estimator, method)(rows)
            if isinstance(scores, list):
                return None  # several labels
            two_sided = scores.ndim == 1 and hasattr(estimator, "classes_")
            return np.stack([-scores, scores], axis=1) if two_sided else scores
    is_cluster = hasattr(estimator, "transform") and "KMeans" in str(estimator)
    return estimator.transform(rows) if is_cluster else None


def clearness(estimator, scores):
    if scores.ndim == 1:
        return np.abs(scores)
    signed = -scores if "KMeans" in str(estimator) else scores
    best = np.sort(signed, axis=1)
    return best[:, -1] - best[:, -2]


def are_clear(estimator, golden):
    """No golden row is near a tie."""
    rows = golden["input_0"]
    assert 64 <= len(rows) <= 256
    if golden["output_0"].dtype.kind == "f":
        return
    scores = scores_of(estimator, rows)
    if scores is not None:
        typical = np.median(np.abs(scores).reshape(len(rows), -1).max(axis=1))
        assert clearness(estimator, scores).min() > SAFE_MARGIN / 2 * typical


@pytest.mark.parametrize("case", REFUSED, ids=by_name)
def test_what_cannot_be_converted_is_refused_in_words(case, ask, refused):
    _, blank, target, code, says = case
    estimator, given, labels = prepare(blank, target)
    assert says in str(refused(ask(estimator, given, labels), code))
