"""Classifiers of single pixels as modules of plain tensors: linear, kernel, and ensembles of trees.

Each one maps features ``(n, f)``, NaN where a value is missing, to probabilities ``(n, k)``. They are fitted by
scikit-learn (:mod:`agrifm.pixels.learners`), and need nothing but PyTorch to predict.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

TREES_AT_ONCE = 50  # trees that are followed together
LEVELS_AT_ONCE = 6  # levels of trees between which pixels at a leaf are left behind
IMPOSSIBLE = -1e4  # logit of a class that a member does not know; its probability is exactly 0


class Standardize(nn.Module):
    """Subtract means and divide by standard deviations; missing values become 0, the mean.

    Args:
        mean: Mean of each feature.
        std: Standard deviation of each feature.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        """Standardize features."""
        # In place, because the memory of one array stays in the cache.
        return (features - self.mean).div_(self.std).nan_to_num_(nan=0.0)


class LinearMember(nn.Module):
    """Softmax of linear functions: linear discriminant analysis and logistic regression.

    Args:
        mean: Mean of each feature.
        std: Standard deviation of each feature.
        weight: Weights ``(k, f)`` of the standardized features.
        bias: Biases ``(k)``.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, mean: Tensor, std: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.standardize = Standardize(mean, std)
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Compute probabilities."""
        return torch.softmax(self.standardize(features) @ self.weight.T + self.bias, 1)


