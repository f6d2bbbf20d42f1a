"""Which files of a hub dataset belong to a split, by their names as the hub writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from compiler.data.readers import SUFFIXES, format_of

# Words that stand for a split in file names: huggingface.co/docs/hub/datasets-file-names-and-splits
_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_PART = re.compile(r"-(\d{5})-of-(\d{5})")
_NOT_DATA = frozenset({"dataset_infos.json", "dataset_dict.json", "state.json", "dataset_info.json"})


class AmbiguousSplitError(ValueError):
    """A split stands in several folders, which are configurations of the dataset."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        super().__init__(f"it stands in several configurations: {', '.join(folders)}")
        self.folders = folders


def split_files(names: Iterable[str], split: str) -> tuple[str, ...]:
    """The data files of a split, sorted; none when no file name has the split's word.

    Where one split is there in several formats, the first of parquet, jsonl, json, csv, tsv counts. Raises
    AmbiguousSplitError when several folders have it, and ValueError when a numbered part is missing.
    """
    found = sorted(name for name in names if _is_data(name) and _has_word(name, _ALIASES.get(split, (split,))))
    for form in ("parquet", *SUFFIXES.values()):
        same = tuple(name for name in found if format_of(name) == form)
        if same:
            _check_one_folder(same, split)
            _check_parts(same)
            return same
    return ()


def splits_of(names: Iterable[str]) -> tuple[str, ...]:
    """The splits that the file names speak of; file names without folder and suffix where they speak of none."""
    data = [name for name in names if _is_data(name)]
    known = [split for split, words in _ALIASES.items() if any(_has_word(name, words) for name in data)]
    return tuple(known) or tuple(sorted({_PART.sub("", PurePosixPath(name).stem) for name in data}))


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return format_of(name) is not None and not hidden and path.name not in _NOT_DATA


def _has_word(name: str, words: tuple[str, ...]) -> bool:
    """Whether a word stands in the path between delimiters."""
    path = name[: -len(PurePosixPath(name).suffix)]
    return any(re.search(rf"(^|[/_.\-\s]){re.escape(word)}($|[/_.\-\s])", path) for word in words)


def _check_one_folder(names: tuple[str, ...], split: str) -> None:
    words = _ALIASES.get(split, (split,))
    folders = {
        str(path.parent.parent if path.parent.name in words else path.parent) for path in map(PurePosixPath, names)
    }
    if len(folders) > 1:
        raise AmbiguousSplitError(tuple(sorted(folders)))


def _check_parts(names: tuple[str, ...]) -> None:
    parts = [(int(found[1]), int(found[2])) for name in names if (found := _PART.search(name))]
    if parts and {number for number, _ in parts} != set(range(parts[0][1])):
        raise ValueError(f"{len(parts)} of its {parts[0][1]} parts are there")
