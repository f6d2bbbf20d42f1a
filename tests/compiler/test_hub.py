"""Models and datasets are found in the order path, mirror, cache, hub; what fails says which and why.

The hub is a small server on this machine that speaks the endpoints which huggingface_hub asks.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from safetensors.numpy import save

from compiler.data.hub_files import AmbiguousSplitError, split_files
from compiler.diagnostics import RecipeError
from compiler.facts import LocalFacts, ModelFacts
from compiler.hub import SourceError, Sources, fetch_model, fetch_rows, open_dataset, open_model
from compiler.loading import load
from compiler.model_facts import model_facts
from compiler.plan import File, ModelFiles, SplitRows
from compiler.validate import validate

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 4, "vocab_size": 9, "max_position_embeddings": 8}
WEIGHTS = save({"encoder.layer.0.output.dense.weight": np.zeros((4, 8), np.float32)})
MODEL = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": WEIGHTS, "tokenizer.json": b"{}"}
ROWS = b'{"text": "a film", "label": "pos"}\n{"text": "no film", "label": "neg"}\n'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Hub:
    """What the hub has, by "models/org/name" or "datasets/org/name"; what it refuses; what it was asked."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    broken: bool = False
    asked: list[tuple[str, str, int]] = field(default_factory=list)  # (method, path, bytes sent)
    url: str = ""

    def bytes_of(self, name: str) -> int:
        return sum(sent for _, path, sent in self.asked if path.endswith(name))


