"""Operators of a decoder layer at the token counts of a step, as nano-operations need them.

Multiplies and collectives follow the tokens of the step, decode attention the KV it reads, prompt
attention the pairs it scores. What every piece of a cut operator pays again is read off the cost
model: twice the time of half the tokens, less the time of all. Norms, rotary and activation ride
on the multiply beside them. Embedding, head, sampling and the host are no part of a layer.
Leaves out: experts, latent attention, states, pipelines. Source: ``cost/operators.py``.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from plimsoll.cost.attention import visible_pairs
from plimsoll.cost.dense_batch import dense_gemms
from plimsoll.cost.engine_factors import engine_program
from plimsoll.cost.operators import Setting, TokenOp, step_program
from plimsoll.cost.overlap_profile import Dependency, Lane, OpProfile
from plimsoll.spec.errors import UnsupportedError

__all__ = ["ATTENTIONS", "ModelLayer", "OverlapLayer", "layer_dependencies"]

ATTENTIONS = ("prefill attention", "decode attention")
_LEAST_S = 1e-9
"""Time of an operator with nothing to do, so that plans with pieces of it still run."""


class OverlapLayer(Protocol):
    """One of ``layers`` equal layers."""

    @property
    def layers(self) -> int: ...

    @property
    def dependencies(self) -> tuple[Dependency, ...]: ...

    def attention_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> tuple[float, float]:
        """Seconds of decode and of prompt attention of a step, each alone on the device.

        Arguments as in ``StepClock.step_s``.
        """
        ...

    def operators(self, tokens: float, decode_s: float, prompt_s: float) -> tuple[OpProfile, ...]:
        """All operators of the layer on ``tokens`` tokens, attention taking the given times."""
        ...


def layer_dependencies(names: Sequence[str]) -> tuple[Dependency, ...]:
    """Who reads whose output: ``names`` in order, but both attentions side by side behind kqv."""
    chain = [name for name in names if name not in ("kqv", *ATTENTIONS)]
    return (
        *(Dependency(parent="kqv", child=name) for name in ATTENTIONS),
        *(Dependency(parent=name, child=chain[0]) for name in ATTENTIONS),
        *(Dependency(parent=a, child=b) for a, b in zip(chain, chain[1:], strict=False)),
        Dependency(parent=chain[-1], child="kqv", next_layer=True),
    )


class ModelLayer:
    """An ``OverlapLayer`` of the cost model: one replica of a dense decoder on its devices."""

    def __init__(self, setting: Setting) -> None:
        """
        Raises:
            UnsupportedError: layers other than grouped attention with a gated dense feed-forward,
                or a replica cut by more than tensor parallelism.
        """
        model, parallel = setting.model, setting.parallel
        dense_gemms(model, tokens=1)
        if parallel.pp > 1 or parallel.attention_dp > 1:
            raise UnsupportedError(
                f"{model.name}: overlap is planned for tensor parallel replicas; use pp = "
                "attention_dp = 1"
            )
        self.layers = model.num_layers
        program = engine_program(step_program(setting), setting)
        self._decodes, self._prompts = program.decodes, program.prefills
        self._parts = _parts(program.tokens)
        self.dependencies = layer_dependencies(list(self._parts))
        self._known: dict[float, dict[str, tuple[float, float]]] = {}

    def attention_s(
        self, chunks: Sequence[tuple[int, int]], num_decodes: int, decode_context: int
    ) -> tuple[float, float]:
        """See ``OverlapLayer``."""
        decode_s = prompt_s = 0.0
        if num_decodes:
            context = np.asarray(float(decode_context))
            for decode in self._decodes:
                decode_s += decode.times * float(decode.work(float(num_decodes), context).time_s)
        if chunks:
            for op in self._prompts:
                pairs = sum(
                    visible_pairs(new, cached, op.limit, op.chunk) for new, cached in chunks
                )
                new = float(sum(new for new, _ in chunks))
                before = float(sum(cached for _, cached in chunks))
                span = float(max(new + cached for new, cached in chunks))
                span = min(span, float(op.limit)) if op.limit else span
                prompt_s += op.times * float(op.work(pairs, new, before, span).time_s)
        return decode_s / self.layers, prompt_s / self.layers

    def operators(self, tokens: float, decode_s: float, prompt_s: float) -> tuple[OpProfile, ...]:
        """See ``OverlapLayer``."""
        times = self._known.get(tokens)
        if times is None:
            times = self._known[tokens] = self._times(tokens)
        found = []
        for name, (time_s, fixed_s) in times.items():
            lane: Lane = "network" if name.startswith("reduce") else "compute"
            found.append(OpProfile(name=name, lane=lane, best_s=time_s, fixed_s=fixed_s))
            if name == "kqv":
                attentions: tuple[tuple[str, Lane, float], ...] = (
                    ("prefill attention", "compute", prompt_s),
                    ("decode attention", "memory", decode_s),
                )
                found += [
                    OpProfile(name=own, lane=lane, best_s=max(time_s, _LEAST_S))
                    for own, lane, time_s in attentions
                ]
        return tuple(found)

    def _times(self, tokens: float) -> dict[str, tuple[float, float]]:
        """(whole, paid again by every piece) of each part, one layer."""
        sizes = np.array([tokens, tokens / 2])
        found = {}
        for name, operators in self._parts.items():
            times_s = np.zeros(2)
            for op in operators:
                times_s += op.times * op.work(sizes).time_s
            whole_s, half_s = times_s.tolist()
            fixed_s = min(max(2 * half_s - whole_s, 0.0), whole_s)
            found[name] = whole_s / self.layers, fixed_s / self.layers
        return found


def _parts(tokens: Sequence[TokenOp]) -> dict[str, list[TokenOp]]:
    """Operators by the nano-operation they are part of, in the order of a layer; every second
    "ffn" is the projection down, every second "all-reduce" the one behind it."""
    parts: dict[str, list[TokenOp]] = {
        name: [] for name in ("kqv", "o", "reduce attention", "ug", "d", "reduce output")
    }
    turns = {"ffn": ("ug", "d"), "all-reduce": ("reduce attention", "reduce output")}
    seen = dict.fromkeys(turns, 0)
    own = {
        "qkv": "kqv",
        "norms": "kqv",
        "rotary-and-cache": "kqv",
        "attention-out": "o",
        "activation": "d",
    }
    for op in tokens:
        if op.name in turns:
            parts[turns[op.name][seen[op.name] % 2]].append(op)
            seen[op.name] += 1
        elif op.name in own:
            parts[own[op.name]].append(op)
    return {name: operators for name, operators in parts.items() if operators}
