"""A step program as an engine runs it: each part's time scaled by the engine's factor.

Kernels measured alone run at full clock, from warm caches and back to back; in an engine they
wait for each other. One factor a part says by how much, for decodes and prompts alike. Groups
that span nodes scale their collectives once more.
Leaves out: overlap of communication with arithmetic, which is inside the factors.
Source: fitted by scripts/fit_engines.py; values in library/engines.
"""

from plimsoll.cost.attention import PrefillLine
from plimsoll.cost.host import StepFactors, common_costs
from plimsoll.cost.operators import DecodeOp, PrefillOp, Setting, StepProgram, TokenOp
from plimsoll.cost.roofline import Floats, Work

__all__ = ["PARTS", "engine_program", "part_of"]

PARTS = ("dense", "experts", "attention", "all_reduce", "exchange", "light")
"""The parts of a step that have factors of their own, as fields of ``StepFactors``."""
_PART_OF = {
    "experts": "experts",
    "all-reduce": "all_reduce",
    "pipeline-send": "all_reduce",
    "expert-exchange": "exchange",
    "norms": "light",
    "activation": "light",
    "rotary-and-cache": "light",
    "embedding": "light",
}


def part_of(op: TokenOp | DecodeOp | PrefillOp) -> str:
    """Which of ``PARTS`` an operator belongs to."""
    if isinstance(op, TokenOp):
        return _PART_OF.get(op.name, "dense")
    return "attention"


def spans_nodes(setting: Setting) -> bool:
    """Whether one stage of a replica lies on more than one node."""
    stage = setting.parallel.num_devices // setting.parallel.pp
    return stage > setting.devices_per_node


def _factor(op: TokenOp | DecodeOp | PrefillOp, setting: Setting, factors: StepFactors) -> float:
    value: float = getattr(factors, part_of(op))
    if isinstance(op, TokenOp) and op.network and spans_nodes(setting):
        value *= common_costs().cross_node
    return value


def engine_program(
    program: StepProgram, setting: Setting, factors: StepFactors | None = None
) -> StepProgram:
    """``program`` with every operator's time multiplied by its factor; None: the engine's."""
    found = factors or setting.engine.factors
    if found == StepFactors() and factors is None:
        return program
    return StepProgram(
        tuple(_token(op, _factor(op, setting, found)) for op in program.tokens),
        tuple(_decode(op, _factor(op, setting, found)) for op in program.decodes),
        tuple(_prefill(op, _factor(op, setting, found)) for op in program.prefills),
    )


def _slower(work: Work, factor: float) -> Work:
    return work._replace(time_s=work.time_s * factor)


def _token(op: TokenOp, factor: float) -> TokenOp:
    plain = op.work

    def work(tokens: Floats) -> Work:
        return _slower(plain(tokens), factor)

    return op._replace(work=work)


def _decode(op: DecodeOp, factor: float) -> DecodeOp:
    plain = op.work

    def work(batch: float, context: Floats) -> Work:
        return _slower(plain(batch, context), factor)

    return op._replace(work=work)


def _prefill(op: PrefillOp, factor: float) -> PrefillOp:
    plain = op.work

    def work(pairs: float, new: float, cached: float, span: float) -> Work:
        return _slower(plain(pairs, new, cached, span), factor)

    line = PrefillLine(*(factor * value for value in op.line))
    return op._replace(line=line, work=work)
