"""The gate on models small enough to see through: a linear model over token ids, and faults put into its export."""

# Axes: B = rows, T = tokens, C = classes

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compiler.metrics import Accuracy
from compiler.plan import VerifyExport
from compiler.recipe import Onnx
from compiler.tasks import Example
from compiler.tasks.text_classification import TextClassification
from runtimes.bundles.golden import read_golden
from runtimes.errors import RunError
from runtimes.export import Stage
from runtimes.localisation.finding import Localised
from runtimes.protocol import Batch
from runtimes.rows.batches import collate
from runtimes.rows.tokens import Encoder, open_encoder
from runtimes.verification.comparison import HeldOut, encoded, examples_of
from runtimes.verification.edges import Source, Verified, read_report, verify_export
from runtimes.verification.gate import Decisions, ScoreFunction
from runtimes.verification.tolerance import Noise

LABELS = ("no", "maybe", "yes")
TASK = TextClassification(labels=LABELS)
NOISE = Noise(max_abs=1e-7, scale=1.0, rows=64)
TOLERANCE = 32 * 2.0**-23  # the floor: 32 ulp at a scale of 1
WEIGHTS_VC = np.random.default_rng(0).normal(size=(200, len(LABELS))).astype(np.float32)


def linear(batch: Batch) -> np.ndarray:
    """The mean of the weights of a row's tokens."""
    ids_BT, mask_BT = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    sums_BC = (WEIGHTS_VC[ids_BT] * mask_BT[:, :, None]).sum(axis=1)
    found_BC: np.ndarray = sums_BC / np.maximum(1, mask_BT.sum(axis=1, keepdims=True)).astype(np.float32)
    return found_BC


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["[UNK]", *(f"w{number}" for number in range(199))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return open_encoder(tmp_path / "tokenizer.json", max_length=24)


@pytest.fixture
def held_out(encoder: Encoder) -> HeldOut:
    random = np.random.default_rng(1)
    texts = [" ".join(f"w{n}" for n in random.integers(0, 199, random.integers(1, 20))) for _ in range(300)]
    table = encoded(TASK, [Example(row={"text": text}, target=0) for text in texts], encoder)
    targets = linear(collate(table, np.arange(len(texts)))).argmax(axis=1)
    rows = [{"text": text, "label": LABELS[target]} for text, target in zip(texts, targets, strict=True)]
    return HeldOut(task=TASK, rows=rows)


STEP = VerifyExport(
    id="verify",
    inputs=("prepare", "train", "merge", "export"),
    task=TASK,
    split="test",
    metrics=(Accuracy(),),
    rows=0,
    tolerance_factor=8.0,
    max_excused=0.02,
    max_metric_drop=0.0,
    export=Onnx(opset=18),
    generation=None,
    model=None,  # type: ignore[arg-type]
)


@pytest.fixture
def verify(encoder: Encoder, held_out: HeldOut, tmp_path: Path) -> Callable[..., Verified]:
    def run(exported: ScoreFunction = linear, merged: ScoreFunction | None = linear, step=STEP) -> Verified:
        return verify_export(
            step,
            held_out=held_out,
            encoder=encoder,
            stages=[
                Stage("trained", lambda: linear),
                *([] if merged is None else [Stage("merged", lambda: merged)]),
                Stage("onnx", lambda: exported),
            ],
            source=Source(lambda batches: replace(NOISE, rows=sum(len(batch.rows) for batch in batches))),
            out=tmp_path / "out",
        )

    return run


def out_of_memory(batch: Batch, files: Sequence[Path]) -> Localised:
    """What may happen to a follower of layers, whose source is in float64."""
    raise MemoryError


def test_what_the_gate_found_is_kept_when_its_layers_can_t_be_compared(
    encoder: Encoder, held_out: HeldOut, tmp_path: Path
) -> None:
    stages = [
        Stage("trained", lambda: linear),
        Stage("onnx", lambda: lambda batch: linear(batch) * 1.01, localise=out_of_memory),
    ]
    with pytest.raises(MemoryError):
        verify_export(
            STEP, held_out=held_out, encoder=encoder, stages=stages, source=Source(lambda batches: NOISE), out=tmp_path
        )
    assert not read_report(tmp_path).verification.passed
    assert (tmp_path / "disagreements.jsonl").read_text()


def failed(verified: Verified) -> list[str]:
    return [f"{edge}: {check.name}" for edge, check in verified.verification.failures()]


def test_equal_models_pass_every_check_of_every_edge(verify: Callable[..., Verified]) -> None:
    verified = verify()
    assert verified.verification.passed
    assert [str(edge) for edge in verified.verification.edges] == ["trained -> merged", "merged -> onnx"]
    assert {len(edge.checks) for edge in verified.verification.edges} == {6}
    assert verified.report.tolerance == TOLERANCE
    assert verified.report.noise.rows == 64
    assert verified.report.stages == {name: {"accuracy": 1.0} for name in ("trained", "merged", "onnx")}
    assert verified.answers["onnx"].rows.values.shape == (300, 3)


def test_without_an_adapter_there_is_one_edge(verify: Callable[..., Verified]) -> None:
    [edge] = verify(merged=None).verification.edges
    assert str(edge) == "trained -> onnx"


def test_the_report_is_read_back(verify: Callable[..., Verified], tmp_path: Path) -> None:
    verified = verify()
    assert read_report(tmp_path / "out") == verified.report
    assert read_golden(tmp_path / "out" / "golden.jsonl")[0].ids == verified.golden[0].ids
    with pytest.raises(RunError, match="is not a verification") as caught:
        read_report(tmp_path)
    assert caught.value.code == "E606"


def test_scores_stand_at_the_row_that_they_are_of(verify: Callable[..., Verified], held_out: HeldOut) -> None:
    answers = verify().answers["trained"]
    assert [LABELS[best] for best in answers.rows.values.argmax(axis=1)] == [row["label"] for row in held_out.rows]


def rows_of(batch: Batch) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    return zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True)


