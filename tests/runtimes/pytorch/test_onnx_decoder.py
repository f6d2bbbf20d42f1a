"""Graphs of decoders: their names, their files, and answers that are PyTorch's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

import onnx_ir

from runtimes.errors import RunError
from runtimes.export.decoding import OnnxDecoder, onnx_decoder
from runtimes.export.facts import ExportFacts, data_file
from runtimes.generation.decoding import forced, left_padded, scored
from runtimes.pytorch import onnx_decoder as writer
from runtimes.pytorch.decoding import HEAD, torch_decoder
from runtimes.pytorch.onnx_format import traceable
from runtimes.pytorch.onnx_graph import ExportError, write
from runtimes.saved import SavedModel
from tests.runtimes.decoders import (
    PAD,
    TRACED,
    WAYS,
    assert_same_answers,
    assert_same_logits,
    assert_same_readings,
    prompts,
    save_decoder,
)
from tests.runtimes.mlx.architectures import VOCABULARY

PROMPTS = prompts()
ROOT = Path(__file__).parents[3]
Exported = tuple[Path, Path, ExportFacts]


@pytest.fixture(scope="module", params=TRACED)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    saved = save_decoder(request.param, folder / "model")
    return (
        saved,
        folder / "model.onnx",
        writer.export(traceable(SavedModel(saved), HEAD), folder / "model.onnx", opset=18),
    )


@pytest.fixture(scope="module")
def decoder(exported: Exported) -> OnnxDecoder:
    found = onnx_decoder(exported[1], threads=1, max_positions=64)
    assert isinstance(found, OnnxDecoder)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_pytorch(exported: Exported, decoder: OnnxDecoder, way: str) -> None:
    assert_same_answers(decoder, torch_decoder(SavedModel(exported[0])), PROMPTS, WAYS[way])


def test_all_logits_of_a_padded_batch_are_those_of_pytorch(exported: Exported, decoder: OnnxDecoder) -> None:
    assert_same_logits(decoder.logits, torch_decoder(SavedModel(exported[0])), PROMPTS)


def test_readings_of_one_pass_are_those_of_pytorchs_cache(exported: Exported, decoder: OnnxDecoder) -> None:
    continuations = [prompt[::-1] for prompt in PROMPTS]
    expected = forced(torch_decoder(SavedModel(exported[0])), PROMPTS, continuations, pad_id=PAD)
    for logits in (decoder.logits, torch_decoder(SavedModel(exported[0])).logits):
        assert_same_readings(scored(logits, PROMPTS, continuations, pad_id=PAD), expected)


def test_names_and_axes_are_those_that_others_expect(exported: Exported, decoder: OnnxDecoder) -> None:
    inner, facts = decoder.session.inner, exported[2]
    shapes = {value.name: value.shape for value in (*inner.get_inputs(), *inner.get_outputs())}
    num_heads = 4 if "gpt2" in str(exported[0]) else 2
    assert shapes.pop("input_ids") == shapes.pop("position_ids") == ["batch_size", "sequence"]
    assert shapes.pop("attention_mask") == ["batch_size", "past + sequence"]
    assert shapes.pop("logits") == ["batch_size", "sequence", VOCABULARY]
    for layer in (0, 1):
        for kind in ("key", "value"):
            assert shapes.pop(f"past_key_values.{layer}.{kind}") == ["batch_size", num_heads, "past", 8]
            assert shapes.pop(f"present.{layer}.{kind}") == ["batch_size", num_heads, "past + sequence", 8]
    assert not shapes
    assert (facts.opset, facts.custom_operators, facts.inputs[:3]) == (
        18,
        (),
        ("input_ids", "attention_mask", "position_ids"),
    )


def test_the_file_is_one_and_says_nothing_about_the_machine_that_wrote_it(exported: Exported) -> None:
    _, out, facts = exported
    assert sorted(path.name for path in out.parent.iterdir()) == ["model", "model.onnx"]
    assert facts.num_bytes == out.stat().st_size
    assert b".py" not in out.read_bytes()


@pytest.mark.parametrize("exported", ["gpt2"], indirect=True)
def test_the_export_is_silent_and_deterministic(
    exported: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved, out, facts = exported
    assert writer.export(traceable(SavedModel(saved), HEAD), tmp_path / "again.onnx", opset=18) == facts
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


def test_a_tied_embedding_is_in_the_file_once(exported: Exported) -> None:
    graph = onnx_ir.load(exported[1]).graph
    tables = [value.shape for value in graph.initializers.values() if VOCABULARY in (value.shape or ())]
    tied = exported[0].parent.name.startswith(("qwen3", "gpt2"))
    assert len(tables) == (1 if tied else 2)


def test_large_weights_are_written_beside_the_graph(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "large.onnx"
    num_bytes = write(onnx_ir.load(exported[1]), out, lambda file: onnx_decoder(file, threads=1), inside=1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx", "large.onnx_data"]
    assert num_bytes == out.stat().st_size + data_file(out).stat().st_size
    ids, mask = left_padded(PROMPTS, PAD)
    expected = onnx_decoder(exported[1], threads=1).logits(ids, mask)
    assert np.array_equal(onnx_decoder(out, threads=1).logits(ids, mask), expected)


def test_a_graph_that_fails_its_check_leaves_nothing(exported: Exported, tmp_path: Path) -> None:
    def fails(file: Path) -> None:
        raise ExportError(f"{file.name} fails")

    with pytest.raises(ExportError, match=r"model\.onnx fails"):
        write(onnx_ir.load(exported[1]), tmp_path / "model.onnx", fails, inside=1000)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_without_a_cache_is_no_decoder(tiny) -> None:
    with pytest.raises(RunError, match="keeps no cache"):
        onnx_decoder(tiny.onnx_file)


def test_a_model_that_keeps_more_than_keys_and_values_is_refused(tmp_path: Path) -> None:
    save_decoder("mamba", tmp_path / "model")
    with pytest.raises(ExportError, match="keeps more than keys and values"):
        writer.export(traceable(SavedModel(tmp_path / "model"), HEAD), tmp_path / "model.onnx")


WRITE = """
import json, sys
from pathlib import Path
from compiler.generation import Generation
from runtimes.generation.decoding import generate
from runtimes.export.decoding import onnx_decoder

decoder = onnx_decoder(Path(sys.argv[1]), threads=1)
[answer] = generate(decoder, [[5, 6, 7]], Generation(max_new_tokens=4), eos_ids=[], pad_id=0)
print(json.dumps([len(answer.ids), sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_a_receiver_writes_without_a_framework(exported: Exported) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(exported[1])],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    length, modules = json.loads(done.stdout)
    assert length == 4
    assert not {"torch", "transformers", "peft", "onnx", "mlx"} & set(modules)
    assert done.stderr == ""
