import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from trainer.config import LOSSES, FitConfig
from trainer.network.model import LINKS, Head
from trainer.training.losses import BETA, GAMMA, class_weights, losses

COURSE = [20656, 1955, 4210, 698, 581]


def test_none_weighs_every_photograph_alike() -> None:
    assert class_weights("none", COURSE).tolist() == [1, 1, 1, 1, 1]


def test_inverse_gives_every_grade_the_same_total_weight() -> None:
    totals = class_weights("inverse", COURSE) * COURSE
    assert totals == pytest.approx([sum(COURSE) / 5] * 5)


def test_effective_follows_the_sum_of_a_geometric_series() -> None:
    effective = [sum(BETA**power for power in range(n)) for n in COURSE]
    expected = 1 / np.array(effective)
    weights = class_weights("effective", COURSE)
    assert weights / weights[0] == pytest.approx(expected / expected[0])


@pytest.mark.parametrize("method", ["none", "inverse", "effective"])
def test_the_mean_over_the_photographs_is_one_and_an_absent_grade_counts_nothing(method: str) -> None:
    photographs = np.array([40, 0, 7, 1, 0])
    weights = class_weights(method, photographs)
    assert (weights * photographs).sum() == pytest.approx(photographs.sum())
    assert (weights[photographs == 0] == 0).all()
    assert np.isfinite(weights).all()


GRADES = torch.tensor([0, 1, 2, 3, 4, 4, 0, 2])
SCORES = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) * 3
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])
ONES = torch.ones(5)


def test_cross_entropy_is_torchs() -> None:
    torch.testing.assert_close(
        losses("ce", SCORES, GRADES, WEIGHTS), F.cross_entropy(SCORES, GRADES, WEIGHTS, reduction="none")
    )
    torch.testing.assert_close(
        losses("ce", SCORES, GRADES, ONES, 0.1),
        F.cross_entropy(SCORES, GRADES, reduction="none", label_smoothing=0.1),
    )


@pytest.mark.parametrize("name", ["ce", "corn"])
def test_a_weight_changes_how_much_a_photograph_counts_and_not_what_it_teaches(name: str) -> None:
    """A smoothed label of grade 0 is 0.92 and four times 0.02, whatever the others weigh."""
    label = torch.tensor([[0.92, 0.02, 0.02, 0.02, 0.02]])
    logits = label.log().requires_grad_()
    loss = losses(name, logits, torch.tensor([0]), WEIGHTS, 0.1)
    assert loss.item() == pytest.approx(WEIGHTS[0].item() * -(label * label.log()).sum().item(), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(1, 5), atol=1e-6, rtol=0)


def test_focal_is_torchvisions_where_there_are_two_classes() -> None:
    """Its binary form of a score s is ours of two logits s and 0, once the other three are out of reach."""
    score, label = torch.tensor([-2.0, -0.5, 0.3, 4.0]), torch.tensor([1, 0, 1, 1])
    logits = torch.full((4, 5), -1e9)
    logits[:, 0], logits[:, 1] = 0, score
    expected = sigmoid_focal_loss(score, label.float(), alpha=-1, gamma=GAMMA)
    torch.testing.assert_close(losses("focal", logits, label, ONES), expected)


def test_focal_counts_the_easy_little() -> None:
    """p = 0.9: a hundredth of the cross entropy."""
    logits = torch.tensor([[0.9, 0.025, 0.025, 0.025, 0.025]]).log()
    ratio = losses("focal", logits, torch.tensor([0]), ONES) / losses("ce", logits, torch.tensor([0]), ONES)
    assert ratio.item() == pytest.approx(0.01, rel=1e-4)


def published_corn_loss(scores: Tensor, grades: Tensor) -> tuple[Tensor, int]:
    """As in the paper: for each k, of the photographs of grade k or above, whether they are above. Sum and number."""
    total, tasks = torch.zeros(()), 0
    for k in range(4):
        subset = grades >= k
        above = (grades[subset] > k).float()
        total = total + F.binary_cross_entropy_with_logits(scores[subset, k], above, reduction="sum")
        tasks += len(above)
    return total, tasks


def test_corn_is_the_published_loss_per_photograph_instead_of_per_task() -> None:
    scores = SCORES[:, :4].clone().requires_grad_()
    ours = losses("corn", LINKS["corn"].logits(scores), GRADES, ONES).sum()
    theirs, _ = published_corn_loss(scores, GRADES)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, scores, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_corns_probabilities_follow_the_chain_rule() -> None:
    scores = SCORES[:, :4]
    reach = torch.cat([torch.ones(8, 1), scores.sigmoid().cumprod(dim=1), torch.zeros(8, 1)], dim=1)
    probabilities = LINKS["corn"].logits(scores).softmax(dim=1)
    torch.testing.assert_close(probabilities, reach[:, :-1] - reach[:, 1:])


def test_squared_error_is_of_the_grade_and_the_nearest_is_predicted() -> None:
    score = torch.tensor([[-3.0], [0.2], [1.4], [2.6], [9.0]], requires_grad=True)
    grades = torch.tensor([0, 1, 4, 3, 4])
    logits = LINKS["distance"].logits(score)
    assert logits.argmax(dim=1).tolist() == [0, 0, 1, 3, 4]
    found = losses("mse", logits, grades, WEIGHTS)
    expected = WEIGHTS[grades] * (score[:, 0] - grades) ** 2
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss.sum(), score, retain_graph=True)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_weighs_photographs_by_grade_and_is_least_for_the_truth(name: str) -> None:
    torch.manual_seed(0)
    logits = Head(7, FitConfig(loss=name).link)(torch.randn(8, 7))
    assert logits.shape == (8, 5)
    plain = losses(name, logits, GRADES, ONES)
    torch.testing.assert_close(losses(name, logits, GRADES, WEIGHTS), plain * WEIGHTS[GRADES])
    ideal = -((torch.arange(5) - GRADES[:, None]).float() ** 2)
    assert (losses(name, ideal, GRADES, ONES) <= plain + 1).all()
    assert losses(name, ideal, GRADES, ONES).sum() < plain.sum()
