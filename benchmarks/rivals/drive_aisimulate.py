"""Simulate measured rows, or a trace, with AISimulate; runs inside its environment.

    python drive_aisimulate.py rows ROWS.csv OUT.json     each row as a closed loop
    python drive_aisimulate.py hour QUESTION.json OUT.json   a trace on equal replicas

A row becomes a trace of its own: lengths drawn uniformly from 0.8 to 1.0 of isl and osl, as the
measurements describe theirs, no shared prefix, ``concurrency`` requests held in flight; 10 requests
a place in flight, at least 32 and at most 5,120 where that still is three a place. The mean TTFT
and TPOT of the run are compared with the row. Batch limits leave room for every request in flight.
Left out: measured engine versions without data, for which the default version stands in.
Source: the documented configuration of ``aisimulate predict`` 0.13 (PyPI).
"""

import contextlib
import io
import json
import logging
import random
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from deployments import Deployment, Workers, timed_predictions

SHORTEST = 0.8
BLOCK = 512
PARALLELISM = {
    "tp_size": "tensor",
    "pp_size": "pipeline",
    "attention_dp_size": "attention_data",
    "moe_tp_size": "moe_tensor",
    "moe_ep_size": "moe_expert",
}


def num_requests(in_flight: int) -> int:
    """Requests of a closed loop."""
    return max(32, 3 * in_flight, min(10 * in_flight, 5120))


def write_trace(path: Path, requests: list[tuple[float, int, int]]) -> None:
    """Requests (ms, prompt, output) in the Mooncake format, no two sharing a block."""
    block = 0
    with path.open("w") as file:
        for at_ms, prompt, output in requests:
            blocks = -(-prompt // BLOCK)
            line = {
                "timestamp": at_ms,
                "input_length": prompt,
                "output_length": output,
                "hash_ids": list(range(block, block + blocks)),
            }
            block += blocks
            file.write(json.dumps(line) + "\n")


def closed_loop(asked: Deployment) -> list[tuple[float, int, int]]:
    """The requests of a row; the seed is its id."""
    rng = random.Random(zlib.crc32(asked.id.encode()))

    def length(stated: int) -> int:
        return rng.randint(max(1, round(SHORTEST * stated)), stated)

    return [
        (0.0, length(asked.isl), length(asked.osl)) for _ in range(num_requests(asked.concurrency))
    ]


def worker(workers: Workers, max_sequences: int) -> dict[str, Any]:
    """One pool of the configuration."""
    parallelism = {PARALLELISM[name]: degree for name, degree in workers.sizes.items()}
    return {
        "parallelism": {"replicas": workers.count, **parallelism},
        "scheduler": {"max_sequences": max_sequences},
    }


def configuration(asked: Deployment, trace: Path) -> dict[str, Any]:
    """What ``aisimulate predict`` reads for a row."""
    engine: dict[str, Any] = {
        "mode": "disaggregated" if asked.disaggregated else "aggregated",
        "model": asked.model,
        "hardware": asked.system,
        "backend": asked.backend,
        "workers": {},
    }
    for name in ("gemm_quant_mode", "moe_quant_mode"):
        if getattr(asked, name):
            engine[name] = getattr(asked, name)
    for role, workers in asked.workers.items():
        limit = workers.batch if role == "prefill" else max(256, asked.concurrency)
        engine["workers"][role] = worker(workers, limit)
    return {
        "traffic": {
            "source": {"type": "trace", "paths": [str(trace)], "format": "mooncake"},
            "load": {"type": "concurrency", "concurrency": asked.concurrency},
        },
        "engine": engine,
    }


def simulate(config: dict[str, Any]) -> dict[str, Any]:
    """Run one configuration and return its summary."""
    from aisimulate import CorePredictionConfig, EngineReplayRunnerFactory
    from aisimulate.predict import run_prediction

    with contextlib.redirect_stdout(io.StringIO()):
        result = run_prediction(
            CorePredictionConfig.model_validate(config),
            stack="engine",
            runner_factory=EngineReplayRunnerFactory(),
        )
    return dict(result.summary)


def predict(asked: Deployment) -> dict[str, object]:
    """Mean times of a row, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.jsonl"
        requests = closed_loop(asked)
        write_trace(trace, requests)
        found = simulate(configuration(asked, trace))
    if found["completed_requests"] != len(requests):
        raise RuntimeError(f"{found['completed_requests']} of {len(requests)} requests completed")
    return {
        "ttft_ms": found["mean_ttft_ms"],
        "tpot_ms": found["mean_tpot_ms"],
        "requests": len(requests),
    }


def hour(question: dict[str, Any]) -> dict[str, Any]:
    """A trace at its own times on equal aggregated replicas."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.jsonl"
        write_trace(trace, [tuple(request) for request in question["requests"]])
        pool = {
            "parallelism": {"replicas": question["replicas"], "tensor": question["tp"]},
            "scheduler": {
                "max_batched_tokens": question["token_budget"],
                "max_sequences": question["max_batch"],
            },
        }
        config = {
            "traffic": {
                "source": {"type": "trace", "paths": [str(trace)], "format": "mooncake"},
                "load": {"type": "trace_timestamps"},
            },
            "engine": {
                "mode": "aggregated",
                "model": question["model"],
                "hardware": question["system"],
                "backend": question["backend"],
                "workers": {"aggregated": pool},
            },
        }
        started_s = time.process_time()
        found = simulate(config)
        return {"cpu_s": time.process_time() - started_s, "summary": found}


def main() -> None:
    """Answer one question from the command line."""
    verb, source, target = sys.argv[1:4]
    logging.disable(logging.CRITICAL)
    if verb == "hour":
        answer = hour(json.loads(Path(source).read_text()))
    else:
        answer = timed_predictions(source, predict)
    Path(target).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
