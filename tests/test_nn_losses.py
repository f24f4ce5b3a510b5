"""Losses and distances: formulas, reductions, the numbers of the specification, gradients, compiled."""

from __future__ import annotations

import math
import random
import warnings
from typing import Any

import ingot as torch
import ingot.nn as nn
import ingot.nn.functional as F
import numpy as np
import pytest

# Scores and their printed results in the specification (AD2, AD6).
SCORES = [[0.6614, 0.2669, 0.0617], [0.6213, -0.4519, -0.1661]]


def tensor(x: Any, **kwargs: Any) -> Any:
    return torch.tensor(x, dtype=torch.float64, **kwargs)


def near(a: Any, b: Any, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(a.detach().numpy(), b, atol=atol, rtol=0)


X, Y = [[1.0, -2.0], [0.5, 3.0]], [[0.0, 0.5], [0.25, 1.0]]


@pytest.mark.parametrize(("name", "formula"), [
    ("MSELoss", lambda d: d * d), ("L1Loss", np.abs),
    ("SmoothL1Loss", lambda d: np.where(np.abs(d) < 1, 0.5 * d * d, np.abs(d) - 0.5)),
    ("HuberLoss", lambda d: np.where(np.abs(d) < 1, 0.5 * d * d, np.abs(d) - 0.5)),
])  # fmt: skip
def test_elementwise_losses_and_reductions(name: str, formula: Any) -> None:
    want = formula(np.array(X) - np.array(Y))
    near(getattr(nn, name)(reduction="none")(tensor(X), tensor(Y)), want)
    near(getattr(nn, name)(reduction="sum")(tensor(X), tensor(Y)), want.sum())
    loss = getattr(nn, name)()(tensor(X), tensor(Y))
    assert loss.shape == torch.Size([])
    near(loss, want.mean())


def test_smooth_l1_with_beta() -> None:
    d = np.abs(np.array(X) - np.array(Y))
    want = np.where(d < 2, 0.5 * d * d / 2, d - 1)
    near(nn.SmoothL1Loss(beta=2.0, reduction="none")(tensor(X), tensor(Y)), want)
    near(nn.SmoothL1Loss(None, None, "sum", 0.0)(tensor(X), tensor(Y)), d.sum())


def test_legacy_arguments() -> None:
    with pytest.warns(UserWarning, match="reduction='sum'"):
        loss = nn.MSELoss(False)
    assert loss.reduction == "sum"
    with pytest.warns(UserWarning, match="reduction='none'"):
        assert F.l1_loss(tensor(X), tensor(Y), reduce=False).shape == (2, 2)
    with pytest.warns(UserWarning, match="reduction='mean'"):
        assert nn.CrossEntropyLoss(None, True).reduction == "mean"
    with pytest.raises(ValueError, match="avg is not a valid value for reduction"):
        F.mse_loss(tensor(X), tensor(Y), reduction="avg")


def test_base_class() -> None:
    from ingot.nn.modules.loss import _Loss, _WeightedLoss

    assert issubclass(nn.SmoothL1Loss, _Loss) and issubclass(nn.BCELoss, _WeightedLoss)
    assert nn.SmoothL1Loss.__constants__ == ["reduction"]

    class Mine(_Loss):
        def forward(self, input: Any, target: Any) -> Any:
            return F.mse_loss(input, target, reduction=self.reduction)

    near(Mine(reduction="sum")(tensor(X), tensor(Y)), ((np.array(X) - np.array(Y)) ** 2).sum())
    assert repr(nn.MSELoss()) == "MSELoss()"


def test_import_paths() -> None:
    """``nn.modules`` has every layer where PyTorch has it, private base classes too."""
    from ingot.nn.modules import Linear, conv
    from ingot.nn.modules.batchnorm import _NormBase
    from ingot.nn.modules.module import Module
    from ingot.nn.modules.pooling import _MaxPoolNd
    from ingot.nn.modules.rnn import LSTM

    assert Linear is nn.Linear and Module is nn.Module and LSTM is nn.LSTM
    assert issubclass(nn.Conv2d, conv._ConvNd) and issubclass(nn.BatchNorm1d, _NormBase)
    assert issubclass(nn.MaxPool2d, _MaxPoolNd)
    assert torch.nn.modules.transformer.Transformer is nn.Transformer
    assert torch.nn.modules.loss._Loss is nn.MSELoss.__mro__[1]


def test_different_sizes_warn() -> None:
    with pytest.warns(UserWarning, match="Using a target size"):
        near(F.mse_loss(tensor([1.0, 2.0]), tensor([[1.0], [3.0]])), (0 + 1 + 4 + 1) / 4)


def test_bce() -> None:
    p, t = np.array([0.9, 0.2, 0.6]), np.array([1.0, 0.0, 1.0])
    want = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    near(nn.BCELoss(reduction="none")(tensor(p), tensor(t)), want)
    near(nn.BCELoss(weight=tensor([2.0, 1.0, 0.0]), reduction="none")(tensor(p), tensor(t)), want * [2, 1, 0])
    near(F.binary_cross_entropy(tensor([0.0, 1.0]), tensor([1.0, 0.0])), 100.0)  # logarithms end at -100
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        F.binary_cross_entropy(tensor([1.5]), tensor([1.0]))


def test_bce_with_logits() -> None:
    x, t = tensor(SCORES[0]), tensor([1.0, 0.0, 0.0])
    near(torch.sigmoid(x), [0.6596, 0.5663, 0.5154], 5e-5)
    near(nn.BCEWithLogitsLoss()(x, t), 0.6587, 5e-5)
    near(nn.BCEWithLogitsLoss()(x, t), nn.BCELoss()(x.sigmoid(), t).item())
    parts = nn.BCEWithLogitsLoss(reduction="none")(x, t).numpy()
    near(nn.BCEWithLogitsLoss(reduction="none", pos_weight=tensor([3.0, 1.0, 1.0]))(x, t), parts * [3, 1, 1])
    many = tensor([[0.0, -1000.0], [1000.0, 0.0]], requires_grad=True)  # multi-label, extreme scores
    loss = F.binary_cross_entropy_with_logits(many, tensor([[1.0, 0.0], [1.0, 0.0]]), reduction="sum")
    near(loss, 2 * math.log(2))
    loss.backward()
    near(many.grad, [[-0.5, 0.0], [0.0, 0.5]])


def test_cross_entropy_with_weights() -> None:
    x, t, w = tensor([[1, 2], [1, 3], [1, 3]]), torch.tensor([0, 1, 1]), tensor([1.0, 2.0])
    near(nn.CrossEntropyLoss(weight=w, reduction="none")(x, t), [1.3133, 0.2539, 0.2539], 5e-5)
    near(nn.CrossEntropyLoss(weight=w, reduction="sum")(x, t), 1.8210, 5e-5)
    near(nn.CrossEntropyLoss(weight=w)(x, t), 0.3642, 5e-5)


def test_cross_entropy_three_ways() -> None:
    x, t = tensor(SCORES), torch.tensor([0, 2])
    logs = F.log_softmax(x, dim=1)
    near(logs, [[-0.7989, -1.1933, -1.3986], [-0.5861, -1.6593, -1.3735]], 1e-4)
    near(F.nll_loss(logs, t), 1.0862, 5e-5)
    near(nn.NLLLoss()(nn.LogSoftmax(dim=1)(x), t), 1.0862, 5e-5)
    near(nn.CrossEntropyLoss()(x, t), 1.0862, 5e-5)
    near(-(logs * F.one_hot(t, 3)).sum(1).mean(), 1.0862, 5e-5)


def test_ignore_index() -> None:
    x = tensor(SCORES)
    near(nn.CrossEntropyLoss()(x, torch.tensor([0, -100])), 0.7989, 5e-5)
    near(nn.CrossEntropyLoss(ignore_index=2, reduction="sum")(x, torch.tensor([0, 2])), 0.7989, 5e-5)
    with pytest.raises(IndexError, match="out of bounds"):
        F.cross_entropy(x, torch.tensor([0, 3]))


def test_images_of_classes() -> None:
    x = tensor(np.random.default_rng(4).standard_normal((2, 3, 2, 2)))
    t = torch.tensor([[[0, 1], [2, 0]], [[1, 1], [0, 2]]])
    per_pixel = F.cross_entropy(x, t, reduction="none")
    assert per_pixel.shape == (2, 2, 2)
    near(per_pixel[1, 0, 1], F.cross_entropy(x[1, :, 0, 1], torch.tensor(1)).item())
    with pytest.warns(FutureWarning, match="NLLLoss2d"):
        near(nn.NLLLoss2d()(F.log_softmax(x, 1), t), per_pixel.mean().item())


def test_loss_on_device() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.ones(3)).to("cpu")
    assert isinstance(loss, nn.Module) and list(dict(loss.named_buffers())) == ["weight"]
    near(loss.double()(tensor(SCORES), torch.tensor([0, 2])), 1.0862, 5e-5)


