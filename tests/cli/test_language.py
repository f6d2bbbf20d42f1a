"""Language models through the command line: tuned, written with, exported with a cache and for mlx-lm, gated."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

from click.testing import CliRunner, Result

from compiler.cli import main
from runtimes.bundles.manifest import read_manifest, seal
from runtimes.serving.requests import Limits
from runtimes.verification.receiver import verify_bundle
from tests.serving import serving
from tests.tiny import prompts, rows, write_language_project

TRAINING = {"epochs": 3, "learning_rate": 1e-2, "batch_size": 4, "max_length": 48}


def recipe(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learnt to answer, with a bundle."""
    folder = write_language_project(
        tmp_path_factory.mktemp("chat") / "project",
        prompts(200),
        task="text-generation",
        training=TRAINING,
        metrics=["perplexity", "token-accuracy", "exact-match"],
        generation={"max_new_tokens": 6, "rows": 10},
        export=["onnx"],
    )
    found = recipe("run", str(folder / "recipe.json"), "--runs", str(folder / "runs"), "--target", "cpu")
    assert found.exit_code == 0, found.output
    return folder / "runs" / "tiny"


def report(run: Path) -> Any:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def step_folder(run: Path, step: str) -> Path:
    """Where a step left its outputs."""
    [key] = [found["key"] for found in report(run)["steps"] if found["id"] == step]
    return run.parent / ".steps" / str(key)


def checks(run: Path, step: str = "verify") -> dict[str, Any]:
    [edge] = report(run)["gates"][step]["verification"]["edges"]
    return {check["name"]: check for check in edge["checks"]}


def test_texts_are_measured_beside_those_of_the_untuned_model(chat: Path) -> None:
    evaluation = report(chat)["evaluation"]
    tuned, untuned = evaluation["metrics"], evaluation["baseline"]["untuned"]
    assert list(tuned) == ["perplexity", "token-accuracy", "exact-match", "loss"]
    assert tuned["perplexity"] < 2 < untuned["perplexity"]
    assert tuned["exact-match"] > 0.5 > untuned["exact-match"] == 0.0
    [shown, *_] = evaluation["texts"]
    assert shown["answer"] in ("very p", "very n")
    assert list(shown) == ["reference", "answer", "untuned", "few_shot"]


def test_the_untuned_model_is_measured_after_solved_train_rows_too(chat: Path) -> None:
    found = report(chat)
    evaluation = found["evaluation"]
    assert list(evaluation["baseline"]) == ["untuned", "few_shot"]
    assert evaluation["baseline"]["few_shot"] == {"exact-match": 0.0}
    [choice] = [choice for choice in found["choices"] if choice["pointer"] == "/generation/few_shot"]
    told = evaluation["few_shot"]
    assert told["wanted"] == choice["value"] == len(told["examples"]) == 2
    assert told["prompts"] == {"2": 10} and told["passed_over"] == 0
    prepared = (step_folder(chat, "prepare") / "train" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(prepared[example["number"]]) for example in told["examples"]] == [
        example["row"] for example in told["examples"]
    ]
    manifest = read_manifest(chat / "bundle")
    assert manifest.baseline["few_shot"] == {"exact-match": 0.0}
    page = (chat / "report.html").read_text(encoding="utf-8")
    for shown in (page, recipe("report", str(chat)).output):
        assert re.search(r"tuned +untuned +few_shot", shown)
        assert "few_shot: the untuned model, 2 solved train rows before each prompt" in shown


