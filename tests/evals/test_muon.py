"""Muon: updates are orthogonal, and following them goes down."""
# ruff: noqa: E402

import pytest

torch = pytest.importorskip("torch")

from plimsoll.evals.muon import Muon, orthogonalized


def drawn(*shape: int) -> "torch.Tensor":
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(96, 96), (256, 96), (96, 256), (3, 16, 8), (1, 7)])
def test_singular_values_end_near_one(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(orthogonalized(drawn(*shape) * 1e-4))
    # A square random matrix has singular values near zero, which five iterations leave behind.
    assert values.max() < 1.3
    assert values.median() > 0.6
    if shape[-1] != shape[-2]:
        assert values.min() > 0.6


def test_the_singular_vectors_stay() -> None:
    matrix = drawn(24, 40)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.mT @ orthogonalized(matrix) @ right.mT
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-4
    assert inner.diagonal().min() > 0


def test_a_zero_gradient_moves_nothing() -> None:
    assert torch.equal(orthogonalized(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))


def test_a_batch_is_its_matrices_one_by_one() -> None:
    many = drawn(3, 12, 20)
    alone = torch.stack([orthogonalized(one) for one in many])
    torch.testing.assert_close(orthogonalized(many), alone)


def test_a_least_squares_problem_is_solved() -> None:
    wanted = {shape: drawn(*shape) for shape in ((6, 6), (9, 4))}
    weights = [torch.nn.Parameter(torch.zeros(*shape)) for shape in wanted]
    optimizer = Muon(weights)

    def distance() -> "torch.Tensor":
        return sum((w - wanted[tuple(w.shape)]).square().sum() for w in weights)

    start = distance().item()
    for step in range(400):
        optimizer.lr = 0.05 * (1 - step / 400)
        for weight in weights:
            weight.grad = None
        distance().backward()
        optimizer.step()
    assert distance().item() < 1e-3 * start