class KernelMember(nn.Module):
    """Softmax of linear functions of Gaussian kernels at landmarks.

    Args:
        mean: Mean of each feature.
        std: Standard deviation of each feature.
        landmarks: Standardized features ``(m, f)`` at which the kernels are centered.
        gamma: Inverse width of the kernels.
        weight: Weights ``(k, m)`` of the kernels.
        bias: Biases ``(k)``.
    """

    landmarks: Tensor
    gamma: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self, mean: Tensor, std: Tensor, landmarks: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor
    ) -> None:
        super().__init__()
        self.standardize = Standardize(mean, std)
        self.register_buffer("landmarks", landmarks.float())
        self.register_buffer("gamma", gamma.float())
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Compute probabilities."""
        kernels = _gaussian_kernels(self.points(features), self.landmarks, self.gamma)
        return torch.softmax(kernels @ self.weight.T + self.bias, 1)

    def points(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n d"]:
        """Return where pixels lie among the landmarks."""
        return self.standardize(features)


class DiscriminantKernelMember(KernelMember):
    """Softmax of linear functions of Gaussian kernels on the axes of a linear discriminant analysis.

    Args:
        mean: Mean of each feature.
        std: Standard deviation of each feature.
        axes: Axes ``(d, f)`` on which the classes differ, for standardized features.
        landmarks: Coordinates ``(m, d)`` on the axes at which the kernels are centered.
        gamma: Inverse width of the kernels.
        weight: Weights ``(k, m)`` of the kernels.
        bias: Biases ``(k)``.
    """

    axes: Tensor

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        axes: Tensor,
        landmarks: Tensor,
        gamma: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> None:
        super().__init__(mean, std, landmarks, gamma, weight, bias)
        self.register_buffer("axes", axes.float())

    def points(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n d"]:
        """Return where pixels lie on the axes."""
        return super().points(features) @ self.axes.T


def _gaussian_kernels(
    points: Float[Tensor, "n f"], landmarks: Float[Tensor, "m f"], gamma: Float[Tensor, ""]
) -> Float[Tensor, "n m"]:
    """Gaussian kernels of points, which are centered at landmarks."""
    products = points @ landmarks.T
    squares = points.square().sum(1, keepdim=True) + landmarks.square().sum(1)
    # In place: arrays of this size are the largest of a member.
    return products.mul_(-2).add_(squares).clamp_(min=0).mul_(-gamma).exp_()


class TreesMember(nn.Module):
    """Sum of the leaves of decision trees: random forests, extremely randomized trees and gradient boosting.

    Nodes of all trees are numbered together. A pixel goes to the left if its feature is at most the threshold. A leaf
    is its own child on both sides.

    Args:
        roots: First node ``(t)`` of each tree.
        feature: Feature ``(m)`` that a node compares.
        threshold: Threshold ``(m)`` of a node.
        left, right: Children ``(m)`` of a node.
        missing_left: Whether a node ``(m)`` sends missing values to the left.
        leaf: Row ``(m)`` of ``values`` of a node that is a leaf; any row otherwise.
        values: What a leaf adds, ``(l, k)``.
        bias: What is added to the sum, ``(k)``.
        depth: Largest number of nodes above a leaf.
        softmax: Whether the sum holds logits rather than probabilities.
    """

    roots: Tensor
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    missing_left: Tensor
    leaf: Tensor
    values: Tensor
    bias: Tensor
    depth: Tensor
    softmax: Tensor
    child_of: Tensor

    def __init__(
        self,
        roots: Tensor,
        feature: Tensor,
        threshold: Tensor,
        left: Tensor,
        right: Tensor,
        missing_left: Tensor,
        leaf: Tensor,
        values: Tensor,
        bias: Tensor,
        depth: Tensor,
        softmax: Tensor,
    ) -> None:
        super().__init__()
        self.register_buffer("roots", roots.int())
        self.register_buffer("feature", feature.int())
        self.register_buffer("threshold", threshold.float())
        self.register_buffer("left", left.int())
        self.register_buffer("right", right.int())
        self.register_buffer("missing_left", missing_left.bool())
        self.register_buffer("leaf", leaf.int())
        self.register_buffer("values", values.float())
        self.register_buffer("bias", bias.float())
        self.register_buffer("depth", depth.int())
        self.register_buffer("softmax", softmax.bool())
        # Both children of a node side by side, for one look-up instead of two; they follow from what is stored.
        self.register_buffer("child_of", torch.stack([self.left, self.right], 1).flatten(), persistent=False)

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n k"]:
        """Compute probabilities."""
        total = self.bias.expand(len(features), -1).clone()
        missing_left = self.missing_left if bool(features.isnan().any()) else None
        for root in self.roots.split(TREES_AT_ONCE):
            # One row for each tree, so that the nodes of a tree are read together.
            node = self._leaves(features, root, missing_left)
            leaves = self.values.index_select(0, self.leaf.index_select(0, node))
            total += leaves.view(len(root), len(features), -1).sum(0)
        return torch.softmax(total, 1) if bool(self.softmax) else total

    def _leaves(
        self, features: Float[Tensor, "n f"], roots: Int[Tensor, " t"], missing_left: Bool[Tensor, " m"] | None
    ) -> Int[Tensor, " tn"]:
        """Follow every pixel through some trees, and return its leaf in each, tree by tree.

        Args:
            features: Features of the pixels.
            roots: First nodes of the trees.
            missing_left: Whether nodes send missing values to the left; None if no value is missing.
        """
        flat, (pixels, width) = features.flatten(), features.shape
        first = torch.arange(pixels, device=features.device, dtype=torch.int32) * width
        start = first.repeat(len(roots))
        node = roots.repeat_interleave(pixels)
        reached = node.clone()
        walking: Tensor | None = None  # positions of those that are not known to be at a leaf; at first, all
        for level in range(1, int(self.depth) + 1):
            value = flat.index_select(0, start + self.feature.index_select(0, node))
            go_left = value <= self.threshold.index_select(0, node)
            if missing_left is not None:
                go_left |= value.isnan() & missing_left.index_select(0, node)
            node = self.child_of.index_select(0, 2 * node + ~go_left)
            if level % LEVELS_AT_ONCE and level < int(self.depth):
                continue
            # The deepest leaf is far below most others, whose pixels need not be followed any longer.
            reached = node if walking is None else reached.index_copy_(0, walking, node)
            inner = (self.child_of.index_select(0, 2 * node) != node).nonzero().flatten()
            walking = inner if walking is None else walking.index_select(0, inner)
            node, start = node.index_select(0, inner), start.index_select(0, inner)
            if not len(inner):
                break
        return reached


Member = LinearMember | KernelMember | DiscriminantKernelMember | TreesMember
KINDS: dict[str, type[Member]] = {
    "linear": LinearMember,
    "kernel": KernelMember,
    "discriminant_kernel": DiscriminantKernelMember,
    "trees": TreesMember,
}


def widen(member: Member, positions: np.ndarray, classes: int) -> Member:
    """Give a member more classes, whose probability is 0.

    Args:
        member: A member.
        positions: Positions ``(k)`` of its classes among the new ones.
        classes: Number of the new classes.
    """
    place = torch.as_tensor(positions)
    is_logit = not isinstance(member, TreesMember) or bool(member.softmax)
    bias = torch.full((classes,), IMPOSSIBLE if is_logit else 0.0)
    member.bias = bias.index_copy(0, place, member.bias)
    if isinstance(member, TreesMember):
        values = torch.zeros(len(member.values), classes)
        member.values = values.index_copy(1, place, member.values)
    else:
        weight = torch.zeros(classes, member.weight.shape[1])
        member.weight = weight.index_copy(0, place, member.weight)
    return member
