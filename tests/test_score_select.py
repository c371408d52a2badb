"""The best of a batch: mixes of scores, and the nodes that hand pictures on."""

from __future__ import annotations

import math

import pytest
from interplay.errors import InterplayError
from interplay.guidance.rewards.select import choose, standardised


def test_one_score_is_taken_as_it_is():
    choice = choose([[0.1, 3.0, -2.0]])
    assert choice.order == (1, 0, 2) and choice.totals == (0.1, 3.0, -2.0)
    assert choose([[0.1, 3.0, -2.0]], [-1.0]).best == 2


def test_scores_of_different_units_count_alike():
    large, small = [1000.0, 1001.0, 1002.0], [0.03, 0.02, 0.01]
    assert choose([large, small]).order == (0, 1, 2)  # they cancel: ties keep the order
    assert choose([large, small], [2.0, 1.0]).best == 2
    assert choose([large, small], [1.0, 2.0]).best == 0
    assert sum(standardised(large)) == pytest.approx(0.0)
    assert sum(v * v for v in standardised(large)) / 3 == pytest.approx(1.0)
    assert standardised([0.3, 0.3, 0.3]) == [0.0, 0.0, 0.0]


def test_what_is_not_a_number_comes_last():
    assert choose([[math.nan, -5.0, -6.0]]).order == (1, 2, 0)


def test_what_does_not_fit_is_said():
    with pytest.raises(InterplayError, match="no score"):
        choose([])
    with pytest.raises(InterplayError, match="2, 3 pictures"):
        choose([[1.0, 2.0], [1.0, 2.0, 3.0]])
    with pytest.raises(InterplayError, match="1 scores and 2 weights"):
        choose([[1.0, 2.0]], [1.0, 2.0])


@pytest.mark.comfy
def test_the_best_latent_can_be_drawn_again_alone():
    """Its noise, made from the batch's seed and its place, is the noise that it had in the batch."""
    torch = pytest.importorskip("torch")
    import comfy.sample
    from interplay.nodes.scores import BestOfBatch

    latent = {"samples": torch.randn(4, 4, 8, 8)}
    images = torch.rand(4, 16, 16, 3)
    node = BestOfBatch.execute([0.1, 0.2, 0.9, 0.3], [images], [latent], [77])
    image, best, index, seed, score = node.args
    assert index == 2 and seed == 77 and score == 0.9
    assert torch.equal(image, images[2:3]) and torch.equal(best["samples"], latent["samples"][2:3])
    whole = comfy.sample.prepare_noise(latent["samples"], seed)
    assert torch.equal(comfy.sample.prepare_noise(best["samples"], seed, best["batch_index"]), whole[2:3])
    with pytest.raises(InterplayError, match="3 scores"):
        BestOfBatch.execute([0.1, 0.2, 0.9], [images], [latent], None)


@pytest.mark.comfy
def test_a_try_is_asked_for_only_when_those_before_fell_short():
    from interplay.nodes.scores import FirstGoodTry

    ask = FirstGoodTry.check_lazy_status
    missing = {"image_1": None, "p_2": None, "image_2": None, "p_3": None, "image_3": None}
    assert ask(0.9, p_1=0.95, **missing) == ["image_1"]
    assert ask(0.9, p_1=0.2, **missing) == ["p_2"]
    assert ask(0.9, p_1=0.2, **{**missing, "p_2": 0.5, "p_3": 0.3}) == ["image_2"]
    assert ask(0.9, p_1=0.2, **{**missing, "p_2": 0.5, "p_3": 0.3, "image_2": "two"}) == []
    found = FirstGoodTry.execute(0.9, p_1=0.2, p_2=0.5, p_3=0.3, image_2="two").args
    assert found == ("two", 0.5, 2, False)
    assert FirstGoodTry.execute(0.4, p_1=0.2, p_2=0.5, image_2="two").args == ("two", 0.5, 2, True)
