"""The simulated hour that every simulator is asked about, and the cluster it is served on.

The Azure conversation hour of 2023 (19,366 requests) on 16 instances of Llama-3.1-70B, each on
4 GPUs, chunked prefill of 2,048 tokens a step and at most 256 requests a step: the case ``hour``
of benchmarks/simulator_speed.py. Arrival times are seconds after the first request.
Source: shared/data/traces/azure_llm_2023_conv.csv (Azure/AzurePublicDataset, CC-BY-4.0).
"""

import csv
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """Requests as (arrival in s, prompt tokens, output tokens), and what serves them."""

    requests: list[tuple[float, int, int]]
    replicas: int = 16
    tp: int = 4
    token_budget: int = 2048
    max_batch: int = 256

    @property
    def output_tokens(self) -> int:
        """All output tokens."""
        return sum(output for _, _, output in self.requests)


def read_hour(path: Path, limit: int | None = None) -> Hour:
    """The hour from its file, or its first ``limit`` requests; at least one token each way."""
    requests: list[tuple[float, int, int]] = []
    first: datetime | None = None
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            whole, _, fraction = row["TIMESTAMP"].partition(".")
            at = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S")
            first = first or at.replace(microsecond=0)
            at_s = (at - first).total_seconds() + float(f"0.{fraction or 0}")
            tokens = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            requests.append((at_s, max(1, tokens[0]), max(1, tokens[1])))
            if limit is not None and len(requests) == limit:
                break
    start_s = requests[0][0]
    return Hour(requests=[(at_s - start_s, *tokens) for at_s, *tokens in requests])  # type: ignore[misc]
