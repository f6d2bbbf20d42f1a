"""Where pretrained models and hub datasets come from: a path, a mirror folder, the hub's local cache, the hub."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from compiler.data.readers import sha256_of_rows
from compiler.diagnostics import did_you_mean, nearest
from compiler.files import is_file, is_folder
from compiler.hashes import sha256_of
from compiler.images import PROCESSOR
from compiler.weights import ADAPTER, ADAPTER_CONFIG, INDEX, SINGLE, Tensor, read_header, shards

if TYPE_CHECKING:
    from compiler.plan import File, ModelFiles, SplitRows

Kind = Literal["model", "dataset"]
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT = 10.0  # seconds until the hub counts as unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where to look: a mirror folder (org/name in it, datasets/org/name), the hub's cache, the hub.

    `cache` remembers hashes of files and lengths of rows. `hub_cache` and `endpoint` are the hub library's own unless
    they are given.
    """

    mirror: Path | None = None
    cache: Path | None = None
    offline: bool = False
    endpoint: str | None = None
    hub_cache: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model or dataset was found. On the hub it has no folder yet; there and in the cache it has a commit."""

    kind: Literal["path", "mirror", "cache", "hub"]
    id: str
    folder: Path | None
    revision: str | None


class SourceError(Exception):
    """A model or dataset can't be had: a code that `recipe explain` knows, what happened, and what to do."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class Files(Protocol):
    """The files of a model or dataset, wherever they are. Names are posix paths."""

    source: Source
    names: tuple[str, ...]

    def local(self, name: str) -> Path:
        """The file on this machine; downloaded when it was not."""

    def sha256(self, name: str) -> str:
        """The hash of a file; a large file of the hub is not downloaded for it."""

    def header(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file, of which only the header is read."""

    def fetch(self, names: Sequence[str]) -> Path:
        """The folder on this machine that has these files in it."""


def is_path(model_id: str) -> bool:
    """Whether an id is written as a path: ./, ../ or / in front."""
    return model_id in (".", "..") or model_id.startswith(("./", "../", "/")) or Path(model_id).is_absolute()


def open_model(model_id: str, revision: str | None, folder: Path, sources: Sources) -> Files:
    """The files of a model. `folder` is where paths start from. Raises SourceError."""
    here = folder / model_id
    if is_file(here / "config.json"):
        return FolderFiles(Source(kind="path", id=model_id, folder=here, revision=None), sources)
    if is_path(model_id):
        raise _no_model_folder(model_id, here)
    _check_id(model_id, "model", sources)
    if sources.mirror is not None and is_file(sources.mirror / model_id / "config.json"):
        mirrored = Source(kind="mirror", id=model_id, folder=sources.mirror / model_id, revision=None)
        return FolderFiles(mirrored, sources)
    cached = _cached(model_id, revision, "model", sources)
    if cached is not None and _is_complete(cached.folder, need_inputs=not sources.offline):
        return FolderFiles(cached, sources)
    try:
        return HubFiles(model_id, revision, "model", sources)
    except SourceError:
        if is_folder(here):  # a folder of that name is what was meant
            raise _no_model_folder(model_id, here) from None
        raise


def open_adapter(path: str, folder: Path, sources: Sources) -> FolderFiles:
    """The files of a PEFT adapter: a folder, its path starting from `folder`. Raises SourceError."""
    here = folder / path
    if not is_file(here / ADAPTER_CONFIG) or not is_file(here / ADAPTER):
        message = f'there is no adapter in "{path}": a folder with {ADAPTER_CONFIG} and {ADAPTER}'
        raise SourceError("R232", message, "name the folder adapter/ of a run, or another that PEFT saved")
    return FolderFiles(Source(kind="path", id=path, folder=here, revision=None), sources)


def open_dataset(dataset_id: str, revision: str | None, sources: Sources) -> Files:
    """The files of a hub dataset. Its cache may have a part of them, so the hub is asked first. Raises SourceError."""
    _check_id(dataset_id, "dataset", sources)
    mirror = sources.mirror / "datasets" / dataset_id if sources.mirror is not None else None
    if mirror is not None and is_folder(mirror):
        return FolderFiles(Source(kind="mirror", id=dataset_id, folder=mirror, revision=None), sources, deep=True)
    try:
        return HubFiles(dataset_id, revision, "dataset", sources)
    except SourceError as error:
        cached = _cached(dataset_id, revision, "dataset", sources)
        if error.code != "R403" or cached is None:
            raise
        return FolderFiles(cached, sources, deep=True)


def fetch_model(model: ModelFiles, folder: Path, sources: Sources) -> Path:
    """The folder that has the model's files, each with the hash that the plan names. Raises SourceError.

    `folder` is the recipe's, where a path as id starts from.
    """
    files = open_model(model.id, model.revision, folder, sources)
    names = sorted(model.files)
    found = files.fetch(names)
    for name in names:
        _check_hash(found / name, model.files[name], f"{name} of the model {model.id}", sources)
    return found


def fetch_adapter(adapter: ModelFiles, folder: Path, sources: Sources) -> Path:
    """The folder of an adapter whose files have the hashes that the plan names. Raises SourceError."""
    found = open_adapter(adapter.id, folder, sources).folder
    for name, digest in adapter.files.items():
        _check_hash(found / name, digest, f"{name} of the adapter {adapter.id}", sources)
    return found


def fetch_rows(split: SplitRows, folder: Path, sources: Sources) -> tuple[Path, ...]:
    """The data files of a split in order, each with the hash that the plan names. Raises SourceError."""
    root = folder
    if split.dataset is not None:
        files = open_dataset(split.dataset, split.revision, sources)
        root = files.fetch([file.path for file in split.files])
    paths = tuple(root / file.path for file in split.files)
    if split.dataset is None:
        _check_here(paths, split.files, folder)
    for path, file in zip(paths, split.files, strict=True):
        _check_rows(path, file, sources)
    return paths


def _check_here(paths: Sequence[Path], files: Sequence[File], folder: Path) -> None:
    """Raises SourceError for the first path where there is nothing."""
    for path, file in zip(paths, files, strict=True):
        if not (is_folder(path) if file.format == "folder" else is_file(path)):
            kind = "folder" if file.format == "folder" else "file"
            message = f'there is no {kind} "{file.path}" in the folder {folder.absolute()}'
            hint = "a plan's paths start from its own folder, or the one that --root names"
            raise SourceError("R301", message, hint)


def _check_hash(path: Path, expected: str, what: str, sources: Sources) -> None:
    if not path.is_file():
        raise SourceError("R402", f"{what} is missing: {path}", "put it back, or compile the recipe again")
    if sha256_of(path, sources.cache) != expected:
        raise changed(what)


def _check_rows(path: Path, file: File, sources: Sources) -> None:
    if file.format != "folder":
        _check_hash(path, file.sha256, f"the data file {file.path}", sources)
    elif sha256_of_rows(path, file.format, sources.cache) != file.sha256:
        raise changed(f"the folder {file.path}")


def changed(what: str) -> SourceError:
    """The error about data or a model that is not what was planned."""
    hint = "compile the recipe again: what was planned is not what is there now"
    return SourceError("R409", f"{what} has changed since the plan was made", hint)


class FolderFiles:
    """Files in a folder of this machine; `deep`: in the folders below it too."""

    def __init__(self, source: Source, sources: Sources, *, deep: bool = False) -> None:
        assert source.folder is not None
        self.source = source
        self.folder = source.folder
        self.names = tuple(sorted(_names(source.folder, deep=deep)))
        self._cache = sources.cache

    def local(self, name: str) -> Path:
        """The file."""
        return self.folder / name

    def sha256(self, name: str) -> str:
        """The hash, remembered while the file stays as it is."""
        return sha256_of(self.folder / name, self._cache)

    def header(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file. Raises ValueError when it is not one."""
        return read_header(self.folder / name)

    def fetch(self, names: Sequence[str]) -> Path:
        """The folder: everything is there."""
        return self.folder


def _names(folder: Path, *, deep: bool) -> Iterator[str]:
    for path in folder.rglob("*") if deep else folder.iterdir():
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix()


class HubFiles:
    """Files on the hub at one commit; small ones are downloaded into the hub's cache when they are read."""

    def __init__(self, repo_id: str, revision: str | None, kind: Kind, sources: Sources) -> None:
        if sources.offline:
            raise _unreachable(repo_id, kind, sources, "this run is offline, and it is not in the cache")
        self._kind = kind
        self._sources = sources
        self._named = revision or "main"
        with _hub_errors(repo_id, revision, kind, sources):
            from huggingface_hub import HfApi

            self._api = HfApi(endpoint=sources.endpoint, library_name="recipec")
            ask = self._api.model_info if kind == "model" else self._api.dataset_info
            info: Any = ask(repo_id, revision=revision, files_metadata=True, timeout=_TIMEOUT)
        self.source = Source(kind="hub", id=repo_id, folder=None, revision=info.sha)
        self._lfs = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or ()}
        self.names = tuple(sorted(self._lfs))

    def local(self, name: str) -> Path:
        """The file, downloaded into the hub's cache."""
        with _silent():
            return self._at_commit(self._file, name) / name

    def sha256(self, name: str) -> str:
        """The hash that the hub keeps of a large file, or that of a small file, downloaded."""
        return self._lfs[name] or sha256_of(self.local(name), self._sources.cache)

    def header(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file, by a request for its first bytes. Raises ValueError when it is not one."""
        from huggingface_hub.errors import SafetensorsParsingError

        with _hub_errors(self.source.id, self.source.revision, self._kind, self._sources):
            try:
                found = self._api.parse_safetensors_file_metadata(
                    self.source.id, name, revision=self.source.revision, timeout=_TIMEOUT
                )
            except SafetensorsParsingError as error:
                raise ValueError(str(error)) from None
        return {key: Tensor(str(info.dtype), tuple(info.shape)) for key, info in found.tensors.items()}

    def fetch(self, names: Sequence[str]) -> Path:
        """The folder of the hub's cache, after these files were downloaded into it."""
        return self._at_commit(self._snapshot, names)

    def _at_commit(self, download: Callable[[Any, str], str], what: Any) -> Path:
        """The snapshot folder after a download by the name of the revision, so that the cache knows it offline."""
        commit = self.source.revision or self._named
        with _hub_errors(self.source.id, self._named, self._kind, self._sources):
            path = Path(download(what, self._named))
            if commit not in path.parts:  # the name has moved on since it was looked up
                path = Path(download(what, commit))
        return Path(*path.parts[: path.parts.index(commit) + 1])

    def _file(self, name: str, revision: str) -> str:
        path: str = self._api.hf_hub_download(
            self.source.id, name, repo_type=self._kind, revision=revision, cache_dir=self._sources.hub_cache
        )
        return path

    def _snapshot(self, names: Sequence[str], revision: str) -> str:
        path: str = self._api.snapshot_download(
            self.source.id,
            repo_type=self._kind,
            revision=revision,
            allow_patterns=[_literally(name) for name in names],
            cache_dir=self._sources.hub_cache,
        )
        return path


def _literally(name: str) -> str:
    """A name as an fnmatch pattern that fits it alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _cached(repo_id: str, revision: str | None, kind: Kind, sources: Sources) -> Source | None:
    """The snapshot in the hub's cache, which may have only a part of the files."""
    base = sources.hub_cache
    if base is None:
        from huggingface_hub import constants

        base = Path(constants.HF_HUB_CACHE)
    storage = base / "--".join([f"{kind}s", *repo_id.split("/")])
    reference = storage / "refs" / (revision or "main")
    if ".." in reference.parts:
        return None
    commit = reference.read_text(encoding="utf-8").strip() if is_file(reference) else revision
    if commit is None or not _COMMIT.fullmatch(commit) or not (storage / "snapshots" / commit).is_dir():
        return None
    return Source(kind="cache", id=repo_id, folder=storage / "snapshots" / commit, revision=commit)


def _is_complete(folder: Path | None, *, need_inputs: bool) -> bool:
    """Whether a cached snapshot has what facts are read from.

    Without its tokenizer or image processor the hub is asked, if it can be.
    """
    if folder is None or not (folder / "config.json").is_file():
        return False
    if need_inputs and not any((folder / name).is_file() for name in ("tokenizer.json", PROCESSOR)):
        return False
    if (folder / SINGLE).is_file():
        return True
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return all((folder / name).is_file() for name in shards(json.loads((folder / INDEX).read_bytes())))
    return False


def _mirrored(kind: Kind, sources: Sources) -> list[str]:
    """The ids in the mirror folder."""
    if sources.mirror is None:
        return []
    root = sources.mirror if kind == "model" else sources.mirror / "datasets"
    folders = [path for path in root.glob("*/*") if path.is_dir()]
    if kind == "model":
        folders = [path for path in folders if (path / "config.json").is_file()]
    return sorted(path.relative_to(root).as_posix() for path in folders)


def _hint(repo_id: str, kind: Kind, sources: Sources, otherwise: str) -> str:
    """The nearest id in the mirror, or else what to do."""
    mirrored = _mirrored(kind, sources)
    by_name = {name.rpartition("/")[2]: name for name in mirrored}
    alike = nearest(repo_id.rpartition("/")[2], by_name)
    best = nearest(repo_id, mirrored) or (by_name[alike] if alike else None)
    return f'did you mean "{best}", which the mirror has?' if best and best != repo_id else otherwise


def _no_model_folder(model_id: str, here: Path) -> SourceError:
    if is_folder(here):
        hint = "a model folder is what save_pretrained writes"
        return SourceError("R402", f'the folder "{model_id}" has no config.json', hint)
    beside = [path.name for path in here.parent.iterdir() if path.is_dir()] if is_folder(here.parent) else []
    hint = did_you_mean(here.name, beside, noun="folders there") if beside else "paths start from the recipe's folder"
    return SourceError("R402", f'there is no folder "{model_id}"', hint)


def _check_id(repo_id: str, kind: Kind, sources: Sources) -> None:
    if not _HUB_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
        hint = _hint(repo_id, kind, sources, "an id is org/name; a path starts with ./")
        raise SourceError("R402", f'"{repo_id}" is neither a folder nor the id of a {kind}', hint)


def _unreachable(repo_id: str, kind: Kind, sources: Sources, reason: str) -> SourceError:
    where = f"{sources.mirror}/{'datasets/' if kind == 'dataset' else ''}{repo_id}" if sources.mirror else None
    otherwise = (
        f"put it into the mirror as {where}" if where else "connect, or set RECIPE_MIRROR to a folder that has it"
    )
    return SourceError(
        "R403", f"the {kind} {repo_id} can't be looked up: {reason}", _hint(repo_id, kind, sources, otherwise)
    )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No progress bars: the files are small."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextlib.contextmanager
def _hub_errors(repo_id: str, revision: str | None, kind: Kind, sources: Sources) -> Iterator[None]:
    """The hub library's errors as a SourceError."""
    from huggingface_hub import errors

    # The base of the HTTP library's errors, which is another library in other releases of the hub's.
    http_error: type[Exception] = vars(errors)["HTTPError"]
    try:
        yield
    except (http_error, errors.EntryNotFoundError, errors.HFValidationError, OSError) as error:
        raise _translated(error, repo_id, revision, kind, sources) from error


def _translated(error: Exception, repo_id: str, revision: str | None, kind: Kind, sources: Sources) -> SourceError:
    from huggingface_hub import errors

    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    match error:
        case errors.LocalEntryNotFoundError():
            return _unreachable(repo_id, kind, sources, "a file of it could not be downloaded")
        case errors.GatedRepoError():
            return SourceError("R401", f"the {kind} {repo_id} is gated", f"ask for access at {page}, then {log_in}")
        case errors.RevisionNotFoundError():
            return SourceError("R402", f'the {kind} {repo_id} has no revision "{revision}"', f"see {page}/tree/main")
        case errors.RepositoryNotFoundError() | errors.HFValidationError():
            hint = _hint(repo_id, kind, sources, f"check the spelling; for a private one {log_in}")
            return SourceError("R402", f"the hub has no {kind} {repo_id}, or it is private", hint)
        case errors.EntryNotFoundError():
            return SourceError("R402", f"a file of the {kind} {repo_id} is missing", f"see {page}/tree/main")
        case errors.HfHubHTTPError(response=response) if response.status_code in (401, 403):
            return SourceError("R401", f"the hub refuses access to the {kind} {repo_id}", log_in)
        case errors.HfHubHTTPError(response=response):
            return _unreachable(repo_id, kind, sources, f"the hub answers {response.status_code}")
        case _:
            return _unreachable(repo_id, kind, sources, "no network, or the hub does not answer")