def test_cross_entropy_gradient() -> None:
    x = tensor([math.log(0.7), math.log(0.1), math.log(0.2)], requires_grad=True)
    loss = F.cross_entropy(x, torch.tensor(0))
    near(loss, -math.log(0.7))
    loss.backward()
    near(x.grad, [-0.3, 0.1, 0.2])


def test_kl_div() -> None:
    x, y = np.array([0.4, 0.4, 0.2]), np.array([0.5, 0.1, 0.4])
    loss = F.kl_div(tensor(x).log(), tensor(y), reduction="batchmean")
    near(loss, 0.0834, 5e-5)
    near(loss, y @ np.log(y / x) / 3)
    near(torch.matmul(tensor(y), (tensor(y) / tensor(x)).log()) / 3, 0.0834, 5e-5)
    near(nn.KLDivLoss(reduction="batchmean", log_target=True)(tensor(x).log(), tensor(y).log()), loss.item())
    with pytest.warns(UserWarning, match="batchmean"):
        F.kl_div(tensor(x).log(), tensor(y))
    near(F.kl_div(tensor([-1.0, -1.0]), tensor([0.0, 1.0]), reduction="none"), [0.0, 1.0])
    n, c, w = 2, 3, 4  # positions: sum, divided by hand
    rng = np.random.default_rng(3)
    p, q = (tensor(rng.standard_normal((n, c, w))).softmax(2) for _ in range(2))
    by_hand = F.kl_div(p.log(), q, reduction="sum") / (n * c)
    near(by_hand, (q.numpy() * np.log(q.numpy() / p.numpy())).sum() / 6)


