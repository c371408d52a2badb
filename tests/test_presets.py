"""Presets follow the publications, and every wrong setting gets one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from interplay.errors import InterplayError
from interplay.guidance.presets import PRESETS, GuidanceConfig, preset


def test_paper_presets():
    conform, shy = preset("CONFORM (paper)"), preset("SHY (paper)")
    for config in (conform, shy):
        assert (config.step_rule, config.step, config.norm_cap, config.restore_std) == ("gradient", 20.0, None, False)
        assert (config.refine_at, config.refine_iterations) == ((0.0, 0.2, 0.4), (20, 20, 20))
        assert not (config.early_stop or config.off_switch or config.skip_met or config.targets)
        assert config.end in (0.5, 0.6) and config.temperature_contrast == 0.5 and config.use_previous
    assert conform.terms == ("C",) and conform.literal_blur and conform.kernel_narrow == (3, 0.5)
    assert shy.terms == ("C", "A", "L") and shy.link_mode == "paper" and shy.environment_weight == 1


def test_every_preset_is_named_as_it_is_called_and_is_plain_data():
    for name, config in PRESETS.items():
        assert config.preset == name == preset(name).preset
        assert GuidanceConfig(**config.to_dict()) == config
        assert json.loads(json.dumps(config.to_dict()))["preset"] == name


def test_changes():
    assert preset("SHY", strength=0.5).strength == 0.5 and PRESETS["SHY"].strength == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strength": -1}, "strength is -1; give a number from 0 to 10"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"step": float("inf")}, "step is inf; give a number of at least 0"),
        ({"start": 0.6, "end": 0.5}, "cannot run from 0.6 to 0.5"),
        ({"end": 1.5}, "between 0 and 1"),
        ({"selection": "cicle"}, "no selection called 'cicle'; choose one of cycle"),
        ({"step_rule": "adam"}, "no step_rule called 'adam'"),
        ({"link_mode": "x"}, "no link_mode called 'x'"),
        ({"terms": ()}, "must be one or more"),
        ({"terms": ("C", "C")}, "must be one or more different"),
        ({"terms": ("Q",)}, "no loss term called 'Q'"),
        ({"targets": (("X", 0.1),)}, "no loss term called 'X'"),
        ({"terms": ("C",), "cycle": ("A", "L"), "selection": "random"}, "has none of the terms"),
        ({"kernel_narrow": (4, 1.0)}, "odd number of cells"),
        ({"kernel_wide": (7, 0.0)}, "positive sigma"),
        ({"norm_cap": 0.0}, "norm_cap is 0.0"),
        ({"environment_weight": 1.5}, "environment_weight is 1.5"),
        ({"refine_at": (0.1, 0.2)}, "one count of 0 or more for each place"),
        ({"refine_at": (0.1,), "refine_iterations": (-1,)}, "one count of 0 or more"),
        ({"colour": 1}, "no guidance setting called 'colour'"),
    ],
)
def test_wrong_settings_get_one_sentence(changes, words):
    with pytest.raises(InterplayError) as error:
        preset("SHY", **changes)
    assert words in str(error.value)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(InterplayError, match=r"called 'SHI'; choose one of SHY, .*CONFORM \(paper\)"):
        preset("SHI")


def _docs_rows() -> list[str]:
    """The table of docs/guidance.md, made from the presets."""
    columns = [PRESETS[n] for n in ("SHY", "SHY (combined)", "CONFORM", "SHY (paper)", "CONFORM (paper)")]
    rows = {
        "terms": lambda c: " ".join(c.terms),
        "weights": lambda c: ", ".join(f"{n} {w:g}" for n, w in c.weights if n in c.terms) or "–",
        "roles": lambda c: f"margin {c.role_margin:g}, sideways" if "R" in c.terms else "–",
        "selection": lambda c: c.selection + (f" {' '.join(c.cycle)}" if c.selection == "weighted cycle" else ""),
        "link": lambda c: (
            f"{c.link_mode}{f' {c.link_margin:g}' if c.link_mode == 'hinge' else ''}" if "L" in c.terms else "–"
        ),
        "environment weight": lambda c: f"{c.environment_weight:g}",
        "blur": lambda c: "literal" if c.literal_blur else "true",
        "step": lambda c: f"{c.step:.1%} of \\|z\\|" if c.step_rule == "relative" else f"{c.step:g} · gradient",
        "for steps": lambda c: f"{c.reference_steps or 'any'}",
        "window": lambda c: f"{c.start:g}–{c.end:g}",
        "windows of terms": lambda c: ", ".join(f"{n} {a:g}–{b:g}" for n, a, b in c.windows if n in c.terms) or "–",
        "refinement": lambda c: (
            ", ".join(f"{n} at {a:g}" for a, n in zip(c.refine_at, c.refine_iterations, strict=True)) or "–"
        ),
        "cap": lambda c: f"{c.norm_cap:.0%}" if c.norm_cap else "–",
        "keeps deviation": lambda c: "yes" if c.restore_std else "no",
        "targets": lambda c: ", ".join(f"{n} {p:g}" for n, p in c.targets if n in c.terms) or "–",
        "wakes over": lambda c: ", ".join(f"{n} {p:g}" for n, p in c.wake if n in c.terms) or "–",
        "switches off": lambda c: "yes" if c.off_switch else "no",
    }
    return [f"| {name} | {' | '.join(row(c) for c in columns)} |" for name, row in rows.items()]


def test_the_table_in_the_docs_is_what_the_presets_are():
    text = (Path(__file__).parents[1] / "docs" / "guidance.md").read_text(encoding="utf-8")
    assert [row for row in _docs_rows() if row not in text] == []
