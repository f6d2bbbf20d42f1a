"""Graphs of onnxruntime-genai's builder: what they say of themselves, and answers that are PyTorch's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxruntime_genai", reason="needs the onnx extra")

import torch
import transformers

from compiler.genai import OPSET
from runtimes.errors import RunError
from runtimes.export.decoding import onnx_decoder
from runtimes.export.facts import ExportFacts
from runtimes.export.genai import CONFIG
from runtimes.export.grouped import GroupedDecoder
from runtimes.export.operators import operators
from runtimes.export.session import open_session
from runtimes.generation.decoding import forced, generate, left_padded, scored
from runtimes.generation.shared_prefix import SharedPrefix
from runtimes.pytorch import onnx_genai as writer
from runtimes.pytorch.decoding import torch_decoder
from runtimes.pytorch.quiet import quiet
from runtimes.saved import SavedModel
from tests.runtimes.decoders import (
    NEW,
    PAD,
    WAYS,
    assert_same_answers,
    assert_same_logits,
    assert_same_readings,
    prompts,
)
from tests.runtimes.mlx.architectures import DECODER, configuration
from tests.tiny import save_causal_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.long]

WINDOW = 5
ALL: dict[str, Any] = {**DECODER, "hidden_size": 64, "head_dim": 16, "pad_token_id": PAD, "eos_token_id": 3}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "gemma": ("GemmaForCausalLM", "GemmaConfig", ALL),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**ALL, "sliding_window": WINDOW, "query_pre_attn_scalar": 16}),
    "granite": ("GraniteForCausalLM", "GraniteConfig", {**ALL, "logits_scaling": 3.0, "residual_multiplier": 0.5}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**ALL, "attention_bias": True, "mlp_bias": True}),
    "llama3": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {**ALL, "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32}},
    ),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**ALL, "sliding_window": WINDOW}),
    "phi3": (
        "Phi3ForCausalLM",
        "Phi3Config",
        {**ALL, "sliding_window": WINDOW, "original_max_position_embeddings": 64},
    ),
    "qwen2": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {**ALL, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**ALL, "tie_word_embeddings": True}),
}
PROMPTS = prompts()
Exported = tuple[Path, Path, ExportFacts]


def save(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The folder, with a model whose biases and norms say something too, and a tokenizer."""
    model, config, settings = MODELS[name]
    save_causal_tokenizer(folder)
    torch.manual_seed(0)
    with quiet(), torch.no_grad():
        made = getattr(transformers, model)(configuration(config, **settings))
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        made.to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    saved = save(request.param, folder / "model")
    return saved, folder / "out", writer.export(saved, folder / "out", "onnx/model.onnx")


@pytest.fixture(scope="module")
def decoder(exported: Exported) -> GroupedDecoder:
    found = onnx_decoder(exported[1] / "onnx" / "model.onnx", threads=1, max_positions=64)
    assert isinstance(found, GroupedDecoder)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_pytorch(exported: Exported, decoder: GroupedDecoder, way: str) -> None:
    assert_same_answers(decoder, torch_decoder(SavedModel(exported[0])), PROMPTS, WAYS[way])


def test_all_logits_of_a_padded_batch_are_those_of_pytorch(exported: Exported, decoder: GroupedDecoder) -> None:
    assert_same_logits(decoder.logits, torch_decoder(SavedModel(exported[0])), PROMPTS)


def test_readings_through_the_cache_and_of_one_pass_are_those_of_pytorch(
    exported: Exported, decoder: GroupedDecoder
) -> None:
    continuations = [prompt[::-1] for prompt in PROMPTS]
    expected = forced(torch_decoder(SavedModel(exported[0])), PROMPTS, continuations, pad_id=PAD)
    ways = (
        scored(decoder.logits, PROMPTS, continuations, pad_id=PAD),
        forced(decoder, PROMPTS, continuations, pad_id=PAD),
        forced(decoder, PROMPTS, continuations, pad_id=PAD, batch_size=1),
    )
    for found in ways:
        assert_same_readings(found, expected)


def test_several_tokens_of_rows_of_mixed_lengths_follow_a_cache(exported: Exported, decoder: GroupedDecoder) -> None:
    given = [[7, 8, 9, *prompt] for prompt in PROMPTS]
    greedy = WAYS["greedy"]
    whole = generate(decoder, given, greedy, eos_ids=[], pad_id=PAD)
    shared = generate(SharedPrefix(decoder), given, greedy, eos_ids=[], pad_id=PAD)
    assert [answer.ids for answer in shared] == [answer.ids for answer in whole]