def test_likelihoods() -> None:
    x, t, v = tensor([0.5, 1.0]), tensor([2.0, 0.0]), tensor([1.0, 4.0])
    near(nn.PoissonNLLLoss(reduction="none")(x, t), np.exp([0.5, 1.0]) - [1.0, 0.0])
    near(nn.GaussianNLLLoss(reduction="none")(x, t, v), 0.5 * (np.log([1, 4]) + np.array([2.25, 0.25])))
    with pytest.raises(ValueError, match="negative"):
        nn.GaussianNLLLoss()(x, t, -v)


def test_margin_losses() -> None:
    x, y = tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[3, 0, -1, 1]])
    near(nn.MultiLabelMarginLoss()(x, y), 0.85)  # 0.25 ((1-(0.1-0.2)) + (1-(0.1-0.4)) + (1-(0.8-0.2)) + (1-(0.8-0.4)))
    near(nn.MultiMarginLoss()(tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([3])), (0.3 + 0.4 + 0.6) / 4)
    t = tensor([[1.0, 0.0, 1.0, 0.0]])
    zero = tensor([0.0], requires_grad=True)
    F.logsigmoid(zero).backward()
    near(zero.grad, [0.5])
    soft = F.binary_cross_entropy_with_logits(x, t, reduction="none").mean(1)
    near(nn.MultiLabelSoftMarginLoss(reduction="none")(x, t), soft.numpy())
    near(nn.MarginRankingLoss(margin=0.5)(tensor([1.0, 2.0]), tensor([2.0, 1.0]), tensor([1.0, 1.0])), 0.75)
    near(nn.HingeEmbeddingLoss(reduction="none")(tensor([0.3, 0.3]), tensor([1.0, -1.0])), [0.3, 0.7])
    near(nn.SoftMarginLoss()(tensor([0.0]), tensor([1.0])), math.log(2))


