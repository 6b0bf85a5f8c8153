"""Trees of scikit-learn as plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from agrifm.pixels.members import TreesMember


def from_forest(estimators: Sequence[Any]) -> TreesMember:
    """Trees of a forest, whose leaves hold shares of the classes."""
    trees = [estimator.tree_ for estimator in estimators]
    nodes = []
    for tree in trees:
        nodes.append(
            _Nodes(
                feature=tree.feature,
                threshold=tree.threshold,
                left=tree.children_left,
                right=tree.children_right,
                missing_left=tree.missing_go_to_left.astype(bool),
                is_leaf=tree.children_left < 0,
                values=tree.value[:, 0] / len(trees),
            )
        )
    classes = trees[0].value.shape[2]
    return _trees(nodes, np.zeros(classes), softmax=False)


def from_boosting(model: Any) -> TreesMember:
    """Trees of gradient boosting, whose leaves add to the logit of one class each."""
    classes = len(model.classes_)
    # With two classes there is one logit, that of the second.
    columns = [1] if classes == 2 else list(range(classes))
    nodes = []
    for trees in model._predictors:
        for column, tree in zip(columns, trees, strict=True):
            table = tree.nodes
            values = np.zeros((len(table), classes))
            values[:, column] = table["value"]
            nodes.append(
                _Nodes(
                    feature=table["feature_idx"].astype(np.int64),
                    threshold=table["num_threshold"],
                    left=table["left"].astype(np.int64),
                    right=table["right"].astype(np.int64),
                    missing_left=table["missing_go_to_left"].astype(bool),
                    is_leaf=table["is_leaf"].astype(bool),
                    values=values,
                )
            )
    bias = np.zeros(classes)
    bias[columns] = np.ravel(model._baseline_prediction)
    return _trees(nodes, bias, softmax=True)


class _Nodes:
    """Nodes of one tree as arrays.

    Args:
        feature: Compared feature.
        threshold: Largest value that goes to the left.
        left, right: Children.
        missing_left: Whether missing values go to the left.
        is_leaf: Whether a node is a leaf.
        values: What a leaf adds ``(nodes, k)``.
    """

    def __init__(
        self,
        feature: np.ndarray,
        threshold: np.ndarray,
        left: np.ndarray,
        right: np.ndarray,
        missing_left: np.ndarray,
        is_leaf: np.ndarray,
        values: np.ndarray,
    ) -> None:
        number = np.arange(len(feature))
        self.feature = np.where(is_leaf, 0, feature)
        self.threshold = np.where(is_leaf, 0.0, threshold)
        self.left = np.where(is_leaf, number, left)
        self.right = np.where(is_leaf, number, right)
        self.missing_left = missing_left
        self.is_leaf = is_leaf
        self.values = values

    def depth(self) -> int:
        """Largest number of nodes above a leaf."""
        depth = np.zeros(len(self.feature), int)
        for node in np.flatnonzero(~self.is_leaf):  # parents come before their children
            depth[self.left[node]] = depth[node] + 1
            depth[self.right[node]] = depth[node] + 1
        return int(depth.max())


def _trees(trees: Sequence[_Nodes], bias: np.ndarray, *, softmax: bool) -> TreesMember:
    """Join the nodes of all trees."""
    sizes = [len(tree.feature) for tree in trees]
    roots = np.cumsum([0, *sizes[:-1]])
    is_leaf = np.concatenate([tree.is_leaf for tree in trees])
    leaf = np.where(is_leaf, np.cumsum(is_leaf) - 1, 0)
    values = np.concatenate([tree.values[tree.is_leaf] for tree in trees])
    return TreesMember(
        roots=torch.from_numpy(roots),
        feature=torch.from_numpy(np.concatenate([tree.feature for tree in trees])),
        threshold=torch.from_numpy(_round_down(np.concatenate([tree.threshold for tree in trees]))),
        left=torch.from_numpy(np.concatenate([tree.left + root for tree, root in zip(trees, roots, strict=True)])),
        right=torch.from_numpy(np.concatenate([tree.right + root for tree, root in zip(trees, roots, strict=True)])),
        missing_left=torch.from_numpy(np.concatenate([tree.missing_left for tree in trees])),
        leaf=torch.from_numpy(leaf),
        values=torch.from_numpy(values),
        bias=torch.from_numpy(bias),
        depth=torch.tensor(max(tree.depth() for tree in trees)),
        softmax=torch.tensor(softmax),
    )


def _round_down(threshold: np.ndarray) -> np.ndarray:
    """Largest single-precision numbers up to the thresholds, so that features of single precision compare as before."""
    rounded = threshold.astype(np.float32)
    return np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)
