"""Train a reader of handwritten digits: a small neural network."""

from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def train(data, params):
    """Return a fitted estimator; `params` are those of `[train]`, `data` the rows to learn from."""
    network = MLPClassifier(
        (params["hidden"],), alpha=params["alpha"], max_iter=params["max_iter"], random_state=0
    )
    return make_pipeline(StandardScaler(), network).fit(data.values, data.labels)