def test_triplet() -> None:
    a, p, n = tensor([[0.0, 0.0]]), tensor([[3.0, 4.0]]), tensor([[3.0, 3.0]])
    far = math.hypot(3, 3)
    near(nn.TripletMarginLoss()(a, p, n), 5 - far + 1, 1e-5)
    near(nn.TripletMarginLoss(swap=True)(a, p, n), 5 - 1 + 1, 1e-5)
    near(nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: (x - y).abs().sum(1))(a, p, n), 2.0)
    with pytest.raises(ValueError, match="margin"):
        nn.TripletMarginLoss(margin=0.0)


def test_cosine() -> None:
    a, b = tensor([[1.0, 0.0], [1.0, 0.0]]), tensor([[1.0, 1.0], [0.0, 2.0]])
    near(nn.CosineSimilarity(dim=1)(a, b), [math.sqrt(0.5), 0.0])
    near(F.cosine_similarity(a * 0, b), [0.0, 0.0])
    near(nn.CosineEmbeddingLoss(reduction="none")(a, b, tensor([1.0, -1.0])), [1 - math.sqrt(0.5), 0.0], 1e-6)
    near(nn.CosineEmbeddingLoss(0.5)(a, b, tensor([-1.0, -1.0])), (math.sqrt(0.5) - 0.5) / 2, 1e-6)


def test_distances() -> None:
    a, b = tensor([[0.0, 0.0], [1.0, 1.0]]), tensor([[3.0, 4.0], [1.0, 1.0]])
    near(nn.PairwiseDistance(eps=0.0)(a, b), [5.0, 0.0])
    near(nn.PairwiseDistance(p=1, keepdim=True)(a, b), [[7.0], [0.0]], 1e-5)
    near(F.pdist(tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])), [5.0, 3.0, 4.0])
    near(F.pdist(tensor([[0.0, 0.0], [3.0, 4.0]]), p=math.inf), [4.0])
    same = tensor([[1.0, 1.0], [1.0, 1.0]], requires_grad=True)
    F.pdist(same).sum().backward()
    near(same.grad, np.zeros((2, 2)))


