"""DiffusionITM against a world whose likelihoods are known, and against plain rewrites of the released scoring."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from interplay.errors import InterplayError  # noqa: E402
from interplay.guidance.rewards.diffusion_itm import EpsMatcher, score, spread  # noqa: E402
from interplay.guidance.rewards.itm_scores import student  # noqa: E402
from interplay.guidance.rewards.itm_settings import ItmSettings, itm_preset, paper_steps  # noqa: E402
from itm_world import PAIRS, ExactWorld  # noqa: E402

RIGHT, SWAPPED = PAIRS.index((0, 1)), PAIRS.index((1, 0))


class Chosen:
    """The exact world with a few of its texts; the last is the empty one."""

    def __init__(self, world: ExactWorld, *texts: int) -> None:
        self.world, self.texts = world, (*texts, world.empty)

    def level(self, timestep):
        return self.world.level(timestep)

    def denoise(self, noised, level, texts):
        return self.world.denoise(noised, level, [self.texts[t] for t in texts])


def ask(world, pictures, *texts, **changes):
    settings = itm_preset(changes.pop("preset", "fast"), **changes)
    return score(Chosen(world, *texts), pictures, len(texts), settings, empty=len(texts))


NATS = {"preset": "nats", "low": 0.2, "high": 0.9, "levels": 100, "heat": False}


def test_nats_are_the_log_likelihood_ratio_within_one_percent():
    world = ExactWorld()
    picture = world.picture((0, 1))
    repeated = picture.expand(1, -1, 40, 50)  # the same picture under 2000 noises at a time
    found = ask(world, repeated, RIGHT, SWAPPED, **NATS).values()[0] / 2000
    for text, value in zip((RIGHT, SWAPPED), found.tolist(), strict=True):
        assert value == pytest.approx(world.log_ratio(picture, text), rel=0.01)


@pytest.mark.parametrize("parametrisation", ["v", "flow"])
def test_noise_errors_do_not_depend_on_what_the_model_predicts(parametrisation):
    picture = ExactWorld().picture((0, 1))
    plain, other = (ask(ExactWorld(p), picture, RIGHT, SWAPPED, **NATS) for p in ("eps", parametrisation))
    torch.testing.assert_close(other.errors, plain.errors, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("parametrisation", ["eps", "v", "flow"])
def test_native_errors_are_those_of_what_the_model_predicts(parametrisation):
    world, picture = ExactWorld(parametrisation, wrong=0.1), ExactWorld().picture((0, 1))
    settings = {"steps": (300.0,), "metric": "mse", "noise": "shared", "prune": False}
    found = ask(world, picture, RIGHT, **settings, normalise="off").errors.item()
    level = world.level(300.0)
    noise = torch.randn(1, *picture.shape[1:], generator=torch.Generator().manual_seed(0))
    noised = level.signal * picture + level.noise * noise
    (clean,) = world.denoise(noised, level, [RIGHT])
    eps = (noised - level.signal * clean) / level.noise  # the three predictions, each by its definition
    said, true = {
        "eps": (eps, noise),
        "v": (level.signal * eps - level.noise * clean, level.signal * noise - level.noise * picture),
        "flow": (eps - clean, noise - picture),
    }[parametrisation]
    assert found == pytest.approx(float((said - true).square().mean()), rel=1e-5)


def test_paper_preset_is_the_released_scoring():
    """A plain rewrite: mean over t = 10, 110, ... of L2 norms, one noise a step for all, the empty text subtracted."""
    world = ExactWorld(wrong=0.05)
    pictures = torch.cat([world.picture((0, 1)), world.picture((1, 0), 3)])
    found = ask(world, pictures, RIGHT, SWAPPED, preset="paper", normalise="on")
    assert paper_steps(10) == tuple(range(10, 1000, 100)) and len(paper_steps(250)) == 245
    expected = torch.zeros(2, 2)
    for index, t in enumerate(range(10, 990, 100)):
        level = world.level(t)
        noise = torch.randn(1, 16, 1, 1, generator=torch.Generator().manual_seed(index))
        for i, picture in enumerate(pictures):
            noised = level.signal * picture + level.noise * noise
            errors = [
                (noise - (noised - level.signal * clean) / level.noise).flatten().norm()
                for clean in world.denoise(noised, level, [RIGHT, SWAPPED, world.empty])
            ]
            expected[i] -= (torch.stack(errors[:2]) - errors[2]) / 10
    torch.testing.assert_close(found.values().float(), expected, rtol=1e-4, atol=1e-5)


def test_an_eps_function_is_enough():
    world, picture = ExactWorld(), ExactWorld().picture((0, 1))

    def eps(noised, level, text):
        (clean,) = world.denoise(noised, level, [text])
        return (noised - level.signal * clean) / level.noise

    matcher = EpsMatcher(eps, world.level)
    found = score(matcher, picture, 2, itm_preset("fast", prune=False, stop=0.0), empty=world.empty)
    assert found.errors.shape == (1, 2, 10)
    plain = score(world, picture, 2, itm_preset("fast", prune=False, stop=0.0), empty=world.empty)
    torch.testing.assert_close(found.errors, plain.errors, rtol=1e-4, atol=1e-4)


def test_the_right_picture_and_the_right_text_win():
    world = ExactWorld()
    pictures = torch.cat([world.picture(PAIRS[i], i) for i in (3, RIGHT, 20, SWAPPED, 7, 11)])
    found = ask(world, pictures, RIGHT, SWAPPED, levels=20, low=0.2, high=0.9)
    assert found.ranking()[0] == 1
    assert found.margin(1).mean > 0 > found.margin(3).mean
    assert found.match(1) > 0.9 and found.match(3) < 0.1
    texts = ask(world, world.picture((0, 1)), SWAPPED, 3, RIGHT, 20, 7)
    assert texts.text_ranking()[0] == 2


def test_noise_is_shared_so_batches_and_company_change_nothing():
    world = ExactWorld()
    pictures = torch.cat([world.picture(PAIRS[i], i) for i in range(5)])
    whole = ask(world, pictures, RIGHT, SWAPPED, prune=False, stop=0.0)
    single = ask(world, pictures, RIGHT, SWAPPED, prune=False, stop=0.0, batch=2)
    torch.testing.assert_close(whole.errors, single.errors)
    alone = ask(world, pictures[3:4], SWAPPED, prune=False, stop=0.0)
    torch.testing.assert_close(alone.errors[0, 0], whole.errors[3, 1])
    other = ask(world, pictures, RIGHT, SWAPPED, prune=False, stop=0.0, seed=1)
    assert not torch.allclose(other.errors, whole.errors)


def test_antithetic_draws_are_the_mean_of_a_noise_and_its_mirror_image():
    world, picture = ExactWorld(), ExactWorld().picture((0, 1))
    asked = {"steps": (500.0,), "prune": False, "stop": 0.0, "normalise": "off"}
    pair = ask(world, picture, RIGHT, **asked).errors.item()
    noise, level = torch.randn(1, 16, 1, 1, generator=torch.Generator().manual_seed(0)), world.level(500.0)
    lengths = []
    for sign in (1, -1):
        (clean,) = world.denoise(level.signal * picture + sign * level.noise * noise, level, [RIGHT])
        lengths.append(float((clean - picture).norm()) * level.native)
    assert pair == pytest.approx(sum(lengths) / 2, rel=1e-5)


def test_standard_errors_are_those_that_repeating_shows():
    """Where all draws are at one level, the spread of scores over seeds must agree with the stated error."""
    world, picture = ExactWorld(), ExactWorld().picture((0, 1))
    asked = {"steps": (480.0,), "repeats": 8, "prune": False, "stop": 0.0, "noise": "shared", "heat": False}
    found = [ask(world, picture, RIGHT, **asked, seed=1000 + i) for i in range(150)]
    values = torch.stack([f.values()[0, 0] for f in found])
    stated = torch.stack([f.standard_errors()[0, 0] for f in found]).square().mean().sqrt()
    assert float(stated / values.std()) == pytest.approx(1.0, abs=0.2)


def test_student_agrees_with_tables():
    for freedom, t in ((1, 6.314), (4, 2.132), (9, 1.833), (30, 1.697)):
        assert student(t, 1.0, freedom + 1) == pytest.approx(0.95, abs=2e-4)
        assert student(-t, 1.0, freedom + 1) == pytest.approx(0.05, abs=2e-4)
    assert student(1.0, math.nan, 1) == student(0.0, 0.0, 5) == 0.5 and student(1.0, 0.0, 5) == 1.0


def test_pruning_saves_calls_and_keeps_the_winner():
    whole, saved = ExactWorld(), ExactWorld()
    pictures = torch.cat([whole.picture(PAIRS[i], i) for i in (3, RIGHT, 20, SWAPPED, 7, 11, 14, 29)])
    asked = {"levels": 16, "stop": 0.0, "heat": False}
    full = ask(whole, pictures, RIGHT, **asked, prune=False)
    pruned = ask(saved, pictures, RIGHT, **asked)
    assert pruned.ranking()[0] == full.ranking()[0] == 1
    assert pruned.draws()[:, 0].sort().values.tolist() == [4] * 4 + [8] * 2 + [16] * 2
    assert sum(n for _, n in saved.seen) == 2 * (4 * 8 + 4 * 4 + 8 * 2)
    kept = pruned.ranking()[0]
    torch.testing.assert_close(pruned.errors[kept], full.errors[kept])


def test_scores_can_be_compared_although_some_pictures_saw_fewer_noise_levels():
    """Dropped pictures keep their paired distance to the best; plain means mix up the noise levels."""
    world = ExactWorld()
    pictures = torch.cat([world.picture(PAIRS[i], i) for i in (3, RIGHT, 20, SWAPPED, 7, 11, 14, 29)])
    asked = {"levels": 16, "stop": 0.0, "heat": False}
    pruned, full = (ask(world, pictures, RIGHT, SWAPPED, **asked, prune=p) for p in (True, False))
    torch.testing.assert_close(full.comparable(), full.values())
    own = pruned.comparable()[:, 0]
    assert int(own.argmax()) == 1 and float(own[1]) == pytest.approx(float(pruned.values()[1, 0]))
    for i in range(8):
        shared = torch.isfinite(pruned.errors[i, 0])
        distance = (full.gains()[i, 0] - full.gains()[1, 0])[shared].mean()
        assert float(own[i] - own[1]) == pytest.approx(float(distance), abs=1e-6)


def test_the_first_text_is_never_pruned():
    world = ExactWorld()
    found = ask(world, world.picture((0, 1)), 29, RIGHT, SWAPPED, 3, 7, 8, levels=12, stop=0.0)
    assert found.draws()[0, 0] == 12 and found.text_ranking()[0] == 1


def test_it_stops_when_the_decision_is_ahead_by_so_many_standard_errors():
    world = ExactWorld()
    pictures = torch.cat([world.picture((0, 1)), world.picture((4, 5))])
    found = ask(world, pictures, RIGHT, levels=40, stop=3.0)
    done = int(found.draws()[0, 0])
    assert 4 <= done < 40
    best = found.between_pictures(0, 1)
    assert best.mean >= 3.0 * best.error and best.p > 0.95
    longer = ask(world, pictures, RIGHT, levels=40, stop=8.0)
    assert done < int(longer.draws()[0, 0]) and (ask(world, pictures, RIGHT, levels=40, stop=0.0).draws() == 40).all()


def test_the_heat_map_adds_up_to_the_gain_and_shows_where():
    """Two worlds side by side: the text is right about the left one only."""

    class Sides(ExactWorld):
        def denoise(self, noised, level, texts):
            left, right = noised[..., :1], noised[..., 1:]
            found = super().denoise(left, level, [RIGHT if t == 0 else self.empty for t in texts])
            other = super().denoise(right, level, [self.empty] * len(texts))
            return [torch.cat(pair, -1) for pair in zip(found, other, strict=True)]

    world = Sides()
    picture = torch.cat([world.picture((0, 1)), world.picture((0, 1), 4)], -1)
    found = score(world, picture, 1, itm_preset("fast", metric="mse", prune=False, stop=0.0), empty=1)
    assert found.heat.shape == (1, 1, 2)
    assert float(found.heat.mean()) == pytest.approx(float(found.values()), rel=1e-5)
    assert float(found.heat[..., 0]) > 0 and float(found.heat[..., 1]) == 0.0


def test_a_mask_scores_a_region_only():
    world = ExactWorld()
    picture = world.picture((0, 1)).expand(1, -1, 2, 2).clone()

    mask = torch.zeros(1, 1, 2, 2)
    mask[..., 0, 1] = 1.0
    asked = itm_preset("fast", metric="mse", prune=False, stop=0.0)
    found = score(world, picture, 1, asked, empty=world.empty, mask=mask)
    changed = picture.clone()
    changed[..., 1, 0] += 5.0
    torch.testing.assert_close(score(world, changed, 1, asked, empty=world.empty, mask=mask).errors, found.errors)
    changed[..., 0, 1] += 5.0
    assert not torch.allclose(score(world, changed, 1, asked, empty=world.empty, mask=mask).errors, found.errors)
    with pytest.raises(InterplayError, match="mask is empty"):
        score(world, picture, 1, asked, empty=world.empty, mask=mask * 0)


def test_ties_keep_the_order_and_are_no_win():
    world = ExactWorld()
    picture = world.picture((0, 1))
    found = ask(world, picture.repeat(3, 1, 1, 1), RIGHT, RIGHT)
    assert found.ranking() == [0, 1, 2] and found.match(0) == 0.5


def test_any_first_draws_cover_the_range():
    assert spread(8) == [0, 4, 2, 6, 1, 5, 3, 7] and sorted(spread(10)) == list(range(10)) and spread(1) == [0]


def test_what_cannot_be_is_said():
    world, picture = ExactWorld(), ExactWorld().picture((0, 1))
    with pytest.raises(InterplayError, match="needs the empty prompt"):
        score(world, picture, 1, itm_preset("fast", normalise="on"))
    with pytest.raises(InterplayError, match="no preset 'slow'"):
        itm_preset("slow")
    for bad in ({"levels": 0}, {"low": 0.9, "high": 0.1}, {"metric": "l1"}, {"steps": (1000.0,)}):
        with pytest.raises(InterplayError):
            ItmSettings(**bad)
    broken = ExactWorld(wrong=math.inf)
    with pytest.raises(InterplayError, match="not finite"):
        ask(broken, picture, RIGHT)
