# SPDX-License-Identifier: Apache-2.0
"""Binary codes, their transform and ranks, and networks whose filters they make."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learning_networks import CLASSES, options, pictures
from torch import Tensor, nn

from thinmaps.errors import BadArgument, BadModel
from thinmaps.graph.filter_codes import code_element, greedy_order
from thinmaps.learn import fit
from thinmaps.learn.weights.maps import attached, bake
from thinmaps.learn.weights.ovsf import (
    CodedFilters,
    ovsf,
    reduced_codes,
    walsh_hadamard,
)


def network(seed: int = 2) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def sylvester(length: int) -> Tensor:
    numbers = torch.arange(length)
    common = (numbers[:, None] & numbers).tolist()
    return torch.tensor([[1 - 2 * (each.bit_count() % 2) for each in row] for row in common])


@pytest.mark.parametrize("length", [1, 4, 16, 64])
def test_codes_are_orthogonal_and_each_element_is_a_parity(length: int) -> None:
    codes = ovsf(length)
    assert torch.equal(codes @ codes.T, length * torch.eye(length, dtype=torch.int64))
    found = [[code_element(k, j, length) for j in range(length)] for k in range(length)]
    assert codes.tolist() == found


def test_sign_changes_are_those_of_the_two_orders() -> None:
    def changes(codes: Tensor) -> list[int]:
        return (codes[:, 1:] != codes[:, :-1]).sum(1).tolist()

    assert changes(ovsf(16)) == [0, 1, 3, 2, 7, 6, 4, 5, 15, 14, 12, 13, 8, 9, 11, 10]
    assert changes(sylvester(16)) == [0, 15, 7, 8, 3, 12, 4, 11, 1, 14, 6, 9, 2, 13, 5, 10]


@pytest.mark.parametrize("length", [1, 2, 16, 128])
def test_the_fast_transform_is_the_dense_one_in_integers(length: int) -> None:
    values = torch.randint(-99, 99, (5, length), generator=torch.Generator().manual_seed(0))
    assert torch.equal(walsh_hadamard(values), values @ sylvester(length))
    assert torch.equal(walsh_hadamard(walsh_hadamard(values)), length * values)


# Rank of the first k of the codes, reduced to 3x3.
COUNTS = (4, 6, 8, 9, 10, 12, 16)
RANKS = {
    ("ovsf", "crop"): (3, 5, 6, 7, 8, 9, 9),
    ("ovsf", "average"): (3, 5, 6, 6, 6, 6, 9),
    ("sylvester", "crop"): (3, 5, 6, 7, 8, 9, 9),
    ("sylvester", "average"): (3, 3, 3, 4, 4, 6, 9),
}


@pytest.mark.parametrize(("order", "reduction"), RANKS)
def test_the_first_codes_are_redundant_as_the_table_says(order: str, reduction: str) -> None:
    codes = reduced_codes(reduction)
    if order == "sylvester":
        place = {tuple(code): at for at, code in enumerate(ovsf(16).tolist())}
        codes = codes[[place[tuple(code)] for code in sylvester(16).tolist()]]
    found = tuple(int(torch.linalg.matrix_rank(codes[:count])) for count in COUNTS)
    assert found == RANKS[order, reduction]


@pytest.mark.parametrize(
    ("reduction", "order", "condition"),
    [
        ("crop", [0, 5, 10, 15, 1, 6, 8, 2, 4], 5.1),
        ("average", [0, 1, 4, 5, 3, 12, 7, 13, 15], 5.8),
    ],
)
def test_the_greedy_order_has_full_rank_throughout(
    reduction: str, order: list[int], condition: float
) -> None:
    codes = reduced_codes(reduction)
    assert greedy_order(codes.numpy()) == order
    for count in range(1, 10):
        assert int(torch.linalg.matrix_rank(codes[order[:count]])) == count
    assert np.linalg.cond(codes[order].numpy()) == pytest.approx(condition, abs=0.05)


@pytest.mark.parametrize("reduction", ["crop", "average"])
def test_all_codes_give_the_trained_filters_back(reduction: str) -> None:
    model = network()
    before = model(pictures(2)).detach()
    made = CodedFilters(1.0, reduction=reduction).convert(model)
    assert made["0"].coefficients == made["0"].weights  # 9 of the 16 codes span all
    # Condition 5.8, float32.
    torch.testing.assert_close(model(pictures(2)), before, atol=1e-5, rtol=1e-5)


def test_a_share_of_the_codes_stores_16_ninths_of_it() -> None:
    for share, ratio in ((1 / 2, 9 / 8), (1 / 4, 9 / 4), (1 / 8, 9 / 2), (1 / 16, 9)):
        made = CodedFilters(share).convert(network())
        assert made["0"].ratio == pytest.approx(ratio)
        assert made["0"].ratio == pytest.approx(9 / (16 * share))
        assert made["2"].ratio == pytest.approx(min(1 / share, 8))


def test_projection_is_the_nearest_that_the_codes_can_make() -> None:
    model = network()
    weight = model[0].weight.detach().clone()
    made = CodedFilters(0.25).convert(model)
    codes = attached(model)[0].map.codes
    solved = torch.linalg.lstsq(codes.T.double(), weight.double().reshape(-1, 9).T).solution
    nearest = (codes.T.double() @ solved).T.reshape(weight.shape)
    torch.testing.assert_close(model[0].weight.detach(), nearest.float(), atol=1e-6, rtol=1e-5)
    error = (nearest - weight).square().sum() / weight.double().square().sum()
    assert made["0"].error == pytest.approx(float(error), rel=1e-4)
    assert 0 < made["0"].error < 1
    # Of a 1x1 layer, the codes of the largest energy: half of them leave less than half of it.
    assert CodedFilters(0.5).convert(network())["2"].error < 0.5


def test_coefficients_learn_from_scratch_and_become_plain_filters() -> None:
    model = network()
    made = CodedFilters(0.25).convert(model)
    labelled = [(pictures(16), torch.arange(16) % CLASSES)]
    result = fit(model, labelled, steps=120, options=options(network_rate=3e-2, average_decay=0))
    assert result.rows[-1].loss < 0.6 * result.rows[0].loss
    learnt = sum(p.numel() for p in model[0].parametrizations.parameters())
    assert learnt == made["0"].coefficients == 4 * 8 * 3
    answers = model(pictures(2)).detach()
    bake(model)
    assert type(model[0]) is nn.Conv2d
    assert model[0].weight.shape == (8, 3, 3, 3)
    torch.testing.assert_close(model(pictures(2)), answers)


def test_layers_that_codes_do_not_fit_are_refused_in_a_sentence() -> None:
    with pytest.raises(BadArgument, match="codes have a length that is a power of two, got 12"):
        ovsf(12)
    with pytest.raises(BadArgument, match=r"'0' has a weight \(4, 3, 5, 5\)"):
        CodedFilters(0.5, layers=["0"]).convert(nn.Sequential(nn.Conv2d(3, 4, 5)))
    with pytest.raises(BadModel, match="has no convolution that this method can work on"):
        CodedFilters(0.5).convert(nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(BadArgument, match="a budget of codes is a share above 0"):
        CodedFilters(0.0)
    with pytest.raises(BadArgument, match="codes are reduced by one of"):
        CodedFilters(0.5, reduction="stride")
