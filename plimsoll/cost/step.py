"""Step times of one replica: every operator of every layer, tabulated so that a lookup is cheap.

``ReplicaClock.step_ops`` is the exact sum over operators. Simulation asks for millions of step
times, so three tables are made from it: time by tokens of the step, time by sampled tokens, and,
for each decode batch, a line over total context between knots a tenth apart. Prompt attention is
a closed form in the pairs each chunk sees. Attention data parallelism takes the busiest rank: an
even share of the batch, or the largest chunk if that is more, since a chunk cannot be split. What
prompts of a step would take alone is paid once more by the excess of the engine's factor.
Leaves out vision towers and the draft model of speculation.
Source: ``cost/operators.py``; coefficients in library.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

from plimsoll.cost.attention import visible_pairs
from plimsoll.cost.efficiency import calibration_for
from plimsoll.cost.engine_factors import engine_program
from plimsoll.cost.host import engine_profile
from plimsoll.cost.kv import kv_bytes
from plimsoll.cost.operators import PrefillOp, Setting, StepProgram, step_program
from plimsoll.cost.roofline import Floats, OpCost, op_cost
from plimsoll.cost.transfer import kv_transfer_s, swap_s
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import Parallel

__all__ = ["ReplicaClock", "replica_clock"]

Chunks = Sequence[tuple[int, int]]
_FOREVER = 2**62
_EXACT_TOKENS = 1024
_EDGE_TOKENS = 8192
_TILE_TOKENS = 64
_GRID_RATIO = 1.02
_KNOT_RATIO = 1.15
_MOST_TOKENS = 2**21
_LONGEST_CONTEXT = 2**24


def replica_clock(
    model: ModelSpec,
    device: Device,
    parallel: Parallel,
    *,
    weight_dtype: DType | None = None,
    kv_dtype: DType | None = None,
    engine: str = "vllm",
    num_devices_per_node: int | None = None,
    routing_exponent: float = 0.0,
) -> "ReplicaClock":
    """The clock of one replica of ``model`` cut up by ``parallel`` on ``device``.

    ``weight_dtype`` / ``kv_dtype`` None: as the model says. ``num_devices_per_node`` None: as
    the device says; groups larger than a node use the scale-out link. ``routing_exponent``
    is the power law of expert loads, 0 for uniform routing (see ``cost/routing.py``).

    Raises:
        UnsupportedError: the device has no rate for a needed format, or no needed link; the
            model's streams have no place in its layers.
    """
    setting = Setting(
        model=model,
        device=device,
        parallel=parallel,
        weight_dtype=weight_dtype,
        kv_dtype=kv_dtype or model.quantization.kv_cache,
        devices_per_node=num_devices_per_node or device.devices_per_node,
        calibration=calibration_for(device),
        engine=engine_profile(engine),
        routing_exponent=routing_exponent,
    )
    if model.streams > 1:
        from plimsoll.cost.stream_clock import StreamClock  # a subclass of the class below

        return StreamClock(setting)
    return ReplicaClock(setting)


class ReplicaClock:
    """A ``StepClock`` of one replica; make one with ``replica_clock``."""

    def __init__(self, setting: Setting, program: StepProgram | None = None) -> None:
        """``program`` None: the operator model's in the engine; else one that reads profiles."""
        self.setting = setting
        self.num_stages = setting.parallel.pp
        self.origin: Literal["calibrated", "modeled"] = setting.calibration.origin_for(
            setting.device
        )
        self._program = program or engine_program(step_program(setting), setting)
        self._ranks = setting.parallel.attention_dp
        engine = setting.engine
        self._host_s, self._sequence_s = engine.step_s, engine.sequence_s
        self._prompt_launch_s = engine.prompt_launch_s
        self._prompt_step_s = engine.prompt_step_s
        self._more_for_prompts = engine.factors.prompts - 1.0
        grid = _token_grid()
        self._grid: list[float] = grid.tolist()
        self._rank_table = self._tabulate("rank", grid)
        self._replica_table = self._tabulate("replica", grid)
        self._sampled_table = self._tabulate("sampled", grid)
        self._rank_memo: dict[int, float] = {}
        self._replica_memo: dict[int, float] = {}
        self._sampled_memo: dict[int, float] = {}
        self._lines: dict[int, tuple[list[int], list[float], list[float], list[float]]] = {}
        self._prefills = tuple(
            (op.times, op.limit, op.chunk, op.line) for op in self._program.prefills
        )

    def step_s(self, chunks: Chunks, num_decodes: int, decode_context: int) -> float:
        """See ``StepClock``."""
        if not chunks:
            base, slope, _ = self.decode_line(num_decodes, decode_context)
            return base + slope * decode_context
        tokens, largest = num_decodes, 0
        for new, _ in chunks:
            tokens += new
            if new > largest:
                largest = new
        ranks = self._ranks
        sequences = num_decodes + len(chunks)
        if ranks == 1:
            rank_tokens, sampled, share = tokens, sequences, 1.0
        else:
            rank_tokens = max(-(-tokens // ranks), largest)
            sampled = -(-sequences // ranks)
            share = 1.0 / ranks
        memo = self._rank_memo
        found = memo.get(rank_tokens)
        total = found if found is not None else self._look_up(memo, self._rank_table, rank_tokens)
        memo = self._replica_memo
        found = memo.get(tokens)
        total += found if found is not None else self._look_up(memo, self._replica_table, tokens)
        memo = self._sampled_memo
        found = memo.get(sampled)
        total += found if found is not None else self._look_up(memo, self._sampled_table, sampled)
        host_s = self._host_s + self._sequence_s * sampled
        total += host_s
        if num_decodes:
            limits, attention, _, slopes = self._lines.get(num_decodes) or self._make_lines(
                num_decodes
            )
            i = bisect_left(limits, decode_context)
            total += attention[i] + slopes[i] * decode_context
        prompts_s = 0.0
        for times, limit, chunk, line in self._prefills:
            fixed, per_pair, per_new, per_cached, per_span = line
            work, most, longest = 0.0, 0.0, 0
            for new, cached in chunks:
                span = new + cached
                pairs = new * (cached + 0.5 * (new + 1))
                if limit and span > limit:
                    pairs = visible_pairs(new, cached, limit, chunk)
                    span = limit
                if span > longest:
                    longest = span
                one = per_pair * pairs + per_new * new + per_cached * cached
                work += one
                if one > most:
                    most = one
            work *= share
            if most > work:
                work = most
            prompts_s += times * (fixed + work + per_span * longest)
        total += prompts_s + self._prompt_step_s
        if self._more_for_prompts:
            alone = tokens - num_decodes
            rank_alone = alone if ranks == 1 else max(-(-alone // ranks), largest)
            own_s = self._tokens_s(alone, rank_alone, -(-len(chunks) // ranks))
            total += self._more_for_prompts * (prompts_s + own_s)
        least = self._prompt_launch_s + host_s
        return total if total > least else least

    def _tokens_s(self, tokens: int, rank_tokens: int, sampled: int) -> float:
        """Operators that follow counts of tokens: of the replica, of a rank, and sampled."""
        return (
            self._look_up(self._rank_memo, self._rank_table, rank_tokens)
            + self._look_up(self._replica_memo, self._replica_table, tokens)
            + self._look_up(self._sampled_memo, self._sampled_table, sampled)
        )

    def verify_step_s(self, num_decodes: int, decode_context: int, draft_tokens: int) -> float:
        """Seconds of a speculative step that checks ``draft_tokens`` more of each sequence.

        The cache is read once for all of a sequence's tokens. Leaves out the draft's own time.
        """
        base, slope, _ = self.decode_line(num_decodes, decode_context)
        plain_s = base + slope * decode_context
        if num_decodes <= 0 or draft_tokens <= 0:
            return plain_s
        batch = -(-num_decodes // self._ranks)
        checked = 1 + draft_tokens
        more_s = self._tokens_s(num_decodes * checked, batch * checked, batch * checked)
        return plain_s + more_s - self._tokens_s(num_decodes, batch, batch)

    def decode_line(self, num_decodes: int, decode_context: int) -> tuple[float, float, int]:
        """See ``StepClock``."""
        line = self._lines.get(num_decodes)
        if line is None:
            if num_decodes <= 0:
                return self._host_s, 0.0, _FOREVER
            line = self._make_lines(num_decodes)
        limits, _, bases, slopes = line
        i = bisect_left(limits, decode_context)
        return bases[i], slopes[i], limits[i]

    def step_ops(self, chunks: Chunks, num_decodes: int, decode_context: int) -> tuple[OpCost, ...]:
        """Every operator of the step on the busiest device of one stage, untabulated."""
        found: list[OpCost] = []
        chunk_tokens = sum(new for new, _ in chunks)
        tokens, sequences = num_decodes + chunk_tokens, num_decodes + len(chunks)
        if tokens:
            largest = max((new for new, _ in chunks), default=0)
            sizes = {
                "rank": max(-(-tokens // self._ranks), largest),
                "replica": tokens,
                "sampled": -(-sequences // self._ranks),
            }
            for op in self._program.tokens:
                work = op.work(np.asarray(float(sizes[op.scope])))
                found.append(op_cost(op.name, work, count=op.times, network=op.network))
        if num_decodes:
            batch = -(-num_decodes // self._ranks)
            context = decode_context * batch / num_decodes
            for decode in self._program.decodes:
                work = decode.work(float(batch), np.asarray(context))
                found.append(op_cost(decode.name, work, count=decode.times))
        for prefill in self._program.prefills if chunks else ():
            found.append(self._prefill_cost(prefill, chunks))
        host_s = self._host_s + self._sequence_s * (-(-sequences // self._ranks))
        if chunks:
            host_s += self._prompt_step_s
            more_s = self._more_for_prompts * self._prompts_alone_s(chunks)
            if more_s:
                name = "prompts-in-engine"
                found.append(OpCost(name=name, time_s=more_s, flops=0.0, bytes=0.0, bound="launch"))
            host_s += max(0.0, self._prompt_launch_s - sum(op.time_s for op in found))
        found.append(OpCost(name="host", time_s=host_s, flops=0.0, bytes=0.0, bound="launch"))
        return tuple(found)

    def _prompts_alone_s(self, chunks: Chunks) -> float:
        """Operators of the chunks with no decode beside, untabulated."""
        if not self._more_for_prompts:
            return 0.0
        tokens, largest = sum(new for new, _ in chunks), max(new for new, _ in chunks)
        sizes = {
            "rank": max(-(-tokens // self._ranks), largest),
            "replica": tokens,
            "sampled": -(-len(chunks) // self._ranks),
        }
        own_s = sum(
            op.times * float(op.work(np.asarray(float(sizes[op.scope]))).time_s)
            for op in self._program.tokens
        )
        return own_s + sum(
            self._prefill_cost(prefill, chunks).time_s for prefill in self._program.prefills
        )

    def _prefill_cost(self, op: PrefillOp, chunks: Chunks) -> OpCost:
        """The busiest rank's share of all chunks, or its largest chunk if that is more."""
        parts = [
            (visible_pairs(fresh, before, op.limit, op.chunk), float(fresh), float(before))
            for fresh, before in chunks
        ]
        sums = [sum(column) / self._ranks for column in zip(*parts, strict=True)]
        longest = max(fresh + before for fresh, before in chunks)
        span = float(min(longest, op.limit) if op.limit else longest)
        even = (sums[0], sums[1], sums[2])
        busiest = max(
            (even, *parts), key=lambda part: float(op.work(part[0], part[1], part[2], 0.0).time_s)
        )
        return op_cost(op.name, op.work(busiest[0], busiest[1], busiest[2], span), count=op.times)

    def step_parts(self, chunks: Chunks, num_decodes: int, decode_context: int) -> dict[str, float]:
        """Seconds of a step by operator name; they sum to the exact step time."""
        parts: dict[str, float] = defaultdict(float)
        for cost in self.step_ops(chunks, num_decodes, decode_context):
            parts[cost.name] += cost.time_s
        return dict(parts)

    def swap_s(self, num_tokens: int) -> float:
        """See ``StepClock``."""
        setting = self.setting
        held = kv_bytes(setting.model, num_tokens, setting.kv_dtype, setting.parallel.tp)
        return swap_s(held / setting.parallel.pp, setting.device)

    def host_s(self, num_decodes: int) -> float:
        """See ``StepClock``; what a profile charges to the host is what its engine did not hide."""
        return 0.0

    def transfer_s(
        self, num_tokens: int, target: "ReplicaClock", *, same_node: bool = False
    ) -> float:
        """Seconds to hand a sequence of that many tokens to ``target``.

        Where its devices hold copies (latent KV, fewer KV heads than devices) each gets its own.
        """
        here, there = self.setting, target.setting
        each = kv_bytes(here.model, num_tokens, here.kv_dtype, there.parallel.tp)
        return kv_transfer_s(
            each * there.parallel.tp,
            source=here.device,
            num_source=here.parallel.tp * here.parallel.pp,
            target=there.device,
            num_target=there.parallel.tp * there.parallel.pp,
            same_node=same_node,
            rates=here.calibration.collective,
        )

    def _tabulate(self, scope: str, grid: Floats) -> list[float]:
        total = np.zeros_like(grid)
        for op in self._program.tokens:
            if op.scope == scope:
                total += op.times * op.work(grid).time_s
        return [float(x) for x in np.maximum.accumulate(total)]

    def _look_up(self, memo: dict[int, float], table: list[float], tokens: int) -> float:
        found = memo.get(tokens)
        if found is not None:
            return found
        grid = self._grid
        i = min(max(bisect_left(grid, tokens), 1), len(grid) - 1)
        left, right = grid[i - 1], grid[i]
        fraction = (tokens - left) / (right - left)
        value = table[i - 1] + fraction * (table[i] - table[i - 1])
        memo[tokens] = value
        return value

    def _make_lines(
        self, num_decodes: int
    ) -> tuple[list[int], list[float], list[float], list[float]]:
        """(last context total, attention base, whole base, slope) of each piece."""
        batch = -(-num_decodes // self._ranks)
        lengths = np.geomspace(1.0, _LONGEST_CONTEXT, _num_knots())
        knots = np.unique(np.round(lengths * num_decodes)).astype(np.int64)
        context = np.asarray(knots * (batch / num_decodes), dtype=np.float64)
        total = np.zeros(len(knots))
        for op in self._program.decodes:
            total += op.times * op.work(float(batch), context).time_s
        total = np.maximum.accumulate(total)
        slope = np.diff(total) / np.diff(knots)
        base = total[:-1] - slope * knots[:-1]
        rest = (
            self._look_up(self._rank_memo, self._rank_table, batch)
            + self._look_up(self._replica_memo, self._replica_table, num_decodes)
            + self._look_up(self._sampled_memo, self._sampled_table, batch)
            + self._host_s
            + self._sequence_s * batch
        )
        limits = knots[1:].tolist()
        limits[-1] = _FOREVER
        line = (limits, base.tolist(), (base + rest).tolist(), slope.tolist())
        self._lines[num_decodes] = line
        return line


def _num_knots() -> int:
    return int(np.log(_LONGEST_CONTEXT) / np.log(_KNOT_RATIO)) + 1


def _token_grid() -> Floats:
    """Every count up to a bound, then both sides of tile edges, then about two percent apart."""
    edges = np.arange(_EXACT_TOKENS, _EDGE_TOKENS + 1, _TILE_TOKENS, dtype=float)
    steps = int(np.log(_MOST_TOKENS / _EDGE_TOKENS) / np.log(_GRID_RATIO)) + 1
    beyond = np.round(np.geomspace(_EDGE_TOKENS, _MOST_TOKENS, steps + 1))[1:]
    parts = (np.arange(0.0, _EXACT_TOKENS), edges, edges + 1.0, beyond)
    return np.unique(np.concatenate(parts))
