"""Step times of a replica whose tokens each run in P parallel streams.

The operators are those of one stream over P copies of the tokens: multiplies and light operators
see P times the tokens and read the weights once; attention sees P times the sequences, each behind
its 48 prefix tokens; the head runs once a sampled token, after two multiplies that weigh its
streams. The clock's arguments stay those of one stream: a chunk's cached tokens and the decodes'
context are lengthened by the prefixes here, so that tables and lines are those of ``cost/step.py``.
The prefixes of a chunk count as cached before it. Host time is that of the sequences, not of their
copies. Leaves out: splitting the weighing network over devices (each multiplies all of it).
Source: arXiv 2505.10475.
"""

from collections.abc import Iterator

from plimsoll.cost.attention import PrefillLine
from plimsoll.cost.engine_factors import engine_program
from plimsoll.cost.gemm import multiply_format
from plimsoll.cost.operators import (
    DecodeOp,
    PrefillOp,
    Setting,
    StepProgram,
    TokenOp,
    gemm_op,
    step_program,
)
from plimsoll.cost.roofline import Floats, OpCost, Work
from plimsoll.cost.step import Chunks, ReplicaClock
from plimsoll.spec.dtype import DType
from plimsoll.spec.streams import PREFIX_TOKENS, check_streams

__all__ = ["StreamClock", "stream_program"]


class StreamClock(ReplicaClock):
    """A ``StepClock`` of one replica of a model with several streams."""

    def __init__(self, setting: Setting) -> None:
        """
        Raises:
            UnsupportedError: layers that cannot have streams.
        """
        check_streams(setting.model)
        super().__init__(setting, engine_program(stream_program(setting), setting))

    def step_s(self, chunks: Chunks, num_decodes: int, decode_context: int) -> float:
        """See ``StepClock``."""
        if not chunks:
            base, slope, _ = self.decode_line(num_decodes, decode_context)
            return base + slope * decode_context
        return super().step_s(_behind(chunks), num_decodes, _seen(num_decodes, decode_context))

    def decode_line(self, num_decodes: int, decode_context: int) -> tuple[float, float, int]:
        """See ``StepClock``."""
        base, slope, limit = super().decode_line(num_decodes, _seen(num_decodes, decode_context))
        before = _seen(num_decodes, 0)
        return base + slope * before, slope, limit - before

    def step_ops(self, chunks: Chunks, num_decodes: int, decode_context: int) -> tuple[OpCost, ...]:
        """See ``ReplicaClock``."""
        return super().step_ops(_behind(chunks), num_decodes, _seen(num_decodes, decode_context))


def _seen(num_decodes: int, context: int) -> int:
    """Tokens that decodes attend to in one stream, prefixes counted."""
    return context + PREFIX_TOKENS * max(num_decodes, 0)


def _behind(chunks: Chunks) -> Chunks:
    return [(new, cached + PREFIX_TOKENS) for new, cached in chunks]


def stream_program(setting: Setting) -> StepProgram:
    """The operators of ``setting.model`` over P copies of the tokens, and those that weigh them."""
    streams = setting.model.streams
    plain = step_program(setting)
    tokens = [op if op.scope == "sampled" else _copied(op, streams) for op in plain.tokens]
    return StepProgram(
        (*tokens, *_weighing(setting)),
        tuple(_decoding(op, streams) for op in plain.decodes),
        tuple(_prefilling(op, streams) for op in plain.prefills),
    )


def _copied(op: TokenOp, streams: int) -> TokenOp:
    plain = op.work

    def work(tokens: Floats) -> Work:
        return plain(tokens * streams)

    return op._replace(work=work)


def _decoding(op: DecodeOp, streams: int) -> DecodeOp:
    plain = op.work

    def work(batch: float, context: Floats) -> Work:
        return plain(batch * streams, context * streams)

    return op._replace(work=work)


def _prefilling(op: PrefillOp, streams: int) -> PrefillOp:
    plain, line = op.work, op.line

    def work(pairs: float, new: float, cached: float, span: float) -> Work:
        return plain(pairs * streams, new * streams, cached * streams, span)

    copied = PrefillLine(
        line.fixed_s,
        line.pair_s * streams,
        line.new_s * streams,
        line.cached_s * streams,
        line.span_s,
    )
    return op._replace(line=copied, work=work)


def _weighing(setting: Setting) -> Iterator[TokenOp]:
    """The two multiplies that weigh the streams of each sampled token."""
    streams, hidden = setting.model.streams, setting.model.hidden_size
    how = multiply_format(DType.BF16, setting.device)
    for n, k in ((hidden, streams * hidden), (streams, hidden)):
        yield gemm_op("weigh-streams", 1.0, n, k, how, setting, "sampled")
