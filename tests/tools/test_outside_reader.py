"""What a run saves is read by transformers as its bundle reads it: 100 held-out rows of real data for each task."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import invoke

ROOT = Path(__file__).parents[2]
MIRROR = ROOT / ".mirror"
DATA = ROOT / "recipes" / "data"
CHAT = MIRROR / "HuggingFaceTB" / "SmolLM2-135M-Instruct"
STEPS = ("/training/max_steps=8", "/dataset/train/rows=300", "/dataset/validation=null")
SHORT = {  # a few steps on some of the rows: what is asked is not how well the model answers
    "quickstart": (*STEPS, "/dataset/test/fraction=0.012"),
    "movie-valence-lora": (*STEPS, "/dataset/test/fraction=0.012"),
    "entity-spans-lora": (*STEPS, "/dataset/test/fraction=0.03"),
    "email-answers": (*STEPS, "/dataset/test/fraction=0.05", "/training/max_length=256", "/task/stride=128"),
    "fashion-mnist-resnet": ("/training/max_steps=8", "/dataset/validation=null"),
    "django-de-seq2seq": ("/training/max_steps=8", "/generation/max_new_tokens=16", "/dataset/test/fraction=0.15"),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MIRROR.exists(), reason="`make fixtures` gets the real models and rows"),
]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPE_MIRROR", str(MIRROR))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


CASES = ["quickstart", *(pytest.param(name, marks=pytest.mark.long) for name in SHORT if name != "quickstart")]


@pytest.mark.parametrize("name", CASES)
def test_transformers_answers_100_held_out_rows_as_the_bundle_does(tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnxscript", reason="needs the onnx extra")
    recipe = ROOT / "recipes" / f"{name}.json"
    written = json.loads(recipe.read_text(encoding="utf-8"))
    needed = [MIRROR / written["model"], recipe.parent / path_of(written["dataset"]["train"])]
    if missing := [path.relative_to(ROOT) for path in needed if not path.exists()]:
        pytest.skip(f"`make fixtures FIXTURES=--all` gets {missing[0]}")
    assert_alike(recipe, tmp_path / "runs", SHORT[name])


def test_the_pipeline_of_a_chat_model_writes_what_the_bundle_writes(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the onnx extra")
    if not (CHAT.exists() and (DATA / "alpaca-en.jsonl").exists()):
        pytest.skip("`make fixtures FIXTURES='smollm2-135m-instruct alpaca'` gets a tokenizer and rows")
    small_llama(tmp_path / "model")
    shutil.copyfile(DATA / "alpaca-en.jsonl", tmp_path / "rows.jsonl")
    recipe = {
        "recipe": 1,
        "name": "chat",
        "task": "text-generation",
        "dataset": {
            "train": {"path": "rows.jsonl", "rows": 100},
            "validation": None,
            "test": {"fraction": 0.2},
        },
        "model": "./model",
        "training": {"max_steps": 20, "batch_size": 4, "max_length": 256, "learning_rate": 1e-2},
        "generation": {"max_new_tokens": 12},
        "export": ["onnx"],
    }
    (tmp_path / "chat.json").write_text(json.dumps(recipe))
    assert_alike(tmp_path / "chat.json", tmp_path / "runs", ())


def assert_alike(recipe: Path, runs: Path, changes: tuple[str, ...]) -> None:
    """Runs a recipe with changes, and has its saved folder read."""
    from tools.outside_reader import compare

    changed = [argument for change in changes for argument in ("--set", change)]
    done = invoke("run", recipe, "--runs", runs, "--target", "cpu", "--quiet", *changed)
    assert done.exit_code == 0, done.output
    [run] = [folder for folder in runs.iterdir() if (folder / "report.json").exists()]
    found = compare(run, 100)
    assert found.rows == 100
    assert found.differing == ()


def path_of(split: Any) -> str:
    """The file of a split."""
    return str(split if isinstance(split, str) else split["path"])


def small_llama(folder: Path) -> None:
    """A random Llama that has the tokenizer and the template of SmolLM2."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from runtimes.pytorch.quiet import quiet

    shutil.copytree(CHAT, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    with quiet():
        LlamaForCausalLM(LlamaConfig(vocab_size=49152, eos_token_id=2, **sizes)).save_pretrained(folder)
