"""Faults of what stands beside a bundle's graph: each takes the bundle's folder and changes its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Edit = Callable[[Any], Any]
"""The new value of a JSON file, from the old one."""


def edit_json(folder: Path, name: str, edit: Edit) -> None:
    """Writes a JSON file anew."""
    value = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(edit(value), ensure_ascii=False), encoding="utf-8")


def set_in(*names: str, to: Callable[[Any], Any]) -> Edit:
    """An edit of the value at a path of names. Raises LookupError where it is not there."""

    def edit(value: Any) -> Any:
        place = value
        for name in names[:-1]:
            place = _known(place, name)[name]
        last = names[-1]
        place[last] = to(_known(place, last)[last])
        return value

    return edit


def _known(place: Any, name: str) -> dict[str, Any]:
    """A JSON object that has a name. Raises LookupError for another, and for what is no object."""
    if not isinstance(place, dict) or name not in place:
        raise LookupError(f"there is no {name}")
    return place


# --- labels


def reverse_labels(folder: Path) -> None:
    """The names of the labels from last to first, in every file that has them."""

    def reverse(value: Any) -> Any:
        return value[::-1] if isinstance(value, list) else {**value, "labels": value["labels"][::-1]}

    edit_json(folder, "labels.json", reverse)
    names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    names = names if isinstance(names, list) else names["labels"]
    numbered = {
        "id2label": {str(n): name for n, name in enumerate(names)},
        "label2id": {m: n for n, m in enumerate(names)},
    }
    edit_json(folder, "config.json", lambda config: {**config, **numbered})


def lose_thresholds(folder: Path) -> None:
    """Every label is given from a half on."""
    edit_json(folder, "labels.json", set_in("thresholds", to=lambda old: [0.5] * len(old)))


# --- tokenizers


def keep_case(folder: Path) -> None:
    """Upper case is not made lower case."""
    edit_json(folder, "tokenizer.json", set_in("normalizer", "lowercase", to=lambda _: False))


def keep_accents(folder: Path) -> None:
    """Accents are not taken off."""
    edit_json(folder, "tokenizer.json", set_in("normalizer", "strip_accents", to=lambda _: False))


def add_no_special_tokens(folder: Path) -> None:
    """Nothing is put around a text."""
    edit_json(folder, "tokenizer.json", set_in("post_processor", to=lambda _: None))


def rotate_vocabulary(folder: Path) -> None:
    """The words of another checkpoint: each has the number of the one before it."""

    def rotated(words: dict[str, int]) -> dict[str, int]:
        plain = [word for word in words if not word.startswith("[")]
        numbers = [words[word] for word in plain]
        return {**words, **dict(zip(plain, [*numbers[1:], numbers[0]], strict=True))}

    edit_json(folder, "tokenizer.json", set_in("model", "vocab", to=rotated))


def shorten(folder: Path) -> None:
    """Rows are cut at half their length."""
    edit_json(folder, "manifest.json", set_in("max_length", to=lambda old: old // 2))


# --- what writes


def change_template(folder: Path) -> None:
    """Prompts end in a word more, in the template that `predict` reads."""
    edit_json(folder, "manifest.json", set_in("task", "template", "source", to=lambda old: f"{old}{{{{ ' end' }}}}"))


def change_served_template(folder: Path) -> None:
    """The same in the template that servers read."""
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8") + "{{ ' end' }}", encoding="utf-8")


def set_everywhere(name: str, value: Any) -> Callable[[Path], None]:
    """A setting in both configurations that readers of the transformers layout ask."""

    def damage(folder: Path) -> None:
        for file in ("config.json", "generation_config.json"):
            edit_json(folder, file, lambda config: {**config, name: value})

    return damage


def set_config(name: str, value: Any) -> Callable[[Path], None]:
    """A setting in config.json."""
    return lambda folder: edit_json(folder, "config.json", lambda config: {**config, name: value})


def set_generation(name: str, value: Any) -> Callable[[Path], None]:
    """A setting of how the bundle writes."""
    return lambda folder: edit_json(folder, "manifest.json", set_in("generation", name, to=lambda _: value))


def set_tokenizer(name: str, value: Any) -> Callable[[Path], None]:
    """A setting that readers of the transformers layout ask, and no reader of ours."""
    return lambda folder: edit_json(folder, "tokenizer_config.json", lambda config: {**config, name: value})


# --- images


def set_processor(name: str, value: Any) -> Callable[[Path], None]:
    """A setting of the image processor."""
    return lambda folder: edit_json(folder, "preprocessor_config.json", lambda config: {**config, name: value})
