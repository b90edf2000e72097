"""A workload as a trace file that load generators replay: one JSON object a line.

The format is Mooncake's: ``timestamp`` in milliseconds, ``input_length``, ``output_length`` and
``hash_ids``, one id a block of the prompt. Requests that share leading ids share those tokens;
a block no other request shares gets an id of its own, because one generator builds the prompt
from the ids alone. Left out: think times of sessions, which no common format holds.
Source: github.com/kvcache-ai/Mooncake, arXiv 2407.00079.
"""

import json

from plimsoll.spec.workload import Workload

__all__ = ["BLOCK_TOKENS", "block_tokens", "trace_text"]

BLOCK_TOKENS = 512
"""Tokens one id stands for where the workload shares no prefixes: Mooncake's own."""


def block_tokens(workload: Workload) -> int:
    """Tokens one id stands for."""
    shares = len(workload.prefix_start) > 0 and workload.prefix_block_tokens > 0
    return workload.prefix_block_tokens if shares else BLOCK_TOKENS


def trace_text(workload: Workload) -> str:
    """The trace, in order of arrival; times count from the first arrival."""
    size = block_tokens(workload)
    shares = len(workload.prefix_start) > 0 and workload.prefix_block_tokens > 0
    numbers: dict[int, int] = {}
    fresh = 0
    first_s = float(workload.arrival_s[0])
    lines = []
    for row in range(len(workload)):
        prompt = int(workload.prompt_tokens[row])
        num_blocks = -(-prompt // size)
        ids: list[int] = []
        if shares:
            start, end = int(workload.prefix_start[row]), int(workload.prefix_start[row + 1])
            for key in workload.prefix_keys[start:end][:num_blocks].tolist():
                if key not in numbers:
                    numbers[key] = fresh
                    fresh += 1
                ids.append(numbers[key])
        own = num_blocks - len(ids)
        ids += range(fresh, fresh + own)
        fresh += own
        entry = {
            "timestamp": round((float(workload.arrival_s[row]) - first_s) * 1e3, 3),
            "input_length": prompt,
            "output_length": int(workload.output_tokens[row]),
            "hash_ids": ids,
        }
        lines.append(json.dumps(entry, separators=(",", ":")))
    return "\n".join(lines) + "\n"