def test_onnxruntime_genai_opens_the_folder_and_writes_the_same(exported: Exported, decoder: GroupedDecoder) -> None:
    import onnxruntime_genai

    folder = exported[1]
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    ends = np.atleast_1d(config["model"]["eos_token_id"]).tolist()
    ours = generate(decoder, PROMPTS, WAYS["greedy"], eos_ids=ends, pad_id=PAD)
    reader = onnxruntime_genai.Model(str(folder))
    for prompt, answer in zip(PROMPTS, ours, strict=True):
        parameters = onnxruntime_genai.GeneratorParams(reader)
        parameters.set_search_options(max_length=len(prompt) + NEW, do_sample=False)
        generator = onnxruntime_genai.Generator(reader, parameters)
        generator.append_tokens(np.array([prompt], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        found = generator.get_sequence(0).tolist()[len(prompt) :]
        assert found == [token for token in answer.ids if token not in ends]


def test_the_graph_says_how_large_its_cache_is_and_where_it_was_made_it_does_not(exported: Exported) -> None:
    _, folder, facts = exported
    file = folder / "onnx" / "model.onnx"
    inner = open_session(file, threads=1).inner
    shapes = {value.name: value.shape for value in (*inner.get_inputs(), *inner.get_outputs())}
    assert shapes["input_ids"] == ["batch_size", "sequence"]
    assert shapes["attention_mask"] == ["batch_size", "past + sequence"]
    assert shapes["past_key_values.1.key"] == ["batch_size", 2, "past", 16]
    assert shapes["present.1.value"] == ["batch_size", 2, "past + sequence", 16]
    assert (facts.exporter, facts.opset) == (writer.EXPORTER, OPSET)
    assert dict(facts.custom_operators)["com.microsoft.GroupQueryAttention"] == 2
    assert {"GroupQueryAttention", "MatMul"} <= operators(file)
    assert sorted(path.name for path in folder.rglob("*")) == [CONFIG, "model.onnx", "onnx"]
    assert b".py" not in file.read_bytes() and str(folder.parent).encode() not in file.read_bytes()
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    assert config["model"]["decoder"]["filename"] == "onnx/model.onnx"


@pytest.mark.parametrize("exported", ["llama"], indirect=True)
def test_the_export_is_silent_and_deterministic(
    exported: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved, folder, facts = exported
    assert writer.export(saved, tmp_path, "onnx/model.onnx") == facts
    assert capfd.readouterr() == ("", "")
    for name in ("onnx/model.onnx", CONFIG):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("exported", ["llama"], indirect=True)
def test_large_weights_are_written_beside_the_graph(exported: Exported, tmp_path: Path) -> None:
    saved, folder, _ = exported
    facts = writer.export(saved, tmp_path, "onnx/model.onnx", inside=1000)
    files = {path.name: path.stat().st_size for path in (tmp_path / "onnx").iterdir()}
    assert set(files) == {"model.onnx", "model.onnx_data"} and facts.num_bytes == sum(files.values())
    ids, mask = left_padded(PROMPTS, PAD)
    found, expected = (onnx_decoder(each / "onnx" / "model.onnx", threads=1) for each in (tmp_path, folder))
    assert np.array_equal(found.logits(ids, mask), expected.logits(ids, mask))


def test_a_model_that_is_saved_in_bfloat16_is_written_from_its_float32_values(tmp_path: Path) -> None:
    saved = save("gemma", tmp_path / "model", torch.bfloat16)  # its norms are one more than they are saved as
    writer.export(saved, tmp_path / "out", "model.onnx")
    decoder = onnx_decoder(tmp_path / "out" / "model.onnx", threads=1)
    source = torch_decoder(SavedModel(saved))
    ids, mask = left_padded(PROMPTS[:1], PAD)
    assert np.abs(decoder.logits(ids, mask) - source.logits(ids, mask)).max() < 1e-5


def test_what_the_builder_can_t_write_is_one_error_with_what_to_do(tmp_path: Path) -> None:
    saved = save("qwen3", tmp_path / "model")
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    (saved / "config.json").write_text(json.dumps({**config, "architectures": ["NoneOfThem"]}), encoding="utf-8")
    with pytest.raises(RunError) as caught:
        writer.export(saved, tmp_path / "out", "model.onnx")
    assert (caught.value.code, caught.value.hint) == ("E505", 'write {"format": "onnx", "exporter": "transformers"}')
    assert "can't write this qwen3 model" in caught.value.message
    assert not any((tmp_path / "out").iterdir())


def test_a_file_that_is_no_graph_has_no_operators(tmp_path: Path) -> None:
    for content in (b"\x0f", b"\x3a\x7f", b""):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(RunError, match="can't be read"):
            operators(tmp_path / "model.onnx")