class Handler(BaseHTTPRequestHandler):
    """The endpoints: repository info, file tree, files with ranges."""

    hub: Hub

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.broken:
            return self.send(503, b"", {}, with_body)
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            kind, repo, what, revision = found.groups()
            return self.describe(f"{kind}/{repo}", what, revision, with_body)
        found = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        assert found is not None, path
        repo = f"{'datasets' if found[1] else 'models'}/{found[2]}"
        return self.file(repo, found[3], found[4], with_body)

    def refuse(self, repo: str, revision: str | None, with_body: bool, *, files: bool) -> bool:
        if repo not in self.hub.repos:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
        elif revision not in (None, "main", COMMIT):
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
        elif files and repo in self.hub.gated:
            self.send(403, b"{}", {"X-Error-Code": "GatedRepo"}, with_body)
        else:
            return False
        return True

    def describe(self, repo: str, what: str | None, revision: str | None, with_body: bool) -> None:
        if self.refuse(repo, revision, with_body, files=False):
            return
        files = self.hub.repos[repo]
        if what == "tree":
            body: Any = [self.entry(name, content, "path", "oid") for name, content in files.items()]
        else:
            siblings = [self.entry(name, content, "rfilename", "blobId") for name, content in files.items()]
            body = {"id": repo.partition("/")[2], "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            body |= {"downloads": 0, "likes": 0, "gated": repo in self.hub.gated, "disabled": False}
        self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"}, with_body)

    def entry(self, name: str, content: bytes, name_key: str, id_key: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", name_key: name, "size": len(content), id_key: sha256(content)[:40]}
        if name.endswith((".safetensors", ".parquet")):
            lfs_key = "oid" if name_key == "path" else "sha256"
            entry["lfs"] = {lfs_key: sha256(content), "size": len(content), "pointerSize": 130}
        return entry

    def file(self, repo: str, revision: str, name: str, with_body: bool) -> None:
        if self.refuse(repo, revision, with_body, files=True):
            return
        content = self.hub.repos[repo].get(name)
        if content is None:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
            return
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(content)[:40]}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self.send(200, content, headers, with_body)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.send(206, content[start : end + 1], headers, with_body)

    def send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.hub.asked.append((self.command, urlsplit(self.path).path, len(body) if with_body else 0))
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def sources(hub, tmp_path):
    return Sources(endpoint=hub.url, hub_cache=tmp_path / "hub", mirror=tmp_path / "mirror", cache=tmp_path / "hashes")


def offline(sources: Sources) -> Sources:
    return Sources(mirror=sources.mirror, hub_cache=sources.hub_cache, cache=sources.cache, offline=True)


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def facts_of(sources: Sources, folder: Path, *, revision: str | None = None, model_id: str = "org/name") -> ModelFacts:
    return model_facts(open_model(model_id, revision, folder, sources))


def failure(sources: Sources, folder: Path, **changes: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        facts_of(sources, folder, **changes)
    return caught.value


# --- models ---------------------------------------------------------------------------------------


def test_a_model_of_the_hub_is_described_without_its_weights(hub, sources, tmp_path):
    padding = save({"encoder.layer.0.output.dense.weight": np.zeros((400, 800), np.float32)})
    hub.repos["models/org/name"] = {**MODEL, "model.safetensors": padding}
    model = facts_of(sources, tmp_path)
    assert (model.revision, model.num_parameters) == (COMMIT, 320_000)
    assert model.linear_modules == ("encoder.layer.0.output.dense",)
    assert model.files["model.safetensors"] == sha256(padding)
    assert model.files["config.json"] == sha256(MODEL["config.json"])
    assert hub.bytes_of("model.safetensors") < len(padding) / 10


def test_a_sharded_model_of_the_hub_is_described_too(hub, sources, tmp_path):
    shards = {f"model-0000{n}-of-00002.safetensors": save({f"layer.{n}.weight": np.zeros((2, n))}) for n in (1, 2)}
    places = {f"layer.{n}.weight": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    index = json.dumps({"weight_map": places}).encode()
    files = {"config.json": MODEL["config.json"], "model.safetensors.index.json": index, **shards}
    hub.repos["models/org/name"] = files
    model = facts_of(sources, tmp_path)
    assert (model.num_parameters, model.has_tokenizer) == (6, False)
    assert sorted(model.files) == sorted(files)


def test_a_path_goes_before_the_mirror_and_the_mirror_before_the_hub(hub, sources, tmp_path):
    hub.repos["models/org/name"] = MODEL
    put(tmp_path / "mirror" / "org" / "name", MODEL)
    assert open_model("org/name", None, tmp_path, sources).source.kind == "mirror"
    put(tmp_path / "org" / "name", MODEL)
    assert open_model("org/name", None, tmp_path, sources).source.kind == "path"
    assert hub.asked == []


def test_what_was_fetched_is_taken_from_the_cache_without_a_network(hub, sources, tmp_path):
    hub.repos["models/org/name"] = MODEL
    model = facts_of(sources, tmp_path)
    files = ModelFiles(id="org/name", revision=model.revision, files=model.files)
    folder = fetch_model(files, tmp_path, sources)
    assert {name: (folder / name).read_bytes() for name in files.files} == MODEL
    hub.asked.clear()
    for revision in (None, "main", COMMIT):
        cached = open_model("org/name", revision, tmp_path, offline(sources))
        assert (cached.source.kind, model_facts(cached)) == ("cache", model)
    assert fetch_model(files, tmp_path, offline(sources)) == folder
    assert hub.asked == []


def test_facts_of_the_hub_and_of_the_cache_are_equal(hub, sources, tmp_path):
    hub.repos["models/org/name"] = MODEL
    on_hub = facts_of(sources, tmp_path)
    fetch_model(ModelFiles(id="org/name", revision=COMMIT, files=on_hub.files), tmp_path, sources)
    assert facts_of(sources, tmp_path, revision=COMMIT) == on_hub


def test_a_cache_without_the_weights_is_not_enough(hub, sources, tmp_path):
    hub.repos["models/org/name"] = MODEL
    facts_of(sources, tmp_path)  # brings config.json into the cache
    assert open_model("org/name", COMMIT, tmp_path, sources).source.kind == "hub"
    assert failure(offline(sources), tmp_path, revision=COMMIT).code == "R403"


def test_a_revision_can_not_lead_out_of_the_cache(sources, tmp_path):
    put(tmp_path / "elsewhere", MODEL)
    (tmp_path / "hub" / "models--org--name" / "snapshots").mkdir(parents=True)
    assert failure(offline(sources), tmp_path, revision="../../../elsewhere").code == "R403"


def test_a_gated_model_says_where_to_ask(hub, sources, tmp_path):
    hub.repos["models/org/name"] = MODEL
    hub.gated.add("models/org/name")
    error = failure(sources, tmp_path)
    assert (error.code, "https://huggingface.co/org/name" in error.hint) == ("R401", True)


def test_a_missing_model_names_the_nearest_in_the_mirror(hub, sources, tmp_path):
    put(tmp_path / "mirror" / "org" / "nama", MODEL)
    error = failure(sources, tmp_path)
    assert (error.code, error.hint) == ("R402", 'did you mean "org/nama", which the mirror has?')


def test_a_missing_revision_is_named(hub, sources, tmp_path):
    hub.repos["models/org/name"] = MODEL
    error = failure(sources, tmp_path, revision="v9")
    assert (error.code, '"v9"' in error.message) == ("R402", True)


def test_a_hub_that_is_down_is_not_a_missing_model(hub, sources, tmp_path):
    hub.broken = True
    error = failure(sources, tmp_path)
    assert (error.code, "503" in error.message) == ("R403", True)


def test_no_network_says_so_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    error = failure(Sources(endpoint=endpoint, hub_cache=tmp_path), tmp_path)
    assert (error.code, "RECIPE_MIRROR" in error.hint) == ("R403", True)


@pytest.mark.parametrize("model_id", ["a/b/c", "org/na me", "", "org/../x", "-x/y", "org/x--y"])
def test_what_is_neither_a_path_nor_an_id_is_named(sources, tmp_path, model_id):
    assert failure(sources, tmp_path, model_id=model_id or " ").code == "R402"


def test_a_folder_without_a_model_is_not_taken_for_a_hub_id(sources, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(SourceError) as caught:
        open_model("mine", None, tmp_path, replace(sources, offline=True))
    assert caught.value.code == "R402"
    assert "has no config.json" in caught.value.message


def test_a_missing_folder_names_the_nearest_beside_it(sources, tmp_path):
    put(tmp_path / "models" / "mine", MODEL)
    error = failure(sources, tmp_path, model_id="./models/mein")
    assert (error.code, error.hint) == ("R402", 'did you mean "mine"?')


def test_pickled_weights_of_the_hub_are_refused_without_a_download(hub, sources, tmp_path):
    hub.repos["models/org/name"] = {"config.json": MODEL["config.json"], "pytorch_model.bin": b"x"}
    assert failure(sources, tmp_path).code == "R404"
    assert hub.bytes_of("pytorch_model.bin") == 0


def test_code_of_its_own_is_refused(hub, sources, tmp_path):
    config = {**CONFIG, "model_type": "own", "auto_map": {"AutoModel": "own.Model"}}
    hub.repos["models/org/name"] = {**MODEL, "config.json": json.dumps(config).encode()}
    assert failure(sources, tmp_path).code == "R405"


def test_a_file_that_changed_since_the_plan_is_refused(sources, tmp_path):
    put(tmp_path / "mirror" / "org" / "name", MODEL)
    files = {**facts_of(sources, tmp_path).files, "config.json": sha256(b"other")}
    with pytest.raises(SourceError, match=r"config\.json of the model org/name has changed") as caught:
        fetch_model(ModelFiles(id="org/name", revision=None, files=files), tmp_path, sources)
    assert caught.value.code == "R409"


# --- datasets -------------------------------------------------------------------------------------


def test_a_split_of_a_hub_dataset_is_fetched_and_counted(hub, sources, tmp_path, monkeypatch):
    hub.repos["models/org/name"] = {**MODEL}
    hub.repos["datasets/org/rows"] = {"train.jsonl": ROWS * 10, "test.jsonl": ROWS, "README.md": b""}
    dataset = {"id": "org/rows", "train": {"name": "train"}, "validation": None, "test": {"name": "test"}}
    value = {"recipe": 1, "name": "r", "task": "text-classification", "model": "org/name", "dataset": dataset}
    (tmp_path / "recipe.json").write_text(json.dumps(value))
    monkeypatch.chdir(tmp_path)
    source = LocalFacts(endpoint=hub.url, hub_cache=sources.hub_cache)
    data = source.data(validate(load(tmp_path / "recipe.json")), None)
    train, test = data.split_rows
    assert (train.num_rows, test.num_rows, test.dataset, test.revision) == (20, 2, "org/rows", COMMIT)
    assert test.files == (File(path="test.jsonl", format="jsonl", sha256=sha256(ROWS)),)
    [path] = fetch_rows(test, tmp_path, source.sources)
    assert path.read_bytes() == ROWS


def test_a_missing_split_names_the_nearest(hub, sources, tmp_path, monkeypatch):
    put(tmp_path / "mirror" / "datasets" / "org" / "rows", {"train.jsonl": ROWS, "test.jsonl": ROWS})
    dataset = {"id": "org/rows", "train": {"name": "train"}, "test": {"name": "tests"}}
    value = {"recipe": 1, "name": "r", "task": "text-classification", "model": "org/name", "dataset": dataset}
    (tmp_path / "recipe.json").write_text(json.dumps(value))
    monkeypatch.chdir(tmp_path)
    source = LocalFacts(mirror=sources.mirror, hub_cache=sources.hub_cache, offline=True)
    with pytest.raises(RecipeError) as caught:
        source.data(validate(load(tmp_path / "recipe.json")), None)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer, found.hint) == ("R315", "/dataset/test/name", 'did you mean "test"?')


def test_a_dataset_is_taken_from_the_mirror_and_without_a_network_from_the_cache(hub, sources, tmp_path):
    hub.repos["datasets/org/rows"] = {"train.jsonl": ROWS}
    open_dataset("org/rows", None, sources).fetch(["train.jsonl"])
    hub.broken = True
    assert open_dataset("org/rows", None, sources).source.kind == "cache"
    put(tmp_path / "mirror" / "datasets" / "org" / "rows", {"train.jsonl": ROWS})
    assert open_dataset("org/rows", None, sources).source.kind == "mirror"


def test_gated_and_missing_datasets_are_told_apart(hub, sources):
    hub.repos["datasets/org/rows"] = {"train.jsonl": ROWS}
    hub.gated.add("datasets/org/rows")
    with pytest.raises(SourceError) as gated:
        open_dataset("org/rows", None, sources).local("train.jsonl")
    with pytest.raises(SourceError) as missing:
        open_dataset("org/none", None, sources)
    assert (gated.value.code, missing.value.code) == ("R401", "R402")


def test_rows_that_changed_since_the_plan_are_refused(sources, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    file = File(path="rows.jsonl", format="jsonl", sha256=sha256(b"other"))
    split = SplitRows(
        split="train",
        files=(file,),
        dataset=None,
        revision=None,
        fraction=0,
        stratify=False,
        seed=0,
        rows=0,
        num_rows=2,
    )
    with pytest.raises(SourceError) as caught:
        fetch_rows(split, tmp_path, sources)
    assert caught.value.code == "R409"


@pytest.mark.parametrize(
    ("names", "split", "found"),
    [
        (["train.jsonl", "test.jsonl", "README.md"], "train", ["train.jsonl"]),
        (
            [
                "data/train-00001-of-00002.parquet",
                "data/train-00000-of-00002.parquet",
                "data/test-00000-of-00001.parquet",
            ],
            "train",
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ),
        (
            ["data/train/a.csv", "data/train/b.csv", "data/test/a.csv"],
            "train",
            ["data/train/a.csv", "data/train/b.csv"],
        ),
        (["dev.tsv", "train.tsv"], "validation", ["dev.tsv"]),
        (["my_train_rows.csv", "training.csv"], "train", ["my_train_rows.csv", "training.csv"]),
        (["train.csv", "train.parquet"], "train", ["train.parquet"]),
        (["constrained.csv"], "train", []),
        (["german.jsonl", "french.jsonl"], "french", ["french.jsonl"]),
        ([".cache/train.jsonl", "train/dataset_info.json"], "train", []),
    ],
)
def test_the_files_of_a_split_are_told_by_their_names(names, split, found):
    assert list(split_files(names, split)) == found


def test_a_split_in_two_configurations_is_ambiguous():
    with pytest.raises(AmbiguousSplitError, match="de, fr"):
        split_files(["de/train.jsonl", "fr/train.jsonl"], "train")


def test_a_missing_part_is_not_passed_over():
    with pytest.raises(ValueError, match="1 of its 2 parts"):
        split_files(["train-00000-of-00002.parquet"], "train")
