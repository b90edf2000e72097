"""Counters, gauges and histograms in Prometheus' text format, under vLLM's names.

A name is used only where the meaning is vLLM's, so that its dashboards read true: time to first
token counts from the arrival of the HTTP request, inter-token latency is the gap between two
deliveries, time per output token is one number a request. Gauges and engine counters are read
when scraped. Written by hand: four shapes of lines need no client library.
Source: Prometheus exposition format 0.0.4; vLLM's documentation of production metrics.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from plimsoll.serving.generation import EngineStats, FinishReason

__all__ = ["CONTENT_TYPE", "ServerMetrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_S = (
    *(0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    *(60.0, 120.0, 240.0, 480.0, 960.0, 1920.0),
)
TOKENS = tuple(float(mantissa * 10**power) for power in range(6) for mantissa in (1, 2, 5))
FINISHED = {"stop": "stop", "length": "length", "cancelled": "abort", "error": "error"}


class Histogram:
    """Counts of observations at or below each bound, with their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Cumulative buckets, sum and count."""
        total = 0
        bounds = [*(repr(bound) for bound in self._bounds), "+Inf"]
        for bound, count in zip(bounds, self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {total}'
        yield f"{name}_sum{{{labels}}} {self._sum!r}"
        yield f"{name}_count{{{labels}}} {total}"


class ServerMetrics:
    """What the server itself observed, and how to write it together with the engine's numbers."""

    def __init__(self, model_name: str) -> None:
        self._labels = f'model_name="{_escaped(model_name)}"'
        self.ttft_s = Histogram(LATENCY_S)
        self.itl_s = Histogram(LATENCY_S)
        self.tpot_s = Histogram(LATENCY_S)
        self.e2e_s = Histogram(REQUEST_S)
        self.prompt_tokens = Histogram(TOKENS)
        self.output_tokens = Histogram(TOKENS)
        self._finished: Counter[str] = Counter({label: 0 for label in FINISHED.values()})
        self._answers: Counter[int] = Counter()

    def finished(self, reason: FinishReason) -> None:
        """A sequence ended; refused ones never began and are not counted."""
        if reason in FINISHED:
            self._finished[FINISHED[reason]] += 1

    def answered(self, status: int) -> None:
        """An HTTP request ended."""
        self._answers[status] += 1

    def text(self, stats: EngineStats) -> str:
        """The exposition."""
        return "\n".join(self._lines(stats)) + "\n"

    def _lines(self, stats: EngineStats) -> Iterator[str]:
        usage = stats.used_blocks / stats.total_blocks if stats.total_blocks else 0.0
        for name, kind, value, said in (
            ("vllm:num_requests_running", "gauge", stats.running, "Sequences in the batch."),
            ("vllm:num_requests_waiting", "gauge", stats.waiting, "Sequences that wait."),
            ("vllm:kv_cache_usage_perc", "gauge", usage, "Share of KV blocks in use; 1 is all."),
            ("vllm:num_preemptions_total", "counter", stats.preemptions, "Preemptions."),
            ("vllm:prompt_tokens_total", "counter", stats.prompt_tokens, "Prompt tokens taken."),
            ("vllm:generation_tokens_total", "counter", stats.generated_tokens, "Tokens drawn."),
            (
                *("vllm:prefix_cache_queries_total", "counter", stats.prompt_tokens),
                "Prompt tokens looked up in the prefix cache.",
            ),
            (
                *("vllm:prefix_cache_hits_total", "counter", stats.cached_tokens),
                "Prompt tokens found there.",
            ),
            ("plimsoll:replicas_up", "gauge", stats.replicas_up, "Replicas that serve."),
            ("plimsoll:replicas", "gauge", stats.replicas, "Replicas of the plan."),
        ):
            yield from _header(name, kind, said)
            yield f"{name}{{{self._labels}}} {value}"
        name = "vllm:request_success_total"
        yield from _header(name, "counter", "Sequences that ended, by reason.")
        for label, count in sorted(self._finished.items()):
            yield f'{name}{{{self._labels},finished_reason="{label}"}} {count}'
        name = "plimsoll:http_responses_total"
        yield from _header(name, "counter", "HTTP requests that ended, by status.")
        for status, count in sorted(self._answers.items()):
            yield f'{name}{{{self._labels},status="{status}"}} {count}'
        for name, histogram, said in (
            ("vllm:time_to_first_token_seconds", self.ttft_s, "Arrival to first token."),
            ("vllm:inter_token_latency_seconds", self.itl_s, "Gap between two deliveries."),
            (
                *("vllm:request_time_per_output_token_seconds", self.tpot_s),
                "Mean time per token after the first, one number a sequence.",
            ),
            ("vllm:e2e_request_latency_seconds", self.e2e_s, "Arrival to last token."),
            ("vllm:request_prompt_tokens", self.prompt_tokens, "Prompt tokens of a sequence."),
            ("vllm:request_generation_tokens", self.output_tokens, "Tokens drawn for one."),
        ):
            yield from _header(name, "histogram", said)
            yield from histogram.lines(name, self._labels)


def _header(name: str, kind: str, said: str) -> tuple[str, str]:
    return f"# HELP {name} {said}", f"# TYPE {name} {kind}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