def padding_counts(batch: Batch) -> np.ndarray:
    """The attention mask is ignored."""
    inputs = {**batch.inputs, "attention_mask": np.ones_like(batch.inputs["attention_mask"])}
    return linear(replace(batch, inputs=inputs))


def wrong_alone(batch: Batch) -> np.ndarray:
    """A batch of one is summed over the wrong axis, say."""
    return linear(batch) + (0.01 if len(batch.rows) == 1 else 0.0)


def wrong_when_long(batch: Batch) -> np.ndarray:
    """A length of 20 tokens was frozen into the graph; all held-out rows are shorter."""
    cut = {name: values[:, :20] for name, values in batch.inputs.items()}
    return linear(replace(batch, inputs=cut))


def unknown_word_is_shifted(batch: Batch) -> np.ndarray:
    """Wrong on token 0 only, which no held-out row has."""
    scores_BC = linear(batch)
    unknown_B = (batch.inputs["input_ids"] * batch.inputs["attention_mask"] == 0).all(axis=1)
    scores_BC[unknown_B] += 0.01
    return scores_BC


def swapped(batch: Batch) -> np.ndarray:
    """Two classes change places."""
    return linear(batch)[:, [1, 0, 2]]


def lacks_a_class(batch: Batch) -> np.ndarray:
    return linear(batch)[:, :2]


def overflows(batch: Batch) -> np.ndarray:
    scores_BC = linear(batch)
    scores_BC[batch.inputs["attention_mask"].sum(axis=1) > 18] = np.nan
    return scores_BC


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        (padding_counts, {"outputs", "outputs_probes", "decisions", "metrics"}),
        (wrong_alone, {"outputs_batch_1"}),
        (wrong_when_long, {"outputs_batch_1", "outputs_probes"}),
        (unknown_word_is_shifted, {"outputs_batch_1", "outputs_probes"}),
        (swapped, {"outputs", "outputs_batch_1", "outputs_probes", "decisions", "decisions_probes", "metrics"}),
        (lacks_a_class, {"outputs", "outputs_batch_1", "outputs_probes", "decisions", "metrics"}),
        (overflows, {"outputs", "outputs_batch_1", "decisions"}),
    ],
)
def test_a_faulty_export_is_caught_on_its_edge_by_what_shows_the_fault(
    verify: Callable[..., Verified], fault: ScoreFunction, caught: set[str]
) -> None:
    verified = verify(exported=fault)
    names = {name.removeprefix("merged -> onnx: ") for name in failed(verified)}
    assert caught <= names
    if fault in (wrong_alone, wrong_when_long, unknown_word_is_shifted):
        assert "outputs" not in names  # the held-out rows alone would not have shown it