def paths(logs: np.ndarray, target: list[int]) -> float:
    """Probability of a target, by all paths."""
    steps, classes = logs.shape
    total = 0.0
    for code in range(classes**steps):
        path = [code // classes**k % classes for k in range(steps)]
        joined = [c for k, c in enumerate(path) if c and (k == 0 or path[k - 1] != c)]
        if joined == target:
            total += math.exp(sum(logs[k, c] for k, c in enumerate(path)))
    return total


def test_ctc() -> None:
    rng = np.random.default_rng(7)
    logs = F.log_softmax(tensor(rng.standard_normal((5, 3, 4))), 2)
    targets, wanted, seen = torch.tensor([[1, 1, 3], [2, 1, 2], [3, 0, 0]]), [3, 2, 1], [5, 4, 5]
    want = [-math.log(paths(logs.numpy()[: seen[i], i], targets.tolist()[i][: wanted[i]])) for i in range(3)]
    near(F.ctc_loss(logs, targets, seen, wanted, reduction="none"), want)
    near(nn.CTCLoss()(logs, targets, torch.tensor(seen), torch.tensor(wanted)), np.mean(np.array(want) / wanted))
    near(nn.CTCLoss(reduction="sum")(logs, torch.tensor([1, 1, 3, 2, 1, 3]), seen, wanted), sum(want))
    assert F.ctc_loss(logs[:2, 0], torch.tensor([1, 1, 3]), [2], [3], reduction="sum").item() == math.inf
    assert F.ctc_loss(logs[:2, 0], torch.tensor([1, 1, 3]), [2], [3], zero_infinity=True).item() == 0
    scores = tensor(rng.standard_normal((4, 2, 3)), requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: F.ctc_loss(F.log_softmax(x, 2), torch.tensor([[1, 2], [2, 2]]), [4, 4], [2, 2]), (scores,)
    )


def test_one_hot() -> None:
    assert F.one_hot(torch.tensor([0, 2]), 4).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert F.one_hot(torch.tensor([[0], [2]])).shape == (2, 1, 3)
    assert F.one_hot(torch.tensor([1])).dtype is torch.int64
    with pytest.raises(RuntimeError, match="smaller than num_classes"):
        F.one_hot(torch.tensor([4]), 4)


def onehot_encoding(labels: Any, n_classes: int) -> Any:
    return torch.zeros(labels.size(0), n_classes).scatter_(dim=1, index=labels.view(-1, 1), value=1)


def test_onehot_encoding_and_label_smoothing() -> None:
    def smooth(labels: Any, eps: float) -> Any:
        n_classes = 4
        targets = onehot_encoding(labels, n_classes).float()
        return targets * (1 - eps) + torch.ones_like(targets) * eps / n_classes

    labels = torch.tensor([0, 2])
    assert onehot_encoding(labels, 4).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    near(smooth(labels, 0.1), [[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.925, 0.025]], 1e-7)
    x = tensor(np.random.default_rng(0).standard_normal((2, 4)))
    near(F.cross_entropy(x, smooth(labels, 0.1).double()), F.cross_entropy(x, labels, label_smoothing=0.1).item(), 1e-7)


def test_class_and_image_weights() -> None:
    labels = [np.array([[0, 0.1, 0.1, 0.2, 0.2], [1, 0.1, 0.1, 0.2, 0.2]]), np.array([[1, 0.5, 0.5, 0.1, 0.1]])]
    counts = np.bincount(np.concatenate(labels)[:, 0].astype(int), minlength=3)
    counts[counts == 0] = 1
    weights = 1 / counts
    weights = torch.from_numpy(weights / weights.sum())
    near(weights, np.array([1, 0.5, 1]) / 2.5)
    per_image = np.array([np.bincount(x[:, 0].astype(int), minlength=3) for x in labels])
    image_weights = (weights.numpy().reshape(1, 3) * per_image).sum(1)
    np.testing.assert_allclose(image_weights, [0.6, 0.2])
    assert set(random.choices(range(2), weights=image_weights, k=8)) <= {0, 1}
    assert nn.CrossEntropyLoss(weight=weights)(tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])).item() > 0


class CenterLoss(nn.Module):
    """The specification's loss: squared distance to the learned centre of the own class."""

    def __init__(self, num_classes: int = 751, feat_dim: int = 2048, use_gpu: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.centers = nn.Parameter(torch.randn(num_classes, feat_dim))

    def forward(self, x: Any, labels: Any) -> Any:
        assert x.size(0) == labels.size(0), "features.size(0) is not equal to labels.size(0)"
        n = x.size(0)
        distmat = torch.pow(x, 2).sum(dim=1, keepdim=True).expand(n, self.num_classes) + torch.pow(
            self.centers, 2
        ).sum(dim=1, keepdim=True).expand(self.num_classes, n).t()
        distmat = torch.addmm(distmat, x, self.centers.t(), beta=1, alpha=-2)
        mask = labels.unsqueeze(1).expand(n, self.num_classes).eq(torch.arange(self.num_classes).expand(n, -1))
        dist = []
        for i in range(n):
            value = distmat[i][mask[i]].clamp(min=1e-12, max=1e12)
            dist.append(value)
        return torch.cat(dist).mean()


def test_center_loss() -> None:
    torch.manual_seed(0)
    loss = CenterLoss(num_classes=5, feat_dim=3)
    x, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 4, 2, 2])
    out = loss(x, labels)
    own = loss.centers.detach().numpy()[labels.numpy()]
    near(out, ((x.detach().numpy() - own) ** 2).sum(1).mean(), 1e-4)
    out.backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * (x.detach().numpy() - own) / 4, rtol=1e-3, atol=1e-4)
    assert loss.centers.grad is not None and not loss.centers.grad[1].any()
    with pytest.raises(AssertionError):
        loss(x, labels[:3])


