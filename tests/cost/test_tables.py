"""Profiles read as tables: exact at measured sizes, never zero, holes named."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from plimsoll.cost.efficiency import calibration_for
from plimsoll.cost.host import engine_profile
from plimsoll.cost.operators import Setting, step_program
from plimsoll.cost.step import ReplicaClock
from plimsoll.cost.tables import profiled_program, read_mlp_profile
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import load_device
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import Parallel

DATA = Path(__file__).resolve().parents[2] / "../shared/data/vidur_profiles"
KERNELS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
LIGHT = ("input_layernorm", "mlp_act")
SIZES = "n_embd,n_head,n_kv_head,n_expanded_embd,num_tokens,num_tensor_parallel_workers"


def write_profile(path: Path, rows: list[tuple[int, int, float]], shape: str = "") -> Path:
    """Rows of (tokens, degree, milliseconds of every multiply)."""
    shape = shape or "8192,64,8,28672"
    head = ",".join(f"time_stats.{name}.median" for name in (*KERNELS, *LIGHT))
    lines = [f"{head},{SIZES}"]
    for tokens, tp, ms in rows:
        times = ",".join([f"{ms}"] * len(KERNELS) + ["0.001"] * len(LIGHT))
        lines.append(f"{times},{shape},{tokens},{tp}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def setting(tp: int, model: str = "llama-3.1-70b") -> Setting:
    spec, device = load_model(model), load_device("h100-sxm")
    return Setting(
        model=spec,
        device=device,
        parallel=Parallel(tp=tp),
        weight_dtype=None,
        kv_dtype=spec.quantization.kv_cache,
        devices_per_node=8,
        calibration=calibration_for(device),
        engine=engine_profile("vllm"),
        routing_exponent=0.0,
    )


def times(path: Path, tp: int, tokens: list[float], name: str = "qkv") -> np.ndarray:
    plain = setting(tp)
    program = profiled_program(step_program(plain), read_mlp_profile(path), plain.model, tp).program
    op = next(op for op in program.tokens if op.name == name)
    return np.asarray(op.work(np.array(tokens)).time_s)


def test_measured_sizes_are_exact_and_between_them_interpolated(tmp_path: Path) -> None:
    path = write_profile(tmp_path / "p.csv", [(1, 8, 0.1), (100, 8, 0.2), (200, 8, 0.4)])
    found = times(path, 8, [1, 100, 150, 200])
    assert found == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4])


def test_beyond_the_profile_the_model_is_scaled_to_meet_it(tmp_path: Path) -> None:
    path = write_profile(tmp_path / "p.csv", [(1, 8, 0.1), (512, 8, 0.4)])
    modeled = next(op for op in step_program(setting(8)).tokens if op.name == "qkv")
    at = np.asarray(modeled.work(np.array([512.0, 4096.0])).time_s)
    assert times(path, 8, [4096.0])[0] == pytest.approx(4e-4 * at[1] / at[0])


def test_a_missing_degree_is_the_operator_model_and_says_so(tmp_path: Path) -> None:
    path = write_profile(tmp_path / "p.csv", [(1, 8, 0.1), (512, 8, 0.4)])
    plain = setting(4)
    program = step_program(plain)
    found = profiled_program(program, read_mlp_profile(path), plain.model, 4)
    for before, after in zip(program.tokens, found.program.tokens, strict=True):
        assert after.work(np.array([64.0])).time_s == before.work(np.array([64.0])).time_s
        assert np.all(after.work(np.array([64.0])).time_s > 0)
    assert "qkv at tensor-parallel degree 4" in found.missing
    assert any("operator model" in words for words in found.warnings(1))


def test_steps_beyond_the_profile_are_flagged(tmp_path: Path) -> None:
    path = write_profile(tmp_path / "p.csv", [(1, 8, 0.1), (512, 8, 0.4)])
    plain = setting(8)
    found = profiled_program(step_program(plain), read_mlp_profile(path), plain.model, 8)
    assert found.missing == ()
    assert found.warnings(512) == ()
    assert "513" in found.warnings(513)[0] and "512" in found.warnings(513)[0]


@pytest.mark.parametrize("broken", ["0.0", "-1", "fast", "nan"])
def test_a_time_that_is_none_names_its_line(tmp_path: Path, broken: str) -> None:
    path = write_profile(tmp_path / "p.csv", [(1, 8, 0.1), (2, 8, 0.1)])
    lines = path.read_text().splitlines()
    lines[2] = broken + lines[2][lines[2].index(",") :]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SpecError, match="line 3"):
        read_mlp_profile(path)


def test_a_profile_of_another_model_is_refused(tmp_path: Path) -> None:
    path = write_profile(tmp_path / "p.csv", [(1, 8, 0.1)], shape="4096,32,32,11008")
    plain = setting(8)
    with pytest.raises(SpecError, match="4096"):
        profiled_program(step_program(plain), read_mlp_profile(path), plain.model, 8)


def test_gzipped_profiles_are_read_alike(tmp_path: Path) -> None:
    path = write_profile(tmp_path / "p.csv", [(1, 8, 0.1), (64, 8, 0.2)])
    packed = tmp_path / "p.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert times(packed, 8, [32.0]) == pytest.approx(times(path, 8, [32.0]))


@pytest.mark.skipif(not DATA.is_dir(), reason="measured profiles are not beside the checkout")
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_operator_model_agrees_with_the_measured_multiplies(tp: int) -> None:
    plain = setting(tp)
    table = read_mlp_profile(DATA / "h100_Llama-2-70b-hf_mlp.csv.gz")
    profiled = profiled_program(step_program(plain), table, plain.model, tp)
    ours = ReplicaClock(plain).step_s((), 8, 4000)
    theirs = ReplicaClock(plain, profiled.program).step_s((), 8, 4000)
    assert ours == pytest.approx(theirs, rel=0.12)
    assert profiled.missing == ()


def test_steps_with_prompts_take_at_least_their_launches() -> None:
    old = setting(8)._replace(engine=engine_profile("vllm-0.6"))
    clock = ReplicaClock(old)
    least_s = old.engine.prompt_launch_s + old.engine.step_s + old.engine.sequence_s
    assert clock.step_s([(8, 0)], 0, 0) == pytest.approx(least_s)
    assert clock.step_s([(8192, 0)], 0, 0) > 3 * least_s
    assert clock.step_s((), 1, 100) < least_s
    for chunks, decodes in (([(8, 0)], 0), ([(512, 1000)], 12)):
        parts = clock.step_parts(chunks, decodes, 700 * decodes)
        assert sum(parts.values()) == pytest.approx(
            clock.step_s(chunks, decodes, 700 * decodes), rel=2e-3
        )
