"""Fitting of pixel classifiers with scikit-learn, and their conversion to modules of plain tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import linalg
from threadpoolctl import threadpool_limits
from torch import Tensor

from agrifm.pixels.config import MemberName
from agrifm.pixels.members import DiscriminantKernelMember, KernelMember, LinearMember, Member
from agrifm.pixels.trees import from_boosting, from_forest

LOGISTIC_PENALTY = 0.05  # inverse strength; series are correlated, so that weights must be kept small
KERNEL_PENALTY = 30.0
LDA_KERNEL_PENALTY = 10.0
LEAST_COMPONENT = 1e-5  # of the kernels, relative to the largest
LANDMARKS = 600  # pixels at which kernels are centered
TREES = 100
ROUNDS = 100  # of boosting; each adds one tree for every class
LEAST_VARIANCE = 1e-9  # keeps the covariance of few pixels invertible
LEAST_STD = 1e-6  # features that hardly vary carry no information

Fit = Callable[[np.ndarray, np.ndarray, int], Member]


def fit_member(name: MemberName, features: np.ndarray, classes: np.ndarray, seed: int) -> Member:
    """Fit one classifier.

    Args:
        name: Kind of the classifier.
        features: Features ``(n, f)`` float32; NaN where a value is missing.
        classes: Classes ``(n)``, numbered from 0; each of them occurs.
        seed: Seed of random choices.

    Returns:
        Module that maps features to probabilities.
    """
    return LEARNERS[name](features, classes, seed)


@dataclass(frozen=True)
class _Discriminants:
    """Linear functions that tell classes of equal covariance apart.

    Args:
        mean: Mean of each feature ``(f)``.
        std: Standard deviation of each feature ``(f)``.
        scaled: Standardized features ``(n, f)``.
        centers: Mean of the standardized features of each class ``(k, f)``.
        shares: Share of each class ``(k)``.
        weight: Inverse of the covariance within classes, multiplied by the centers ``(k, f)``.
    """

    mean: Tensor
    std: Tensor
    scaled: np.ndarray
    centers: np.ndarray
    shares: np.ndarray
    weight: np.ndarray


def _discriminants(features: np.ndarray, classes: np.ndarray) -> _Discriminants:
    """Linear discriminants; the covariance of each class is shrunk by the rule of Ledoit and Wolf (2004)."""
    mean, std, scaled = _standardize(features)
    count = scaled.shape[1]
    covariance = np.zeros((count, count))
    centers = []
    shares = []
    for number in range(classes.max() + 1):
        of_class = scaled[classes == number]
        center = of_class.mean(0)
        share = len(of_class) / len(scaled)
        covariance += share * _shrunk_covariance(of_class - center)
        centers.append(center)
        shares.append(share)
    centers = np.stack(centers).astype(np.float64)
    weight = linalg.solve(covariance, centers.T, assume_a="pos").T
    return _Discriminants(mean, std, scaled, centers, np.array(shares), weight)


def _fit_lda(features: np.ndarray, classes: np.ndarray, seed: int) -> Member:
    """Linear discriminant analysis.

    The result is that of scikit-learn with ``solver="lsqr", shrinkage="auto"``. Its solution by singular values takes
    several times longer than all the rest with some thousand features, so the equations are solved here.
    """
    found = _discriminants(features, classes)
    bias = np.log(found.shares) - 0.5 * (found.weight * found.centers).sum(1)
    return LinearMember(found.mean, found.std, torch.from_numpy(found.weight), torch.from_numpy(bias))


def _fit_lda_kernel(features: np.ndarray, classes: np.ndarray, seed: int) -> Member:
    """Logistic regression on Gaussian kernels, after a projection to the axes of a linear discriminant analysis.

    On these axes, every class has about the same spread in all directions. What does not tell the classes apart is
    gone, so that distances mean more than among all features.
    """
    found = _discriminants(features, classes)
    axes = _discriminant_axes(found)
    coordinates = (found.scaled @ axes.T).astype(np.float32)
    spread = max(float(coordinates.var(0).sum()), LEAST_VARIANCE)
    fitted = _fit_kernels(coordinates, classes, 1 / spread, LDA_KERNEL_PENALTY, seed)
    return DiscriminantKernelMember(found.mean, found.std, torch.from_numpy(axes), *fitted)


def _discriminant_axes(found: _Discriminants) -> np.ndarray:
    """Axes ``(d, f)`` on which the covariance within classes is the unit matrix; one fewer than there are classes."""
    weight = found.weight - found.shares @ found.weight
    centers = found.centers - found.shares @ found.centers
    # Covariance within classes of the values that the weights give; symmetric but for rounding.
    covariance = weight @ centers.T
    variances, directions = linalg.eigh((covariance + covariance.T) / 2)
    used = variances > LEAST_VARIANCE * variances.max()
    return (directions[:, used] / np.sqrt(variances[used])).T @ weight


def _shrunk_covariance(centered: np.ndarray) -> np.ndarray:
    """Covariance ``(f, f)`` of centered values ``(n, f)``, shrunk toward a diagonal (Ledoit and Wolf, 2004)."""
    pixels, count = centered.shape
    deviation = centered.std(0)
    deviation[deviation == 0] = 1.0
    centered = centered / deviation
    covariance = (centered.T @ centered / pixels).astype(np.float64)
    mean_variance = np.trace(covariance) / count
    squares = np.square(covariance).sum()
    distance = squares / count - mean_variance**2
    sampling_error = (np.square(np.square(centered).sum(1, dtype=np.float64)).sum() / pixels - squares) / (
        pixels * count
    )
    shrinkage = min(sampling_error, distance) / distance if distance > 0 else 0.0
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(count)] += shrinkage * mean_variance + LEAST_VARIANCE
    return covariance * np.outer(deviation, deviation)


def _fit_logistic(features: np.ndarray, classes: np.ndarray, seed: int) -> Member:
    mean, std, scaled = _standardize(features)
    # Stopping early regularizes as well; fits to the end take four times longer and predict no better.
    weight, bias = _logistic_regression(scaled, classes, LOGISTIC_PENALTY, iterations=60, tolerance=1e-3)
    return LinearMember(mean, std, torch.from_numpy(weight), torch.from_numpy(bias))


def _logistic_regression(
    features: np.ndarray, classes: np.ndarray, penalty: float, iterations: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``(k, f)`` and biases ``(k)`` of a logistic regression."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=penalty, max_iter=iterations, tol=tolerance)
    # A step takes less time than to wake other threads for it: on a busy machine, several take ten times longer.
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, classes)
    weight, bias = model.coef_, model.intercept_
    # scikit-learn gives the weights of the second class alone if there are two.
    if len(weight) == 1:
        weight = np.concatenate([np.zeros_like(weight), weight])
        bias = np.concatenate([np.zeros_like(bias), bias])
    return weight, bias


def _fit_kernel(features: np.ndarray, classes: np.ndarray, seed: int) -> Member:
    mean, std, scaled = _standardize(features)
    return KernelMember(mean, std, *_fit_kernels(scaled, classes, 1 / scaled.shape[1], KERNEL_PENALTY, seed))


def _fit_kernels(
    points: np.ndarray, classes: np.ndarray, gamma: float, penalty: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logistic regression on a Nystroem approximation of Gaussian kernels (Williams and Seeger, 2001).

    Kernels of near landmarks are nearly the same. Their small differences would get large weights, which 32 bits do not
    resolve, so only the larger components of the kernels are used.

    Args:
        points: Points ``(n, f)``.
        classes: Classes ``(n)``.
        gamma: Inverse width of the kernels.
        penalty: Inverse strength of the penalty on large weights.
        seed: Seed of the choice of landmarks.

    Returns:
        Landmarks ``(m, f)``, gamma, weights ``(k, m)`` and biases ``(k)``.
    """
    from sklearn.metrics.pairwise import rbf_kernel

    chosen = np.random.default_rng(seed).permutation(len(points))[:LANDMARKS]
    landmarks = points[chosen]
    variances, directions = linalg.eigh(rbf_kernel(landmarks, gamma=gamma).astype(np.float64))
    used = variances > LEAST_COMPONENT * variances.max()
    components = directions[:, used] / np.sqrt(variances[used])
    transformed = rbf_kernel(points, landmarks, gamma=gamma) @ components.astype(np.float32)
    weight, bias = _logistic_regression(transformed, classes, penalty, iterations=100, tolerance=1e-4)
    # The transformation multiplies kernels by a matrix, which becomes part of the weights.
    weight = torch.from_numpy(weight @ components.T)
    return torch.from_numpy(landmarks), torch.tensor(gamma), weight, torch.from_numpy(bias)


