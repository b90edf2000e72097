"""A public load generator against ``plimsoll serve``, and what both sides counted.

GuideLLM (Apache-2.0, by the vLLM project) in an environment of its own, made once under the cache
folder; the demonstration model behind the server in another process; chats streamed, a fixed
number in flight, prompts and outputs of mixed lengths. Ends with 1 unless every request succeeded
and the server's own counts are the generator's. Left out: repeats, a second machine; both sides
share this one's processors.

    python benchmarks/load_generator.py [--requests 320] [--streams 16] [--threads 1]
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from plimsoll.evals.tinylm import tiny_lm

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path.home() / ".cache" / "plimsoll-load-generator"
# The small CPU build of torch is named first, or a CUDA one would be taken.
REQUIREMENTS = ["torch==2.13.0", "guidellm==0.8.1"]
PROMPT = "prompt_tokens=128,prompt_tokens_stdev=40"
OUTPUT = "output_tokens=48,output_tokens_stdev=16"
START_TIMEOUT_S = 600.0
RUN_TIMEOUT_S = 1800.0


def generator(cache: Path) -> Path:
    """The generator's program, installed if it is not there."""
    program, made_for = cache / "bin" / "guidellm", cache / "made-for.json"
    if not (made_for.exists() and json.loads(made_for.read_text()) == REQUIREMENTS):
        print(f"installing {', '.join(REQUIREMENTS)} into {cache}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(cache)], check=True)
        pip = [str(cache / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", *REQUIREMENTS], check=True)
        made_for.write_text(json.dumps(REQUIREMENTS))
    return program


@contextmanager
def server(threads: int, log: Path) -> Iterator[str]:
    """The address of a server of the demonstration model, until the block ends."""
    command = [sys.executable, "-m", "plimsoll.cli.main", "serve", "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    with log.open("w") as err:
        process = subprocess.Popen(command, stderr=err, env=environment)
    try:
        until_s = time.monotonic() + START_TIMEOUT_S
        while not (found := re.search(r"on (http://\S+) \(chat", log.read_text())):
            if process.poll() is not None or time.monotonic() > until_s:
                raise SystemExit(f"the server did not start: {log.read_text()[-500:]}")
            time.sleep(0.2)
        yield found.group(1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def drive(program: Path, url: str, model: Path, asked: argparse.Namespace, report: Path) -> None:
    """Run the generator to its end."""
    command = [
        *(str(program), "run", "--disable-progress"),
        *("--backend", f"kind=openai_http,target={url},model=plimsoll-demo"),
        *("--profile", f"kind=concurrent,streams={asked.streams}"),
        *("--constraint", f"kind=max_requests,count={asked.requests}"),
        *("--data", f"kind=synthetic_text,{PROMPT},{OUTPUT}"),
        *("--tokenizer", f"kind=hf_auto,model={model}"),
        *("--seed", f"kind=static,value={asked.seed}"),
        *("--output", f"kind=json,path={report}"),
    ]
    left_out = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )
    if done.returncode != 0 or not report.exists():
        raise SystemExit(f"the generator failed: {(done.stderr or done.stdout)[-1000:]}")


def theirs(report: Path) -> dict[str, float]:
    """What the generator saw of requests that succeeded."""
    (run,) = json.loads(report.read_text())["benchmarks"]
    found = run["metrics"]

    def of(name: str) -> dict[str, Any]:
        values: dict[str, Any] = found[name]["successful"]
        return values

    totals = found["request_totals"]
    rows = {
        "requests": totals["successful"],
        "failures": totals["errored"] + totals["incomplete"],
        "prompt tokens": of("prompt_token_count")["total_sum"],
        "output tokens": of("output_token_count")["total_sum"],
        "output tokens/s": of("output_token_count")["total_sum"] / run["duration"],
    }
    for name, key in (("TTFT", "time_to_first_token_ms"), ("ITL", "inter_token_latency_ms")):
        rows[f"{name} mean ms"] = of(key)["mean"]
        rows[f"{name} median ms"] = of(key)["median"]
        rows[f"{name} p99 ms"] = of(key)["percentiles"]["p99"]
    return rows


def ours(url: str) -> dict[str, float]:
    """What the server counted; medians and tails only to a histogram's bucket, so not told."""
    with urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()

    def value(name: str, label: str = "") -> float:
        pattern = rf"^{re.escape(name)}{{[^}}]*{re.escape(label)}[^}}]*}} (\S+)$"
        return sum(float(found) for found in re.findall(pattern, text, re.M))

    def mean_ms(name: str) -> float:
        return 1e3 * value(f"{name}_sum") / max(1.0, value(f"{name}_count"))

    success, finished = "vllm:request_success_total", ("stop", "length")
    return {
        "requests": sum(value(success, f'finished_reason="{why}"') for why in finished),
        "failures": sum(value(success, f'finished_reason="{w}"') for w in ("abort", "error")),
        "prompt tokens": value("vllm:prompt_tokens_total"),
        "output tokens": value("vllm:generation_tokens_total"),
        "TTFT mean ms": mean_ms("vllm:time_to_first_token_seconds"),
        "ITL mean ms": mean_ms("vllm:inter_token_latency_seconds"),
    }


def main() -> int:
    """Install, serve, drive, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=320)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cache", type=Path, default=CACHE)
    asked = parser.parse_args()
    program, model = generator(asked.cache), tiny_lm()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        with server(asked.threads, Path(folder) / "server.log") as url:
            drive(program, url, model, asked, report)
            counted = ours(url)
        seen = theirs(report)
    print(
        f"{' and '.join(REQUIREMENTS)}; plimsoll-demo, fp32, {asked.threads} thread(s) of "
        f"{os.cpu_count()} processors; {asked.streams} streams, seed {asked.seed}; {PROMPT}; "
        f"{OUTPUT}"
    )
    print(f"{'':20}{'generator':>12}{'/metrics':>12}")
    for name, value in seen.items():
        own = f"{counted[name]:12,.1f}" if name in counted else f"{'':12}"
        print(f"{name:20}{value:12,.1f}{own}")
    same = ("requests", "failures", "prompt tokens", "output tokens")
    differ = [name for name in same if seen[name] != counted[name]]
    if differ or seen["failures"] or seen["requests"] != asked.requests:
        print(f"not as it should be: {', '.join(differ) or 'requests failed'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