def test_names_of_gradient_nodes() -> None:
    x = tensor(SCORES, requires_grad=True)
    assert "MseLossBackward0" in repr(F.mse_loss(x, tensor(SCORES)).grad_fn)
    assert "NllLossBackward0" in repr(F.cross_entropy(x, torch.tensor([0, 1])).grad_fn)


@pytest.mark.parametrize("loss", [
    nn.SmoothL1Loss(), nn.HuberLoss(), nn.BCEWithLogitsLoss(), nn.SoftMarginLoss(), nn.PoissonNLLLoss(),
    nn.MultiLabelSoftMarginLoss(), nn.KLDivLoss(reduction="batchmean"),
], ids=lambda m: type(m).__name__)  # fmt: skip
def test_gradients_and_compiled(loss: nn.Module) -> None:
    rng = np.random.default_rng(11)
    x = tensor(rng.standard_normal((3, 4)), requires_grad=True)
    y = tensor(rng.integers(0, 2, (3, 4)).astype(np.float64))
    assert torch.autograd.gradcheck(lambda t: loss(t, y), (x,))
    assert torch.autograd.gradgradcheck(lambda t: loss(t, y), (x,))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        near(torch.compile(loss)(x.detach(), y), loss(x, y).item())


def test_adaptive_softmax() -> None:
    torch.manual_seed(0)
    layer = nn.AdaptiveLogSoftmaxWithLoss(8, 12, cutoffs=[4, 8], div_value=2.0).double()
    rng = np.random.default_rng(2)
    x, target = tensor(rng.standard_normal((6, 8)), requires_grad=True), torch.tensor([0, 3, 4, 7, 8, 11])
    output, loss = layer(x, target)
    logs = layer.log_prob(x)
    near(logs.exp().sum(1), np.ones(6))
    near(output, logs.detach().numpy()[np.arange(6), target.numpy()])
    near(loss, -output.mean().item())
    near(layer(x[0], target[0]).output, output[0].item())
    assert layer.predict(x).shape == (6,)
    assert torch.autograd.gradcheck(lambda t: layer(t, target).loss, (x,))
    with torch.no_grad():
        near(torch.compile(layer)(x.detach(), target)[0], output.detach().numpy())
    with pytest.raises(RuntimeError, match="Target values should be in"):
        layer(x, target + 1)
    with pytest.raises(ValueError, match="cutoffs"):
        nn.AdaptiveLogSoftmaxWithLoss(8, 12, cutoffs=[4, 12])


@pytest.mark.parity
def test_adaptive_softmax_is_pytorchs() -> None:
    theirs = pytest.importorskip("torch")
    want = theirs.nn.AdaptiveLogSoftmaxWithLoss(8, 12, cutoffs=[4, 8], head_bias=True).double()
    ours = nn.AdaptiveLogSoftmaxWithLoss(8, 12, cutoffs=[4, 8], head_bias=True).double()
    assert repr(ours) == repr(want) and list(ours.state_dict()) == list(want.state_dict())
    ours.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in want.state_dict().items()})
    x, t = np.random.default_rng(0).standard_normal((9, 8)), np.arange(3, 12)
    a, b = ours(torch.from_numpy(x), torch.from_numpy(t)), want(theirs.from_numpy(x), theirs.from_numpy(t))
    near(a.output, b.output.detach().numpy())
    near(a.loss, b.loss.item())
    assert ours.predict(torch.from_numpy(x)).tolist() == want.predict(theirs.from_numpy(x)).tolist()