def _fit_forest(features: np.ndarray, classes: np.ndarray, seed: int) -> Member:
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(TREES, n_jobs=-1, random_state=seed).fit(features, classes)
    return from_forest(model.estimators_)


def _fit_extra_trees(features: np.ndarray, classes: np.ndarray, seed: int) -> Member:
    from sklearn.ensemble import ExtraTreesClassifier

    model = ExtraTreesClassifier(TREES, n_jobs=-1, random_state=seed).fit(features, classes)
    return from_forest(model.estimators_)


def _fit_boosting(features: np.ndarray, classes: np.ndarray, seed: int) -> Member:
    from sklearn.ensemble import HistGradientBoostingClassifier

    # Trees look at a fifth of the features at a time: neighboring dates are alike, and fits take a fifth of the time.
    model = HistGradientBoostingClassifier(
        max_iter=ROUNDS,
        learning_rate=0.1,
        max_leaf_nodes=15,
        max_features=0.2,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    # scikit-learn 1.9 cannot bin a feature without any value.
    empty = np.isnan(features).all(0)
    model.fit(np.where(empty, np.float32(0), features), classes)
    return from_boosting(model)


LEARNERS: dict[MemberName, Fit] = {
    "lda": _fit_lda,
    "logistic": _fit_logistic,
    "kernel": _fit_kernel,
    "lda_kernel": _fit_lda_kernel,
    "forest": _fit_forest,
    "extra_trees": _fit_extra_trees,
    "boosting": _fit_boosting,
}


def _standardize(features: np.ndarray) -> tuple[Tensor, Tensor, np.ndarray]:
    """Mean and deviation of each feature, and the standardized features, where missing values are 0."""
    seen = ~np.isnan(features)
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen, features, 0).sum(0, dtype=np.float64) / count
    deviation = np.where(seen, features - mean, 0)
    std = np.sqrt(np.square(deviation).sum(0) / count)
    std = np.where(std < LEAST_STD, 1.0, std)
    return torch.from_numpy(mean), torch.from_numpy(std), (deviation / std).astype(np.float32)
