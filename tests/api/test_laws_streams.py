"""``laws streams`` and what else of laws and plans names streams, as a user runs them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from plimsoll.api.export import export
from plimsoll.api.fit import fit as fit_memory
from plimsoll.api.laws_fit import fit_law, read_runs
from plimsoll.api.laws_streams import laws_streams, load_of, stream_counts
from plimsoll.api.plan import plan as search_plan
from plimsoll.api.plan_settings import space_options
from plimsoll.api.run_folder import WorkloadSpec
from plimsoll.api.simulate import load_plan
from plimsoll.catalog.parscale_published import losses
from plimsoll.planning.plan_space import SpaceOptions
from plimsoll.spec.errors import SpecError, UnsupportedError
from plimsoll.spec.io import write
from plimsoll.spec.plan import Pool, ServingPlan
from tests.command_line import plimsoll


def test_a_table_of_both_ways_and_what_to_ask_next():
    answer = laws_streams("1.6B", "A100-SXM-80")
    report, data = answer.report(), answer.data()
    assert report.title == "Least loss: 1.62B parameters with 8 streams"
    assert [row[-1] for row in report.tables[0].rows] == ["", "this", "", "this", "", "this", ""]
    assert "streams are the faster" in report.tables[0].notes[1]
    assert report.next_command.startswith("plimsoll laws streams 1.6B --on A100-SXM-80 --law")
    assert data["choices"][3]["cheaper"] == "streams"
    assert data["choices"][0]["with_streams"]["params"] == pytest.approx(1.6e9, rel=1e-6)
    bounded = laws_streams("1.6B", "A100-SXM-80", latency_s=1.07)
    assert bounded.report().title == "Least loss within 1.07 s a request: 1.61B parameters " + (
        "with 2 streams"
    )


def test_a_bundled_model_beyond_the_fit_says_so():
    report = laws_streams("qwen2.5-7b", "H100-SXM", law="parscale-pile").report()
    assert "qwen2.5-7b on H100-SXM" in report.subtitle
    assert any("times above the fit's range" in note for note in report.notes)
    assert report.key_numbers[0].number.origin.value == "extrapolated"


def test_several_devices_are_not_taken_for_one():
    with pytest.raises(SpecError, match="8 devices; both ways are costed on one, so name one"):
        laws_streams("1.6B", "8xA100-SXM-80")
    assert laws_streams("1.6B", "1xA100-SXM-80").device.name == "A100-SXM-80"


def test_a_users_own_fit_is_a_law_of_streams(tmp_path):
    found = losses("stack")
    rows = [
        f"{n:.0f},{p:.0f},{loss}"
        for n, p, loss in zip(
            found.column("params"), found.column("streams"), found.loss, strict=True
        )
    ]
    (tmp_path / "runs.csv").write_text("\n".join(["N,P,val", *rows]) + "\n")
    table = read_runs(tmp_path / "runs.csv", "params=N,streams=P", "val", "nats")
    fitted = fit_law(table, form="parscale", out=tmp_path / "law.yaml")
    assert "laws streams 1.5B" in fitted.report().next_command
    own = laws_streams("1.6B", "A100-SXM-80", law=str(tmp_path / "law.yaml"))
    published = laws_streams("1.6B", "A100-SXM-80")
    for a, b in zip(own.choices, published.choices, strict=True):
        assert a.larger.params == pytest.approx(b.larger.params, rel=1e-3)
    assert np.isfinite(own.at.low)


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["1.6B", "--on", "A100-80G", "--streams", "0"], 2, "0 streams"),
        (["1.6B", "--on", "A100-80G", "--streams", "2,2"], 2, "a number twice"),
        (["1.6B", "--on", "A100-80G", "--lengths", "512"], 2, "tokens in and out"),
        (["1.6B", "--on", "A100-80G", "--lengths", "0/5"], 2, "expected 1 or more"),
        (["1.6B", "--on", "A100-80G", "--batch", "0"], 2, "--batch: 0"),
        (["0B", "--on", "A100-80G"], 2, "a size above zero"),
        (["1.6B", "--on", "A100-80G", "--latency", "0s"], 2, "above zero"),
        (["1.6B", "--on", "A100-80G", "--usd", "-1"], 2, "above zero"),
        (["1.6B", "--on", "A100-80G", "--law", "kaplan"], 2, "kaplan has inputs"),
        (["1.6B", "--on", "A100-80G", "--latency", "1ms"], 3, "nothing keeps"),
        (["mixtral-8x7b", "--on", "A100-80G"], 4, "equal layers"),
        (["llama-9b", "--on", "A100-80G"], 2, "not a bundled model"),
    ],
)
def test_bad_input_is_one_sentence(arguments, code, why):
    found = plimsoll("laws", "streams", *arguments)
    assert found.code == code
    assert why in found.err and "Traceback" not in found.err


def test_the_command_prints_json():
    found = plimsoll("laws", "streams", "1.6B", "--on", "L40S", "--batch", "64", "--json")
    data = json.loads(found.out)
    assert data["batch"] == 64
    assert {one["cheaper"] for one in data["choices"][1:]} == {"parameters"}


def test_allocate_and_predict_with_a_law_of_streams():
    refused = plimsoll("laws", "allocate", "--flops", "1e22", "--law", "parscale-stack")
    assert refused.code == 2 and "plimsoll laws streams" in refused.err
    found = plimsoll(
        "laws", "predict", "--law", "parscale-stack", "--params", "1.6B", "--streams", "4", "--json"
    )
    data = json.loads(found.out)
    assert data["low"] < data["loss"] < data["high"]
    missing = plimsoll("laws", "predict", "--law", "parscale-stack", "--params", "1.6B")
    assert missing.code == 2 and "streams is missing" in missing.err


def test_options_read_numbers_and_lengths():
    assert stream_counts("1,16") == (1, 16)
    assert load_of("2k/128", 4).prompt_tokens == 2000
    with pytest.raises(SpecError, match="from 1 to 1,024"):
        stream_counts("4096")
    options, _ = space_options(["streams=4"])
    assert options.streams == 4
    with pytest.raises(SpecError, match="--set streams: 0 streams"):
        space_options(["streams=0"])


def test_plan_files_take_streams_and_exports_refuse_them(tmp_path):
    plan = ServingPlan(
        model="qwen2.5-7b", fleet="1xA100-80G", streams=4, pools=(Pool(device="A100-80G"),)
    )
    write(plan, tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml") == plan
    with pytest.raises(UnsupportedError, match="runs a model with 4 streams"):
        export(plan, "vllm")
    text = (tmp_path / "plan.yaml").read_text()
    (tmp_path / "bad.yaml").write_text(text.replace("streams: 4", "streams: 0"))
    with pytest.raises(SpecError, match="streams: Input should be greater than 0"):
        load_plan(tmp_path / "bad.yaml")
    (tmp_path / "old.yaml").write_text(text.replace("streams: 4\n", ""))
    assert load_plan(tmp_path / "old.yaml").streams == 1


def test_a_search_with_streams_finds_a_plan_with_them_and_says_so():
    options = SpaceOptions(streams=4, modes=("aggregated",), budgets=(2048,), max_num_seqs=(32,))
    asked = ("qwen2.5-7b", "1xA100-80G", WorkloadSpec(text="256/64"))
    answer = search_plan(*asked, options=options)
    assert answer.plan.streams == 4 and answer.question.model.streams == 4
    report = answer.report()
    assert "(4 streams)" in report.title and "4 streams on" in report.subtitle
    assert report.start_command == ""
    assert any("starts a model with 4 streams" in note for note in report.notes)
    one = search_plan(*asked, options=replace(options, streams=1))
    assert one.found.chosen.goodput.rate_per_s > 1.5 * answer.found.chosen.goodput.rate_per_s


def test_one_stream_fits_as_before_and_the_answer_is_of_one():
    answer = fit_memory("qwen2.5-7b", "1xA100-80G")
    assert answer.model.streams == 1
    assert "streams" not in answer.report().title
