"""Vidur on the same hour: its own checkout, its own dependencies, its own profiles.

Vidur is not on a package index, so ``--vidur`` names a checkout of microsoft/vidur with its data;
its dependencies come from its requirements file, into an environment of their own. Its profiles
have Llama-3-70B (the shape of ours) up to 16k tokens only for A100, so it simulates A100 nodes.
It is run twice: the first run trains its predictors and keeps them, the second is timed.
Left out: the checkout is neither fetched, nor changed, nor installed.
Source: the command-line help and README of microsoft/vidur.
"""

import tempfile
from pathlib import Path

import venvs
from hour_question import Hour
from venvs import Cost, Unavailable

MODEL, DEVICE, NETWORK = "meta-llama/Meta-Llama-3-70B", "a100", "a100_dgx"
MAX_TOKENS = 16384
PROFILES = (
    f"compute/{DEVICE}/{MODEL}/attention.csv",
    f"compute/{DEVICE}/{MODEL}/mlp.csv",
    f"network/{NETWORK}/all_reduce.csv",
    f"network/{NETWORK}/send_recv.csv",
)
HOW = "give --vidur PATH, a checkout of github.com/microsoft/vidur with its data files"


def check(checkout: Path | None) -> Path:
    """The checkout, if it can run.

    Raises:
        Unavailable: none was given, or files of it are missing.
    """
    if checkout is None:
        raise Unavailable(f"Vidur is not on a package index; {HOW}")
    checkout = checkout.resolve()
    for name in ("vidur/main.py", "requirements.txt"):
        if not (checkout / name).is_file():
            raise Unavailable(f"no {name} in the Vidur checkout; {HOW}")
    for name in PROFILES:
        if not (checkout / "data/profiling" / name).is_file():
            raise Unavailable(f"the Vidur checkout lacks data/profiling/{name}; {HOW}")
    return checkout


def options(hour: Hour, trace: Path, folder: Path, models: Path) -> list[str]:
    """Command-line options for the hour, as its README names them."""
    predictor = "--random_forrest_execution_time_predictor_config"
    stated = {
        "--replica_config_device": DEVICE,
        "--replica_config_network_device": NETWORK,
        "--replica_config_model_name": MODEL,
        "--replica_config_tensor_parallel_size": hour.tp,
        "--replica_config_num_pipeline_stages": 1,
        "--cluster_config_num_replicas": hour.replicas,
        "--global_scheduler_config_type": "round_robin",
        "--replica_scheduler_config_type": "sarathi",
        "--sarathi_scheduler_config_chunk_size": hour.token_budget,
        "--sarathi_scheduler_config_batch_size_cap": hour.max_batch,
        "--request_generator_config_type": "trace_replay",
        "--trace_request_generator_config_trace_file": trace,
        "--trace_request_generator_config_max_tokens": MAX_TOKENS,
        "--trace_request_generator_config_time_scale_factor": 1.0,
        "--trace_request_generator_config_prefill_scale_factor": 1.0,
        "--trace_request_generator_config_decode_scale_factor": 1.0,
        f"{predictor}_prediction_max_prefill_chunk_size": MAX_TOKENS,
        f"{predictor}_prediction_max_batch_size": 2 * hour.max_batch,
        f"{predictor}_prediction_max_tokens_per_request": MAX_TOKENS,
        f"{predictor}_num_training_job_threads": 1,
        "--metrics_config_output_dir": folder,
        "--metrics_config_cache_dir": models,
    }
    flat = [str(part) for pair in stated.items() for part in pair]
    off = ("store_plots", "enable_chrome_trace", "store_utilization_metrics")
    return [*flat, *(f"--no-metrics_config_{name}" for name in off)]


def simulate(hour: Hour, checkout: Path | None, cache: Path) -> tuple[Cost, Cost]:
    """Cost of the run that trains, then of the run that is timed."""
    checkout = check(checkout)
    lines = (checkout / "requirements.txt").read_text().splitlines()
    needed = sorted(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    python = venvs.python_of(cache, "vidur", needed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trace = folder / "trace.csv"
        rows = [f"{at_s},{prompt},{output}\n" for at_s, prompt, output in hour.requests]
        trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(rows))
        command = [str(python), "-m", "vidur.main"]
        command += options(hour, trace, folder / "output", cache / "vidur-models")
        environment = {
            "PYTHONPATH": str(checkout),
            "PYTHONDONTWRITEBYTECODE": "1",
            "WANDB_MODE": "disabled",
        }
        costs = [
            venvs.run(command, timeout_s=14400, cwd=checkout, env=environment)[1] for _ in range(2)
        ]
    return costs[0], costs[1]