def test_what_is_written_after_solved_rows_is_what_transformers_writes(chat: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from runtimes.pytorch.quiet import quiet

    model_folder = chat.parents[1] / "model"
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model_folder / "tokenizer.json"))
    evaluation = report(chat)["evaluation"]
    rows = (step_folder(chat, "prepare") / "test" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [example["row"] for example in evaluation["few_shot"]["examples"]]
    before = "".join(f"{row['prompt']}{row['completion']}[SEP]" for row in examples)
    ids = tokenizer(before + json.loads(rows[0])["prompt"], return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        found = model.generate(ids, do_sample=False, max_new_tokens=6, eos_token_id=3, pad_token_id=0)
    written = [token for token in found[0, ids.shape[1] :].tolist() if token != 3]
    assert tokenizer.decode(written) == evaluation["texts"][0]["few_shot"]


def test_no_solved_rows_are_shown_where_the_recipe_says_none_and_training_is_not_done_again(chat: Path) -> None:
    folder = chat.parents[1]
    options = ("--runs", str(folder / "runs"), "--target", "cpu", "--set", "/name=none", "--set", "/export=[]")
    found = recipe("run", str(folder / "recipe.json"), *options, "--set", "/generation/few_shot=0")
    assert found.exit_code == 0, found.output
    here, there = report(folder / "runs" / "none"), report(chat)
    assert list(here["evaluation"]["baseline"]) == ["untuned"] and "few_shot" not in here["evaluation"]
    keys, others = ({step["id"]: step["key"] for step in each["steps"]} for each in (here, there))
    assert [name for name in keys if keys[name] != others[name]] == ["evaluate"]


def test_both_runtimes_write_the_same_after_solved_rows(chat: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    folder = chat.parents[1]
    options = ("--runs", str(folder / "mlx-runs"), "--target", "cpu", "--set", "/export=[]", "--runtime", "mlx")
    found = recipe("run", str(folder / "recipe.json"), *options, "--set", "/training/max_steps=1")
    assert found.exit_code == 0, found.output
    here, there = report(folder / "mlx-runs" / "tiny")["evaluation"], report(chat)["evaluation"]
    assert here["few_shot"] == there["few_shot"]
    assert here["baseline"]["few_shot"] == there["baseline"]["few_shot"]
    assert [text["few_shot"] for text in here["texts"]] == [text["few_shot"] for text in there["texts"]]


def test_the_gate_forces_the_exported_cache_along_what_the_source_wrote(chat: Path) -> None:
    found = checks(chat)
    assert found["written_outputs"]["passed"] is found["written_tokens"]["passed"] is True
    assert found["written_tokens"]["rows"] == report(chat)["evaluation"]["rows"]
    assert found["written_tokens"]["agreeing"] == found["written_tokens"]["positions"] > 50


def test_predict_writes_as_the_tuned_model_does(chat: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"prompt": "the movie was great "}\n{"messages": [{"role": "user", "content": "a bad plot "}]}\n')
    found = recipe("predict", str(chat / "bundle"), "--input", str(asked))
    assert found.exit_code == 0, found.output
    lines = [json.loads(line)["prediction"]["text"] for line in found.stdout.splitlines()]
    assert lines == ["very p", "very n"]
    typed = recipe("predict", str(chat / "bundle"), "--text", "the movie was great ")
    assert typed.stdout == "very p  the movie was great \n"


def checked(folder: Path, source: str) -> tuple[int, str]:
    template = "{% for m in messages %}{{ m.content ~ (eos_token if m.role == 'assistant' else '') }}{% endfor %}"
    task = {"type": "text-generation", "template": {"source": source + template}}
    write_language_project(folder / "project", prompts(20), task=task)
    found = recipe("check", str(folder / "project" / "recipe.json"))
    return found.exit_code, found.output


def test_a_template_that_loops_long_is_one_finding(tmp_path: Path) -> None:
    long = "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"
    exit_code, said = checked(tmp_path, long)
    assert exit_code == 1
    assert "recipe.json:10:17: error[R411] /task/template: the chat template runs for too long: it takes over" in said
    assert said.endswith("1 error\n")


def test_a_row_that_the_template_refuses_is_a_finding_about_the_row(tmp_path: Path) -> None:
    refuses = "{% if 'dull' in messages[0].content %}{{ raise_exception('nothing dull') }}{% endif %}"
    exit_code, said = checked(tmp_path, refuses)
    assert exit_code == 1
    assert 'error[R313] the column "prompt": the chat template refuses the conversation: nothing dull' in said


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_a_prompt_without_tokens_is_a_finding_where_texts_are_written(tmp_path: Path, prompt: str) -> None:
    lines = [*prompts(20), {"prompt": prompt, "completion": "never seen"}]
    folder = write_language_project(tmp_path / "project", lines, task="text-generation")
    message = (
        'rows.jsonl:21:1: error[R313] the column "prompt": the prompt has no tokens, so that no text can be written'
    )
    for asked in ('/export=["onnx"]', '/metrics=["exact-match"]'):
        found = recipe("check", str(folder / "recipe.json"), "--set", asked)
        assert (found.exit_code, message in found.output) == (1, True)
    assert recipe("check", str(folder / "recipe.json")).exit_code == 0  # it can be trained on
    (folder / "held-out.jsonl").write_text(json.dumps(prompts(21)[20]) + "\n")
    split = {"dataset": {"validation": {"path": "held-out.jsonl"}, "test": None}, "export": ["onnx"]}
    (folder / "split.json").write_text(json.dumps({"extends": "recipe.json", **split}))
    found = recipe("check", str(folder / "split.json"))
    assert found.exit_code == 0, found.output  # none is written for train rows


def test_a_bundle_whose_template_loops_long_says_so(chat: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(chat / "bundle", tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["task"]["template"]["source"] += (
        "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"
    )
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = recipe("predict", str(folder), "--text", "the movie was great ")
    assert found.exit_code == 1
    assert found.output.startswith("error[R411]: the chat template runs for too long: it takes over")


def test_a_prompt_without_tokens_is_refused_by_predict(chat: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"prompt": "the movie was great "}\n{"prompt": ""}\n')
    found = recipe("predict", str(chat / "bundle"), "--input", str(asked))
    assert found.exit_code == 1
    assert 'asked.jsonl:2:1: error[R313] the column "prompt": the prompt has no tokens' in found.output


def test_predict_says_of_a_prompt_that_is_too_long_where_it_was_cut(chat: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    texts = ["the movie was great ", "a " * 60 + "the movie was great "]
    asked.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    found = recipe("predict", str(chat / "bundle"), "--input", str(asked))
    whole, cut = (json.loads(line)["prediction"] for line in found.stdout.splitlines())
    assert "prompt_cut" not in whole
    assert cut["prompt_cut"] == "beginning"
    assert found.stderr == "warning: 1 of 2 prompts cut at their beginning: too long\n"


def test_evaluation_and_gate_count_the_prompts_that_were_cut_to_leave_room(tmp_path: Path) -> None:
    long = [{"prompt": f"{'the movie ' * 17}{row['prompt']}", "completion": row["completion"]} for row in prompts(40)]
    folder = write_language_project(
        tmp_path / "project",
        long,
        task="text-generation",
        training={**TRAINING, "max_length": 64, "epochs": 1},
        metrics=["exact-match"],
        generation={"max_new_tokens": 60, "rows": 2},
        export=["onnx"],
    )
    found = recipe("run", str(folder / "recipe.json"), "--runs", str(folder / "runs"), "--target", "cpu")
    assert found.exit_code == 0, found.output
    run = folder / "runs" / "tiny"
    evaluation = report(run)["evaluation"]
    assert evaluation["prompts_cut"] == "2 of 2 prompts cut at their beginning: too long"
    assert [text["prompt_cut"] for text in evaluation["texts"]] == ["beginning", "beginning"]
    assert "    2 of 2 prompts cut at their beginning: too long" in found.output
    rows = checks(run)["written_tokens"]["rows"]
    assert checks(run)["written_tokens"]["note"] == f"{rows} of {rows} prompts cut at their beginning: too long"
    lines = (run / "bundle" / "written.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["prompt"]) for line in lines] == [32] * rows


def test_transformers_writes_the_same_from_the_folder_that_was_saved(chat: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from runtimes.pytorch.quiet import quiet

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(chat / "model").eval()
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(chat / "model" / "tokenizer.json"))
    written = [json.loads(line) for line in (chat / "bundle" / "written.jsonl").read_text().splitlines()]
    for row in written[:8]:
        ids = torch.tensor([row["prompt"]])
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=6,
                eos_token_id=3,
                pad_token_id=0,
            )
        assert found[0, ids.shape[1] :].tolist() == row["ids"]
        assert tokenizer.decode([token for token in row["ids"] if token != 3]) == row["text"]


def test_answers_are_measured_without_their_reasoning(tmp_path: Path) -> None:
    """The template ends reasoning with the word end; few answers are right at once, and reasoning is written first."""
    source = (
        "{% for message in messages %}{% if message.role == 'user' %}{{ message.content }}{% else %}"
        "{{ message.reasoning_content }} end {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    folder = write_language_project(
        tmp_path / "project",
        [{**row, "rationale": "the film is"} for row in prompts(200)],
        task={"type": "text-generation", "template": {"source": source}},
        dataset={"train": "rows.jsonl", "columns": {"reasoning": "rationale"}},
        training=TRAINING,
        metrics=["token-accuracy", "exact-match"],
        generation={"max_new_tokens": 10, "rows": 10},
    )
    tokens = []
    for learnt in (True, False):
        options = (
            "--runs",
            str(folder / "runs"),
            "--target",
            "cpu",
            "--set",
            f"/task/supervise_reasoning={learnt}".lower(),
        )
        found = recipe("run", str(folder / "recipe.json"), *options)
        assert found.exit_code == 0, found.output
        evaluation = report(folder / "runs" / "tiny")["evaluation"]
        tokens.append(evaluation["tokens"])
        if learnt:
            assert evaluation["texts"][0]["answer"] in ("the film is end very p", "the film is end very n")
            assert evaluation["texts"][0]["reference"] in ("very p", "very n")
            assert evaluation["metrics"]["exact-match"] > 0.5
    rows = evaluation["rows"]
    assert tokens == [rows * 7, rows * 4], "the film is end very p [SEP], and what follows the reasoning"


def test_drawn_answers_do_not_repeat_when_rows_are_read_in_portions(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(chat / "bundle", tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["generation"] |= {"temperature": 3.0, "max_new_tokens": 8}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    asked = ["predict", str(folder), "--json", *["--text", "the movie was great "] * 6]
    whole = recipe(*asked).stdout.splitlines()
    monkeypatch.setattr("compiler.cli.bundle._ROWS_AT_ONCE", 2)
    assert recipe(*asked).stdout.splitlines() == whole
    assert len(set(whole)) == 6


def test_a_server_draws_the_same_answers_whoever_shares_the_batch(chat: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(chat / "bundle", tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["generation"] |= {"temperature": 3.0, "max_new_tokens": 8}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    texts = ["the movie was great ", "a bad plot ", "the movie was great "]
    done = recipe("predict", str(folder), "--json", *(word for text in texts for word in ("--text", text)))
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [{"prompt": text} for text in texts]
    with serving(folder, Limits(max_wait=0.2)) as running, ThreadPoolExecutor(6) as pool:
        found = [*pool.map(lambda _: running.predict({"rows": rows}), range(6))]
    assert found == [(200, {"answers": expected})] * 6
    assert len({answer["prediction"]["text"] for answer in expected}) == 3


def test_a_held_out_file_without_rows_is_a_finding_where_texts_are_measured_too(tmp_path: Path) -> None:
    folder = write_language_project(
        tmp_path / "project",
        prompts(40),
        task="text-generation",
        dataset={"train": "rows.jsonl", "validation": None, "test": "test.jsonl"},
        metrics=["bleu"],
    )
    (folder / "test.jsonl").write_text("")
    found = recipe("check", str(folder / "recipe.json"))
    assert found.exit_code == 1
    assert "error[R306]" in found.output


def damage_tokens(folder: Path) -> None:
    """A row's second token is another one."""
    lines = [json.loads(line) for line in (folder / "written.jsonl").read_text().splitlines()]
    lines[0]["ids"][1] = 20
    (folder / "written.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def damage_weights(folder: Path) -> None:
    """One weight is 1.01 times what it was."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(folder / "onnx" / "model.onnx")
    tensor = max(graph.graph.initializer, key=lambda found: len(found.raw_data))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, tensor.name))
    onnx.save(graph, folder / "onnx" / "model.onnx")


def damage_template(folder: Path) -> None:
    """Prompts end in a line break more: what was written was written for others, and the manifest is sealed anew."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["task"]["template"]["source"] += "{{ ' end' }}"
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "caught"),
    [
        (damage_tokens, {"written_outputs", "written_tokens"}),
        (damage_weights, {"outputs_batch_1", "written_outputs"}),
        (damage_template, {"tokens"}),
    ],
)
def test_a_bundle_that_was_damaged_and_sealed_again_is_caught_by_what_it_answers(
    chat: Path, tmp_path: Path, damage: Callable[[Path], None], caught: set[str]
) -> None:
    folder = Path(shutil.copytree(chat / "bundle", tmp_path / "bundle"))
    assert verify_bundle(folder).passed
    damage(folder)
    seal(folder, read_manifest(folder))
    failed = {check.name for _, check in verify_bundle(folder).failures()}
    assert caught <= failed, failed


def test_a_row_without_anything_to_learn_is_e411_and_shown(tmp_path: Path) -> None:
    lines = [*prompts(40), {"prompt": "the movie " * 40, "completion": "never seen"}]
    folder = write_language_project(
        tmp_path / "project",
        lines,
        task="text-generation",
        training={**TRAINING, "max_length": 32},
        dataset={"train": "rows.jsonl", "validation": None, "test": None},
    )
    found = recipe("run", str(folder / "recipe.json"), "--runs", str(folder / "runs"), "--target", "cpu")
    assert found.exit_code == 4
    assert "error[E411]: nothing of a row of 32 tokens is to be learnt" in found.output
    assert "never seen" in found.output or "the movie the movie" in found.output


@pytest.fixture(scope="module")
def mlx_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learnt texts with low-rank updates, and left folders for mlx-lm."""
    pytest.importorskip("mlx_lm", reason="needs the mlx extra")
    folder = write_language_project(
        tmp_path_factory.mktemp("mlx") / "project",
        [{"text": row["snippet"]} for row in rows(120)],
        task="continued-pretraining",
        method="lora",
        training=TRAINING,
        export=["mlx", {"format": "mlx", "bits": 8, "group_size": 32}],
    )
    found = recipe("run", str(folder / "recipe.json"), "--runs", str(folder / "runs"), "--target", "cpu")
    assert found.exit_code == 0, found.output
    return folder / "runs" / "tiny"


def test_mlx_lm_opens_what_was_exported_and_answers_as_the_gate_says(mlx_folders: Path) -> None:
    import mlx.core as mx
    import numpy as np
    import torch
    from mlx_lm.utils import load_model
    from transformers import AutoModelForCausalLM

    from runtimes.pytorch.quiet import quiet

    ids = np.random.default_rng(0).integers(5, 40, (2, 9))
    with quiet():
        source = AutoModelForCausalLM.from_pretrained(mlx_folders / "model", dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = source(torch.from_numpy(ids)).logits.numpy()
    whole, _ = load_model(mlx_folders / "mlx-1")
    rounded, config = load_model(mlx_folders / "mlx-2")
    assert np.abs(np.array(whole(mx.array(ids))) - expected).max() < 1e-4
    away = np.abs(np.array(rounded(mx.array(ids))) - expected).max()
    assert 1e-4 < away < 0.5
    assert config["quantization"]["bits"] == 8


def test_rounding_is_an_edge_of_its_own(mlx_folders: Path) -> None:
    gates = report(mlx_folders)["gates"]
    edges = [f"{edge['source']} -> {edge['target']}" for edge in gates["verify-2"]["verification"]["edges"]]
    assert edges == ["trained -> merged", "merged -> mlx-lm", "mlx-lm -> mlx"]
    last = gates["verify-2"]["verification"]["edges"][-1]
    assert [check["name"] for check in last["checks"]] == ["metrics"]
    assert (mlx_folders / "mlx-2" / "tokenizer.json").exists()


def test_an_export_in_few_bits_says_how_many_layers_have_them(mlx_folders: Path) -> None:
    facts = report(mlx_folders)["exports"]["export-2"]
    assert (facts["quantized_layers"], facts["layers"]) == (15, 15)
    choices = {choice["pointer"]: choice["reason"] for choice in report(mlx_folders)["choices"]}
    assert choices["/export/1/group_size"] == "14 of 14 linear layers are quantized"
    events = (mlx_folders / "events.jsonl").read_text()
    assert "a folder for mlx-lm, 8 bits in 15 of 15 layers, " in events


def test_an_export_says_how_much_of_the_update_is_left(mlx_folders: Path) -> None:
    whole, rounded = (report(mlx_folders)["exports"][f"export-{number}"]["survives"] for number in (1, 2))
    assert whole is None
    assert abs(rounded["share"] - 1.0) < 4 * rounded["error"] < 0.4
    merged = json.loads(((mlx_folders / "model").resolve().parent / "merge.json").read_text(encoding="utf-8"))
    assert merged["survives"]["fp32"] == {"share": 1.0, "error": 0.0}


@pytest.mark.parametrize(
    ("group_size", "exit_code", "said"),
    [
        (32, 3, "error[E602]: mlx-lm -> mlx: metrics: perplexity"),
        (128, 1, "groups of 128 divide the inputs of none of the 14 linear layers"),
    ],
)
def test_rounding_that_costs_too_much_or_rounds_nothing_is_no_export(
    mlx_folders: Path, group_size: int, exit_code: int, said: str
) -> None:
    folder = mlx_folders.parents[1]
    export = {"format": "mlx", "bits": 4, "group_size": group_size, "max_metric_drop": 0.0}
    options = ("--runs", str(folder / "runs"), "--target", "cpu", "--set", f"/export={json.dumps([export])}")
    found = recipe("run", str(folder / "recipe.json"), *options)
    assert found.exit_code == exit_code, found.output
    assert said in found.output


def test_an_update_that_goes_back_to_the_codes_of_its_base_is_not_exported(mlx_folders: Path, tmp_path: Path) -> None:
    """A known failure: merged into a base of four bits and rounded to four bits, an adapter is lost."""
    project = mlx_folders.parents[1]
    value = json.loads((project / "recipe.json").read_text(encoding="utf-8"))
    value["method"] = {"type": "qlora", "rank": 4, "bits": 4, "group_size": 32}
    value["training"] = {"learning_rate": 1e-5, "max_steps": 4, "batch_size": 8}
    value["export"] = [{"format": "mlx", "bits": 4, "group_size": 32}]
    (project / "lost.json").write_text(json.dumps({**value, "name": "lost", "runtime": "mlx"}), encoding="utf-8")
    found = recipe("run", str(project / "lost.json"), "--runs", str(tmp_path), "--target", "cpu")
    assert found.exit_code == 4, found.output
    assert re.search(r"error\[E503\]: [-\d.]+%.* of what was tuned is left in 4 bits", found.output), found.output
    assert "in bf16" in found.output, "merging says what other precisions leave of it"
    assert not (tmp_path / "lost" / "mlx").exists()
    assert (tmp_path / "lost" / "model" / "model.safetensors").exists(), "the tuned model is kept"


def test_a_model_that_was_drawn_anew_is_measured_against_what_was_drawn(mlx_folders: Path, tmp_path: Path) -> None:
    """The folder that names the architecture has no weights to compare with."""
    project = tmp_path / "project"
    shutil.copytree(mlx_folders.parents[1], project, ignore=shutil.ignore_patterns("runs", "*.safetensors"))
    value = json.loads((project / "recipe.json").read_text(encoding="utf-8"))
    export = [{"format": "mlx", "precision": "bf16"}]
    (project / "recipe.json").write_text(json.dumps({**value, "method": "scratch", "export": export}), encoding="utf-8")
    found = recipe("run", str(project / "recipe.json"), "--runs", str(tmp_path / "runs"), "--target", "cpu")
    assert found.exit_code == 0, found.output
    left = report(tmp_path / "runs" / "tiny")["exports"]["export"]["survives"]
    assert left["share"] == pytest.approx(1.0, abs=0.05)


def test_check_shows_a_row_with_what_is_learnt_marked(chat: Path) -> None:
    project = chat.parents[1]
    found = recipe("check", str(project / "recipe.json"), "--show-example")
    assert found.exit_code == 0, found.output
    shown = found.stdout.splitlines()[-1]
    assert re.search(r"⟦ ?very [np] \[SEP\]⟧$", shown), shown
    refused = recipe("check", str(project / "recipe.json"), "--show-example", "--no-facts")
    assert refused.exit_code == 2


def test_the_saved_folders_carry_the_template_that_was_trained_with(chat: Path) -> None:
    for folder in (chat / "model", chat / "bundle"):
        assert "eos_token" in (folder / "chat_template.jinja").read_text(encoding="utf-8")


def test_other_programs_are_told_the_end_of_an_answer(chat: Path) -> None:
    """The template ends an answer with a token that the base's configuration does not name."""
    for name in ("config.json", "generation_config.json"):
        assert json.loads((chat / "model" / name).read_text())["eos_token_id"] == 2
        assert json.loads((chat / "bundle" / name).read_text())["eos_token_id"] == [2, 3]
    [edge] = verify_bundle(chat / "bundle").edges
    assert [check.passed for check in edge.checks if check.name == "settings"] == [True]
