"""Cards of laws of what is bought after training: samples, longer answers, a store of text."""

from plimsoll.laws.cards.contract import INPUTS, LawCard, Quantity

__all__ = ["TEST_TIME_CARDS"]

_KINETICS = """\
from plimsoll.cost.testtime import B200_INTENSITY, decode_shape, eflops_dense, eflops_sparse
from plimsoll.spec.model_files import load_model

shape = decode_shape(load_model("qwen3-8b"))
dense = eflops_dense(shape, prompt_tokens=256, tokens=32768)
sparse = eflops_sparse(shape, prompt_tokens=256, tokens=32768, kv_budget=1024)
print(dense.eflops(B200_INTENSITY) / sparse.eflops(B200_INTENSITY))
"""
_SATURATION = """\
from plimsoll.laws.saturation import {law}

curve = {law}({values})
print(curve.curve([1, 8, 32]), curve.saturation(0.01))
"""
_STORE = """\
from plimsoll.laws.datastore import RETRIEVER_PARAMS, answer_cost, build_flops

print(build_flops(RETRIEVER_PARAMS, 1.4e12) / (6 * 7e9 * 2e12))
print(answer_cost(7e9, tokens=500, retrieved_tokens=1000, chunks=4e9).total)
"""
_SHARE = Quantity(name="F", meaning="share of questions that can be solved", low=0.0, high=1.0)
_TRIES = Quantity(name="n", meaning="samples of a question, or rounds of rethinking")

TEST_TIME_CARDS: tuple[LawCard, ...] = (
    LawCard(
        name="kinetics",
        title="Kinetics: cost of long generations",
        group="test time",
        formula="eFLOPs = FLOPs + I*bytes; "
        "FLOPs = n*(2*N*L + 4*q*(c*L + L^2/2)); bytes = 4*d*(c*L + n*L^2/2)",
        predicts="equivalent FLOPs a question; with graded generations, the best model, number, "
        "length and KV budget for a cost",
        inputs=(
            Quantity(name="N", meaning="parameters active a token", unit="params"),
            Quantity(name="c", meaning="prompt", unit="tokens"),
            Quantity(name="L", meaning="generated, each length as measured", unit="tokens"),
            Quantity(name="n", meaning="trials side by side"),
            Quantity(name="d", meaning="layers x KV heads x head size"),
            Quantity(name="q", meaning="layers x attention heads x head size"),
        ),
        parameters=(
            Quantity(name="I", meaning="dense FLOPs a device does in a byte's time", unit="FLOP/B"),
        ),
        gradient="none to fit; a count; the frontier is an envelope of measured generations",
        fitted_on="full attention, KV in 16 bits, batches that hide the weights; checked on decode "
        "steps of two models up to 8,192 positions",
        not_for="small batches, where weights cost too; prefill and waiting; windows and recurrent "
        "layers; a mean length in place of the lengths; pass@n without a selector",
        source="arXiv 2506.05333",
        module="cost/testtime.py",
        example=_KINETICS,
        command="plimsoll laws testtime traces.csv --on 8xH100-SXM --budget 60s",
        evidence={"kinetics": ()},
    ),
    LawCard(
        name="ttspm",
        title="Saturation of samples, one p for all",
        group="test time",
        formula="F(n) = F*(1 - (1 - p)^n); stop at ceil(ln(eps/(F*p))/ln(1 - p))",
        predicts="share of questions solved by n samples, and the last one worth it, where one p "
        "holds for all",
        inputs=(_TRIES,),
        parameters=(
            Quantity(name="p", meaning="chance that a sample is right", low=0.0, high=1.0),
            _SHARE,
        ),
        gradient="none; likelihood of each question's own count, F in closed form; an interval "
        "in place of a point where all are right or all wrong",
        fitted_on="pilots of at least 2 samples a question; published for 1.5B and 7B models",
        not_for="questions of unlike difficulty, whose tail it cuts off (ttspm-beta); accuracy "
        "without a selector; majority votes; samples that hang together",
        source="arXiv 2505.20522",
        module="laws/saturation.py",
        example=_SATURATION.format(law="TTSPM", values="p=0.3, f_max=0.533"),
        command="plimsoll laws saturate pilot.csv",
        evidence={"ttspm": ()},
    ),
    LawCard(
        name="ttspm-beta",
        title="Saturation of samples, p of its own a question",
        group="test time",
        formula="F(n) = F*(1 - B(a, b + n)/B(a, b))",
        predicts="share of questions solved by n samples, and the last one worth it, where each "
        "has its own p",
        inputs=(_TRIES,),
        parameters=(
            Quantity(name="a", meaning="first shape of the Beta spread of p, above zero"),
            Quantity(name="b", meaning="second shape of it, above zero"),
            _SHARE,
        ),
        gradient="numerical; beta-binomial likelihood of each question's count; questions held out "
        "choose between this and ttspm",
        fitted_on="pilots of at least 2 samples a question; an extension made here",
        not_for="a spread of p that is no Beta, as with questions of two kinds; accuracy without a "
        "selector; majority votes",
        source="here, around arXiv 2505.20522",
        module="laws/saturation.py",
        example=_SATURATION.format(law="BetaTTSPM", values="a=0.4, b=1.5, f_max=0.9"),
        command="plimsoll laws saturate pilot.csv",
        evidence={"ttspm": ("bound", "predicted")},
    ),
    LawCard(
        name="ttspm-rounds",
        title="Rounds of rethinking that also turn answers wrong",
        group="test time",
        formula="F(n) = F*p/(p + q)*(1 - (1 - p - q)^n)",
        predicts="share right after n rounds, and the last round worth it",
        inputs=(_TRIES,),
        parameters=(
            Quantity(name="p", meaning="chance that a round rights a wrong answer", low=0, high=1),
            Quantity(name="q", meaning="chance that it spoils a right one", low=0, high=1),
            _SHARE,
        ),
        gradient="none; likelihood of transitions; a ratio test says whether q is needed",
        fitted_on="pilots of rounds with grades; an extension made here",
        not_for="rounds that remember earlier ones; grades that are wrong more often than said",
        source="here, around arXiv 2505.20522",
        module="laws/saturation.py",
        example=_SATURATION.format(law="TwoRate", values="p=0.3, q=0.1, f_max=0.9"),
        command="plimsoll laws saturate pilot.csv",
        evidence={"ttspm": ("bound",)},
    ),
    LawCard(
        name="store-split",
        title="Size of a datastore against parameters",
        group="test time",
        formula="C = 6*N*D + 2*N_r*S; least loss of the form datastore over N, D and S within C",
        predicts="the split of compute between training and a store of text to retrieve from",
        inputs=(
            INPUTS["params"],
            INPUTS["tokens"],
            INPUTS["datastore"],
            Quantity(name="N_r", meaning="parameters of the retriever", unit="params"),
            Quantity(name="C", meaning="compute to spend", unit="FLOPs"),
        ),
        parameters=(),
        gradient="none to fit; a search over N and S, ever finer, of a fitted law",
        fitted_on="published: stores up to 1.4T tokens beside models of 7B and 13B parameters; "
        "here a tiny model and made facts",
        not_for="the latency of longer prompts and of search, which it leaves out; stores that "
        "hold the test's answers; approximate indices",
        source="arXiv 2407.12854",
        module="laws/datastore.py",
        example=_STORE,
        command="plimsoll laws datastore runs.csv --flops 1e22",
        evidence={"massiveds": ("monotone", "smaller wins", "compute", "index share")},
    ),
)