def test_a_lossy_merge_is_named_as_the_first_edge_that_breaks(verify: Callable[..., Verified]) -> None:
    def scaled(batch: Batch) -> np.ndarray:
        return linear(batch) * np.float32(1.01)

    verified = verify(merged=scaled, exported=scaled)
    assert verified.verification.first_failure == "trained -> merged: outputs"
    assert failed(verified) == [
        "trained -> merged: outputs",
        "trained -> merged: outputs_batch_1",
        "trained -> merged: outputs_probes",
    ]


def test_rows_that_disagree_are_written_with_both_answers(verify: Callable[..., Verified], tmp_path: Path) -> None:
    verified = verify(exported=swapped)
    lines = [json.loads(line) for line in (tmp_path / "out" / "disagreements.jsonl").read_text().splitlines()]
    decided = [line for line in lines if line["differs"] == "decision" and "probe" not in line]
    [decisions] = [
        check
        for check in verified.verification.edges[1].checks
        if isinstance(check, Decisions) and check.name == "decisions"
    ]
    assert sorted(line["row"] for line in decided) == sorted(decisions.disagreeing)
    first = decided[0]
    assert first["edge"] == "merged -> onnx"
    assert first["values"]["text"].startswith("w")
    assert {first["source"]["decision"], first["other"]["decision"]} == {"no", "maybe"}
    assert first["max_abs"] == max(line["max_abs"] for line in decided)


def test_an_agreeing_gate_leaves_an_empty_list(verify: Callable[..., Verified], tmp_path: Path) -> None:
    verify()
    assert (tmp_path / "out" / "disagreements.jsonl").read_text() == ""


def test_at_most_the_asked_rows_are_compared_spread_over_the_split(verify: Callable[..., Verified]) -> None:
    verified = verify(step=replace(STEP, rows=50))
    assert len(verified.numbers) == verified.report.held_out.rows == 50
    assert (verified.numbers[0], verified.numbers[-1]) == (0, 299)
    assert verified.verification.passed


def test_an_excused_near_tie_does_not_fall_as_a_metric(
    verify: Callable[..., Verified], encoder: Encoder, held_out: HeldOut
) -> None:
    tokens = encoded(TASK, examples_of(TASK, [held_out.rows[7]]), encoder).row(0)["input_ids"].tolist()
    label = LABELS.index(held_out.rows[7]["label"])

    def tied(other_class_by: float) -> ScoreFunction:
        def scores(batch: Batch) -> np.ndarray:
            scores_BC = linear(batch)
            row = [list(ids[mask == 1]) == tokens for ids, mask in rows_of(batch)]
            scores_BC[row, (label + 1) % 3] = scores_BC[row, label] + np.float32(other_class_by)
            return scores_BC

        return scores

    verified = verify(merged=tied(-1e-6), exported=tied(1e-6))
    edge = verified.verification.edges[1]
    [decisions] = [check for check in edge.checks if isinstance(check, Decisions) and check.name == "decisions"]
    assert (decisions.excused, decisions.disagreeing) == ((7,), ())
    assert all(check.passed for check in edge.checks)
    assert verified.report.stages["onnx"]["accuracy"] == pytest.approx(299 / 300)


def test_no_held_out_rows_is_an_error(verify: Callable[..., Verified], encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no held-out rows") as caught:
        verify_export(
            STEP,
            held_out=HeldOut(task=TASK, rows=[]),
            encoder=encoder,
            stages=[Stage("trained", lambda: linear), Stage("onnx", lambda: linear)],
            source=Source(lambda _: NOISE),
            out=tmp_path,
        )
    assert caught.value.code == "E605"
