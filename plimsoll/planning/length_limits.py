"""Requests that no plan can serve: prompts that leave no room in the context for a token.

Engines refuse them, and a refused request keeps no promise, so a workload with more of them
than the promise forgives is infeasible on any hardware. A request whose output would outgrow
the context ends there. Leaves out: prompts that outgrow the memory of a replica.
"""

import numpy as np

from plimsoll.planning.question import Question
from plimsoll.spec.errors import InfeasibleError

__all__ = ["check_lengths", "longest_served", "refused_fraction"]


def _limit(question: Question) -> int:
    return question.options.max_model_len or question.model.max_context


def refused_fraction(question: Question) -> float:
    """Share of the requests whose prompt leaves no room for a token."""
    return float(np.mean(question.workload.prompt_tokens >= _limit(question)))


def longest_served(question: Question) -> int:
    """Tokens of the longest request that is served, cut where the context ends."""
    workload, limit = question.workload, _limit(question)
    lengths = workload.prompt_tokens + workload.output_tokens
    return int(min(limit, lengths.max()))


def check_lengths(question: Question) -> None:
    """Refuse a workload with more overlong requests than the promise forgives.

    Raises:
        InfeasibleError: naming the share, and the context that would do.
    """
    share, limit = refused_fraction(question), _limit(question)
    strictest = max((target.percentile for target in question.slo.targets), default=0.0)
    forgiven = 1 - strictest / 100 if question.slo.targets else 1.0
    if share < 1 and share <= forgiven + 1e-9:
        return
    prompts = np.sort(question.workload.prompt_tokens)
    rank = min(len(prompts) - 1, int(np.ceil((1 - forgiven) * len(prompts))))
    need = int(prompts[rank]) + 1
    whose = "max_model_len" if question.options.max_model_len else question.model.name
    raise InfeasibleError(
        f"{share:.1%} of the requests have prompts beyond the {limit:,} tokens of {whose} and are "
        f"refused, more than the {forgiven:.1%} that the SLO forgives",
        binding="context length",
        nearest=f"{1 - share:.1%} of the requests can be served",
        change=f"a context of at least {need:,} tokens, or a workload with shorter prompts",
    )
