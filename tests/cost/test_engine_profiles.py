"""Engine profiles: every file loads, every fitted name is a constant, values are physical."""

import math
from dataclasses import fields
from importlib import resources
from typing import Any

import pytest
import yaml

from plimsoll.cost.host import (
    CommonCosts,
    EngineProfile,
    RequestCosts,
    StepFactors,
    common_costs,
    engine_profile,
)
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.io import from_data, plain

FOLDER = resources.files("plimsoll.library") / "engines"
FILES = sorted(f.name[:-5] for f in FOLDER.iterdir() if f.name.endswith(".yaml"))
NO_PROFILES = {"common", "error_bands", "settings"}
PROFILES = [name for name in FILES if name not in NO_PROFILES]
CURRENT = ("vllm", "sglang", "trtllm")
MOST_FITTED = 60
"""Fitted numbers in all current profiles together, for some 2,500 measured deployments."""
each_profile = pytest.mark.parametrize("name", PROFILES)


def constants(profile: EngineProfile) -> dict[str, float]:
    """Every number of a profile that could have been fitted, by its own name."""
    groups = (profile, profile.factors, profile.request)
    found = {f.name: getattr(group, f.name) for group in groups for f in fields(group)}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def test_the_folder_holds_the_current_engines() -> None:
    assert set(CURRENT) <= set(PROFILES)
    assert set(FILES) >= NO_PROFILES


@each_profile
def test_a_profile_loads_under_its_own_name_and_round_trips(name: str) -> None:
    found = engine_profile(name)
    assert found.name == name
    assert found.source and found.as_of
    assert from_data(EngineProfile, plain(found), where=name) == found


@each_profile
def test_names_in_a_profile_are_of_one_constant_each(name: str) -> None:
    profile = engine_profile(name)
    groups = (profile, profile.factors, profile.request)
    names = [f.name for group in groups for f in fields(group)]
    assert len(names) == len(set(names))


@each_profile
def test_what_was_fitted_is_a_constant_of_the_profile(name: str) -> None:
    profile = engine_profile(name)
    assert profile.fitted
    for constant, fit in profile.fitted.items():
        assert constant in constants(profile)
        assert math.isfinite(fit.standard_error) and fit.fitted_on


@pytest.mark.parametrize("name", CURRENT)
def test_every_factor_of_a_current_profile_was_fitted(name: str) -> None:
    profile = engine_profile(name)
    assert profile.origin == "calibrated" and profile.kernels == name
    named = {f.name for f in fields(StepFactors)} | {"step_s", "sequence_s", "fixed_s"}
    assert named <= set(profile.fitted)
    changed = {f.name for f in fields(StepFactors) if getattr(profile.factors, f.name) != 1.0}
    assert changed <= set(profile.fitted)


def test_what_all_engines_share_was_fitted_with_them() -> None:
    common = common_costs()
    assert common.source and common.as_of
    assert set(common.fitted) <= {f.name for f in fields(CommonCosts)}
    assert from_data(CommonCosts, plain(common), where="common") == common


def test_fitted_numbers_are_few() -> None:
    count = sum(len(engine_profile(name).fitted) for name in CURRENT)
    assert count + len(common_costs().fitted) <= MOST_FITTED


RANGES = {
    "step_s": (1e-5, 5e-3),
    "sequence_s": (0.0, 1e-4),
    "prompt_step_s": (0.0, 1e-2),
    "prompt_launch_s": (0.0, 5e-2),
    "request_s": (0.0, 0.1),
    "quantize_fraction": (0.0, 1.0),
    "token_budget": (512, 65536),
    "reserve_outputs": (0.0, 1.0),
    "dense": (0.5, 2.0),
    "experts": (0.5, 2.0),
    "attention": (0.5, 2.0),
    "all_reduce": (0.5, 2.0),
    "exchange": (0.5, 2.0),
    "light": (0.5, 2.0),
    "prompts": (1.0, 2.0),
    "fixed_s": (0.0, 0.5),
    "expert_s": (0.0, 0.5),
    "prompt_token_s": (0.0, 2e-5),
    "admission_steps": (0.0, 50.0),
    "few_admission": (0.05, 1.0),
    "rank_wait_steps": (0.0, 100.0),
    "handover_s": (0.0, 2.0),
}
"""A kernel in an engine runs within a factor of two of the kernel alone; host time of a step is
milliseconds at most, of a request a fraction of a second."""


@each_profile
def test_constants_are_physical(name: str) -> None:
    found = constants(engine_profile(name))
    assert found.keys() == RANGES.keys()
    off = {n: v for n, v in found.items() if not RANGES[n][0] <= v <= RANGES[n][1]}
    assert not off


def test_shared_constants_are_physical() -> None:
    common = common_costs()
    assert 1.0 <= common.cross_node <= 10.0
    assert 0.0 <= common.rank_overlap <= 1.0
    assert 1.0 <= common.accepted_tokens <= 1 + common.draft_tokens
    assert 0 <= common.few_requests <= 64


def test_host_time_of_older_engines_is_more() -> None:
    new, old = engine_profile("vllm"), engine_profile("vllm-0.6")
    assert new.step_s < old.step_s and new.sequence_s < old.sequence_s


@pytest.mark.parametrize("name", [*sorted(NO_PROFILES), "tgi", "", "vllm.yaml", "../engines/vllm"])
def test_what_is_no_profile_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        engine_profile(name)
    message = str(caught.value)
    assert all(engine in message for engine in PROFILES)
    assert not any(f"{other}," in message for other in NO_PROFILES)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("step_s", -1e-3),
        ("kernels", "tgi"),
        ("quantize_fraction", 1.5),
        ("token_budget", 0),
        ("reserve_outputs", 1.2),
        ("factors.prompts", 0.9),
        ("factors.dense", 0.0),
        ("factors.luck", 1.0),
        ("request.fixed_s", -0.1),
        ("request.few_admission", 0.0),
        ("request.warm_up_s", 1.0),
        ("fitted.step_s.standard_error", -1.0),
        ("source", None),
    ],
)
def test_bad_profiles_are_refused(path: str, value: Any) -> None:
    data: dict[str, Any] = plain(engine_profile("vllm"))
    inner = data
    *outer, last = path.split(".")
    for key in outer:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(SpecError, match=last):
        from_data(EngineProfile, data, where="profile")


@pytest.mark.parametrize(
    ("key", "value"), [("cross_node", 0.5), ("rank_overlap", 1.1), ("draft_tokens", 0), ("x", 1)]
)
def test_bad_shared_constants_are_refused(key: str, value: float) -> None:
    with pytest.raises(SpecError, match=key):
        from_data(CommonCosts, plain(common_costs()) | {key: value}, where="common")


def test_a_plain_profile_adds_nothing() -> None:
    assert {getattr(StepFactors(), f.name) for f in fields(StepFactors)} == {1.0}
    plain_costs = plain(RequestCosts())
    assert plain_costs.pop("few_admission") == 1.0
    assert set(plain_costs.values()) == {0.0}


@pytest.mark.parametrize("name", [*CURRENT, "common"])
def test_files_say_which_script_writes_them(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Written by scripts/")
    assert yaml.safe_load(text)["as_of"]
