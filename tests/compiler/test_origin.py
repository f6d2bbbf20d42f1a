"""A licence is what the model's own files say, word for word, and unknown where they are silent."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler.facts import ModelFacts
from compiler.hub import FolderFiles, Source, Sources
from compiler.origin import Licence, licence_of
from compiler.plan import Package
from tests.handmade import MODEL, planned


def found(folder: Path, **files: str) -> Licence:
    for name, text in files.items():
        (folder / name.replace("_md", ".md")).write_text(text, encoding="utf-8")
    return licence_of(FolderFiles(Source(kind="path", id="m", folder=folder, revision=None), Sources()))


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: Apache-2.0\n---\n# A model\n", Licence(id="apache-2.0")),
        ("---\r\nlicense: mit\r\n---\r\ntext", Licence(id="mit")),
        ("---\nlicense: [mit]\n---\n", Licence(id="mit")),
        (
            "---\nlicense: other\nlicense_name: our own\nlicense_link: https://example.org/l\n---\n",
            Licence(id="other", name="our own", link="https://example.org/l"),
        ),
        ("---\nlicense: other\nlicense_link: LICENSE\n---\n", Licence(id="other")),
        ("# MIT\nlicense: mit, they say\n", Licence()),
        ("---\nlicense: 3\n---\n", Licence()),
        ("---\nlicense: [mit, apache-2.0]\n---\n", Licence()),
        ("---\nlicense: it is free\n---\n", Licence()),
        ("---\nlicense: {a: [\n---\n", Licence()),
        ("---\ndate: 2020-99-99\nlicense: mit\n---\n", Licence()),
        ("---\n- license\n---\n", Licence()),
        ("---\nlicense: mit\n", Licence()),
        ("", Licence()),
    ],
)
def test_the_card_of_a_model_names_its_licence(tmp_path: Path, card: str, licence: Licence) -> None:
    assert found(tmp_path, README_md=card) == licence


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("\n                                 Apache License\n      Version 2.0, January 2004\n", "apache-2.0"),
        ("MIT License\n\nCopyright (c) 2020", "mit"),
        ("# The MIT License\n", "mit"),
        ("BSD 3-Clause License\n", "bsd-3-clause"),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007", "gpl-3.0"),
        ("You may use this as under the MIT License", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_title_of_a_licence_s_text_names_it(tmp_path: Path, text: str, licence: str) -> None:
    assert found(tmp_path, LICENSE=text) == Licence(id=licence)


def test_the_card_counts_before_the_text(tmp_path: Path) -> None:
    assert found(tmp_path, LICENSE="MIT License", README_md="---\nlicense: openrail\n---\n") == Licence(id="openrail")


def test_a_model_without_either_has_an_unknown_licence(tmp_path: Path) -> None:
    assert found(tmp_path) == Licence(id="unknown")


def package_of(**changes: Any) -> Package:
    step = planned(**changes).step("package")
    assert isinstance(step, Package)
    return step


def test_the_plan_has_what_the_card_says_of_the_base_and_its_keys_know_no_licence() -> None:
    recipe: dict[str, Any] = {"export": ["onnx"], "description": "For tests."}
    licensed = planned(**recipe, model_facts=_licensed("mit"))
    origin = package_of(**recipe, model_facts=_licensed("mit")).origin
    assert (origin.description, origin.licence) == ("For tests.", Licence(id="mit"))
    other = planned(**recipe, model_facts=_licensed("apache-2.0"))
    keys, others = licensed.keys(), other.keys()
    assert keys == others
    described = planned(export=["onnx"], description="For others.").keys()
    assert {name for name in keys if keys[name] != described[name]} == {"package"}


def test_of_a_folder_the_plan_has_the_name_and_not_the_place() -> None:
    facts = replace(MODEL, id="../somewhere/else/bert", on_hub=False)
    assert package_of(export=["onnx"], model_facts=facts).origin.base_model == "bert"


def _licensed(word: str) -> ModelFacts:
    return replace(MODEL, licence=Licence(id=word))
