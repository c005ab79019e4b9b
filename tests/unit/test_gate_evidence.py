"""Gates 0 and 3: verdicts on what is known of data, device and encoder; gaps in it are refused."""

import pytest
from gates_kit import LIMITS

from moola.data.audit.trail import AuditTrail, Check
from moola.errors import BadInput
from moola.evaluation.gates import gate_0_data, gate_3_encoder

CLEAN = AuditTrail(checks=(Check(name="overlap", passed=True, detail="none"),), facts={})
ENCODER = {
    "masked_error": {
        "model": 0.8,
        "linear": 1.0,
        "last_value": 1.5,
        "delta_low": -0.3,
        "delta_high": -0.1,
    },
    "probe_accuracy": 0.62,
    "probe_accuracy_random": 0.55,
    "probe_delta_low": 0.02,
    "probe_delta_high": 0.12,
    "latent_std_min": 0.1,
    "effective_rank": 9.0,
    "num_dims": 64,
}


def test_data_gate():
    run = gate_0_data
    assert run(audit=CLEAN, device_asked="auto", device_used="cpu").verdict == "passed"
    assert run(audit=CLEAN, device_asked="cuda", device_used="cuda:0").verdict == "passed"
    found = run(audit=CLEAN, device_asked="cuda", device_used="cpu")
    assert found.verdict == "failed"
    assert found.reasons == ("the device asked for was cuda, the run used cpu",)
    leak = AuditTrail(checks=(Check(name="bars", passed=False, detail="3 shared"),), facts={})
    assert (
        "bars failed: 3 shared"
        in run(audit=leak, device_asked="auto", device_used="cpu").reasons[0]
    )
    with pytest.raises(BadInput, match="0 checks; expected at least one"):
        run(audit=AuditTrail(checks=(), facts={}), device_asked="auto", device_used="cpu")


@pytest.mark.parametrize(
    ("change", "verdict", "text"),
    [
        ({}, "passed", "beats linear interpolation"),
        ({"probe_accuracy": 0.54, "probe_accuracy_random": 0.4}, "failed", "not above 55%"),
        ({"probe_delta_low": -0.01}, "inconclusive", "not beyond doubt"),
        ({"probe_accuracy_random": 0.62, "probe_delta_low": -0.05}, "failed", "random encoder"),
        ({"latent_std_min": 0.001}, "failed", "collapsed"),
        ({"effective_rank": 1.2}, "failed", "effective rank of 1.20"),
    ],
)
def test_encoder_gate(change, verdict, text):
    found = gate_3_encoder(ENCODER | change, thresholds=LIMITS)
    assert found.verdict == verdict
    assert text in found.reasons[0]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"delta_high": 0.01}, "inconclusive"),
        ({"model": 1.2}, "failed"),
        ({"model": 1.6}, "failed"),
        ({"last_value": 0.7}, "failed"),
    ],
)
def test_encoder_gate_on_reconstruction(change, verdict):
    measurements = ENCODER | {"masked_error": ENCODER["masked_error"] | change}
    assert gate_3_encoder(measurements, thresholds=LIMITS).verdict == verdict


PRETEXT = {
    "task": "error of retrieval",
    "rival": "a random encoder",
    "model": 0.3,
    "baseline": 0.5,
    "delta_low": -0.3,
    "delta_high": -0.1,
}


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, "passed", "the error of retrieval is lower than that of a random encoder"),
        ({"delta_high": 0.0}, "inconclusive", "the interval of the difference reaches 0"),
        ({"model": 0.5}, "failed", "no better than that of a random encoder (0.5 against 0.5)"),
        ({"model": 0.6, "delta_high": -0.1}, "failed", "no better than"),
    ],
)
def test_an_encoder_without_a_decoder_is_judged_by_its_own_task(change, verdict, words):
    measurements = {k: v for k, v in ENCODER.items() if k != "masked_error"}
    found = gate_3_encoder(measurements | {"pretext": PRETEXT | change}, thresholds=LIMITS)
    assert found.verdict == verdict
    assert any(words in reason for reason in found.reasons)
    assert found.figures["pretext"] == "error of retrieval"


@pytest.mark.parametrize("value", [float("nan"), None, True, "0.1"])
def test_a_pretext_that_is_no_number_is_refused(value):
    with pytest.raises(BadInput, match="delta_high in pretext is"):
        gate_3_encoder(ENCODER | {"pretext": PRETEXT | {"delta_high": value}}, thresholds=LIMITS)


def test_encoder_gate_refuses_missing_and_nan():
    with pytest.raises(BadInput, match="masked_error is None"):
        gate_3_encoder({k: v for k, v in ENCODER.items() if k != "masked_error"})
    with pytest.raises(BadInput, match="probe_accuracy in measurements is nan"):
        gate_3_encoder(ENCODER | {"probe_accuracy": float("nan")})
