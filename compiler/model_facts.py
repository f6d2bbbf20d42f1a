"""The files of a model -> ModelFacts: config.json and the headers of its weights, no framework."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from compiler import weights
from compiler.facts import AdapterFacts, HeadFacts, ModelFacts
from compiler.hub import Files, FolderFiles, SourceError
from compiler.images import PROCESSOR
from compiler.origin import licence_of
from compiler.positions import has_relative_positions, num_positions
from compiler.tokenizer_files import BESIDE, TOKENIZER, VOCABULARIES
from compiler.weights import ADAPTER, ADAPTER_CONFIG, INDEX, SINGLE, Tensor

if TYPE_CHECKING:
    from compiler.tasks.interface import Architecture

# Layers that share their weights are one.
_NUM_LAYERS = ("num_hidden_groups", "num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers")
# Of the two halves of an encoder-decoder. T5's decoder has as many as its encoder where nothing is said of it.
_ENCODER_LAYERS = ("encoder_layers", "num_layers")
_DECODER_LAYERS = ("decoder_layers", "num_decoder_layers", "num_layers")
_HALVES = {"encoder": _ENCODER_LAYERS, "decoder": _DECODER_LAYERS}
_HIDDEN_SIZE = ("hidden_size", "dim", "n_embd", "d_model", "emb_dim")
# Of embeddings, which some models project to their hidden size.
_SIZES = (*_HIDDEN_SIZE, "embedding_size", "input_embedding_size", "word_embed_proj_dim")
_WIDTHS = (
    *("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "d_ff", "n_inner"),
    "moe_intermediate_size",
)
_ROPE = ("rope_parameters", "rope_scaling")
_UNUSABLE = frozenset(["R402", "R404", "R406"])  # weights that are missing, pickled or broken
_VOCABULARIES = ("vocab_size", "decoder_vocab_size")
_SAVE_AGAIN = "save the model again with save_pretrained"
_UNBOUNDED = 1_000_000  # tokens; tokenizers write 1e30 for "no limit"
_VISION = frozenset(
    [
        "beit",
        "bit",
        "convnext",
        "convnextv2",
        "data2vec-vision",
        "deit",
        "dinov2",
        "dinov2_with_registers",
        "focalnet",
        "levit",
        "mobilenet_v1",
        "mobilenet_v2",
        "mobilevit",
        "poolformer",
        "pvt",
        "regnet",
        "resnet",
        "swin",
        "swinv2",
        "van",
        "vit",
        "vit_msn",
    ]
)
# Position numbers start after the padding token's number, so that many positions are never used.
_POSITIONS_AFTER_PADDING = frozenset(
    [
        "camembert",
        "data2vec-text",
        "ibert",
        "longformer",
        "luke",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    ]
)
# Decoders that classify by a row's last token, which they find by the padding after it.
_DECODERS = frozenset(
    [
        "bloom",
        "codegen",
        "cohere",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "glm",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "mpt",
        "olmo",
        "olmo2",
        "opt",
        "persimmon",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "smollm3",
        "stablelm",
        "starcoder2",
    ]
)
# Decoders that are given packed rows: their attention takes a mask for pairs of tokens as it is.
_PACKED = frozenset(["gpt2", "llama", "mistral", "olmo2", "qwen2", "qwen3"])
# Model types that transformers has classes for, of those whose repositories also have code of their own (auto_map).
_KNOWN_TYPES = (
    _DECODERS
    | _VISION
    | frozenset(
        [
            "albert",
            "bert",
            "big_bird",
            "camembert",
            "convbert",
            "deberta",
            "deberta-v2",
            "distilbert",
            "electra",
            "ernie",
            "eurobert",
            "funnel",
            "longformer",
            "mobilebert",
            "modernbert",
            "mpnet",
            "nomic_bert",
            "roberta",
            "roformer",
            "squeezebert",
            "t5",
            "xlm-roberta",
            "xlnet",
        ]
    )
)


def model_facts(files: Files, *, reads_weights: bool = True) -> ModelFacts:
    """What the compiler knows of a model. Raises SourceError when it can't be used.

    Where its weights are not read, there need be none; those that fit its config.json say what shapes others have.
    """
    config = _config(files)
    flat = _flat(config)
    _check_padding(flat, files)
    weight_files, tensors = _weights(files) if reads_weights else ((), _fitting(flat, files))
    _check_shapes(flat, tensors, files)
    held = tensors if reads_weights else {}
    has_tokenizer = TOKENIZER in files.names
    for name in _tokenizer_files(files.names) if has_tokenizer else ():
        files.local(name)  # beside each other, as tasks look for them
    has_processor = PROCESSOR in files.names
    read = ("config.json", *weight_files, *_tokenizer_files(files.names), *([PROCESSOR] if has_processor else []))
    return ModelFacts(
        id=files.source.id,
        revision=files.source.revision,
        model_type=str(config["model_type"]),
        architectures=tuple(map(str, _list(config.get("architectures")))) if reads_weights else (),
        num_layers=_num_layers(flat) or len(_list(config.get("depths"))) or weights.num_layers(tensors),
        hidden_size=_whole(_half(flat, "encoder"), _HIDDEN_SIZE) or 0,
        vocab_size=_whole(_half(flat, "decoder"), ("vocab_size",)) or 0,
        max_positions=_max_positions(flat, files),
        num_parameters=weights.num_parameters(tensors) if tensors or reads_weights else None,
        dtype=weights.dtype(held),
        shapes=weights.shapes(tensors),
        batch_norms=weights.batch_norms(tensors),
        labels=_labels(config, held, _CLASSIFIER[architecture_of(config)]),
        files={name: files.sha256(name) for name in sorted(set(read))},
        has_tokenizer=has_tokenizer,
        architecture=architecture_of(config),
        token_labels=_labels(config, held, "ForTokenClassification") if config.get("architectures") else None,
        max_target_positions=_max_target_positions(flat),
        packs=keeps_rows_apart(config),
        padding=flat.get("pad_token_id"),
        heads=_heads(flat),
        on_hub=files.source.kind != "path",
        licence=licence_of(files),
        tokenizer_file=files.local(TOKENIZER) if has_tokenizer else None,
        processor_file=files.local(PROCESSOR) if has_processor else None,
    )


def adapter_facts(files: FolderFiles, path: str) -> AdapterFacts:
    """What the compiler knows of an adapter; `path` is how the plan names it. Raises SourceError."""
    try:
        config = json.loads(files.local(ADAPTER_CONFIG).read_bytes())
        tensors = files.header(ADAPTER)
        has_config = "config.json" in files.names
        labels = _adapter_labels(json.loads(files.local("config.json").read_bytes())) if has_config else None
    except (ValueError, RecursionError) as error:
        message = f"the adapter {path} can't be read: {error}"
        raise SourceError("R232", message, "save it again with save_pretrained") from None
    if not isinstance(config, dict):
        raise SourceError("R232", f"{ADAPTER_CONFIG} of {path} is not a JSON object", "save it again")
    hashes = {name: files.sha256(name) for name in (ADAPTER_CONFIG, ADAPTER)}
    return AdapterFacts(id=path, config=config, shapes=weights.shapes(tensors), files=hashes, labels=labels)


def _adapter_labels(config: object) -> tuple[str, ...] | None:
    """The labels of a tuned model in order, as its configuration says. Raises ValueError for keys that are no numbers.

    transformers leaves those out that it gives a model by itself.
    """
    named = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"}) if isinstance(config, Mapping) else None
    return tuple(str(named[key]) for key in sorted(named, key=int)) if isinstance(named, Mapping) else None


_CLASSIFIER: Mapping[Architecture, str] = {
    "encoder": "SequenceClassification",
    "decoder": "SequenceClassification",
    "encoder-decoder": "SequenceClassification",
    "vision": "Classification",  # of images, by one head or by two
}


def _config(files: Files) -> Mapping[str, Any]:
    if "config.json" not in files.names:
        hint = "a model folder is what save_pretrained writes"
        raise SourceError("R402", f"the model {files.source.id} has no config.json", hint)
    config = _json(files, "config.json")
    kind = config.get("model_type")
    if "auto_map" in config and not (isinstance(kind, str) and kind in _KNOWN_TYPES):
        message = f"the model {files.source.id} runs code of its own, which is refused"
        raise SourceError("R405", message, "choose a model whose architecture transformers has")
    if not isinstance(kind, str):
        raise SourceError("R406", f"config.json of the model {files.source.id} has no model_type", _SAVE_AGAIN)
    return config


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """What kind of model a config.json is of."""
    if config.get("is_encoder_decoder") is True:
        return "encoder-decoder"
    kind = config["model_type"]
    return "decoder" if kind in _DECODERS else "vision" if kind in _VISION else "encoder"


def _flat(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is said of the half that reads and writes texts, where a model has others."""
    inner = config.get("text_config")
    return {**inner, **config} if isinstance(inner, Mapping) else config


def keeps_rows_apart(config: Mapping[str, Any]) -> bool:
    """Whether a mask of our own is all that says which tokens see each other: no window, no slopes over distances."""
    flat = _flat(config)
    windows = flat.get("sliding_window") is not None and flat.get("use_sliding_window") is not False
    return flat["model_type"] in _PACKED and not windows


def _heads(config: Mapping[str, Any]) -> HeadFacts | None:
    """The heads of the attention, as releases of transformers before and after 5 say how positions turn them."""
    count, hidden = _whole(config, ("num_attention_heads", "n_head")), _whole(config, _HIDDEN_SIZE)
    size = _whole(config, ("head_dim",)) or (hidden // count if hidden and count else 0)
    if not size:
        return None
    named = next((found for key in _ROPE if isinstance(found := config.get(key), Mapping)), {})
    share = named.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    rope = named.get("rope_type", named.get("type", "default" if "rope_theta" in named or not named else "by layer"))
    return HeadFacts(size=size, rope=str(rope), partial=share not in (None, 1, 1.0))


def _half(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What is said of the encoder or the decoder of a model that is made of two others; else the whole."""
    half = config.get(name)
    return half if isinstance(half, Mapping) else config


def _num_layers(config: Mapping[str, Any]) -> int | None:
    """Layers of a model; of an encoder-decoder those of both halves, as they are counted from the input."""
    if config.get("is_encoder_decoder") is not True:
        return _whole(config, _NUM_LAYERS)
    encoder, decoder = _half(config, "encoder"), _half(config, "decoder")
    reads = _whole(encoder, _NUM_LAYERS if encoder is not config else _ENCODER_LAYERS)
    writes = _whole(decoder, _NUM_LAYERS if decoder is not config else _DECODER_LAYERS)
    return reads + writes if reads and writes else None


def _check_padding(config: Mapping[str, Any], files: Files) -> None:
    """The padding token is a token of the model."""
    padding, vocabulary = config.get("pad_token_id"), _whole(_half(config, "decoder"), ("vocab_size",))
    if padding is None:
        return
    if type(padding) is not int or padding < 0 or (vocabulary is not None and padding >= vocabulary):
        most = f" below the vocab_size of {vocabulary}" if vocabulary is not None else ""
        message = f"pad_token_id in config.json of the model {files.source.id} is not a token's number{most}"
        raise SourceError("R406", message, "write the number of its padding token")


def _check_shapes(config: Mapping[str, Any], tensors: Mapping[str, Tensor], files: Files) -> None:
    """The weights are those of the model that config.json describes: it has as many layers, of the same size."""
    for what, said, stored in (*_layers_said(config, tensors), *_embeddings_said(config, tensors)):
        if stored not in said:
            described = what.format(said[0])
            message = f"config.json of the model {files.source.id} says {described}, and its weights have {stored}"
            raise SourceError("R406", message, "name a model whose files belong together")


Said = tuple[str, tuple[int, ...], int]
"""What config.json speaks of, the numbers in it that would do, and what the weights have."""


def _layers_said(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[Said]:
    """Of each half, where they are fewer: more of them are left out, as layers that predict further tokens are."""
    if "depths" in config or "num_hidden_groups" in config:
        return  # stages of layers; layers that share their weights
    for half, said, stored in _layers(config, tensors):
        if said is not None and 0 < stored < said:
            yield f"{{}} {half} layers".replace("  ", " "), (said,), stored


def _layers(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, int | None, int]]:
    """Of each half its name, the layers that config.json says, and those that the weights have."""
    stacks = weights.stacks(tensors)
    for half, keys in _HALVES.items() if config.get("is_encoder_decoder") is True else {"": _NUM_LAYERS}.items():
        own = _half(config, half)
        found = [count for stem, count in stacks.items() if not half or _half_of(stem) == half]
        yield half, _whole(own, keys if own is config else _NUM_LAYERS), max(found, default=0)


def _half_of(name: str) -> str:
    """Which half of an encoder-decoder a module is in: a decoder's may be made of an encoder's parts."""
    return next((part for part in name.split(".") if part in _HALVES), "")


def _embeddings_said(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[Said]:
    halves = [_half(config, half) for half in _HALVES]
    for shape in weights.word_embeddings(weights.shapes(tensors)).values():
        for what, keys, stored in zip(("vocab_size {}", "hidden_size {}"), (_VOCABULARIES, _SIZES), shape, strict=True):
            if said := tuple(value for half in halves for key in keys if (value := _whole(half, (key,))) is not None):
                yield what, said, stored


def _json(files: Files, name: str) -> Mapping[str, Any]:
    try:
        value = json.loads(files.local(name).read_bytes())
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        message = f"{name} of the model {files.source.id} is not valid JSON: {error}"
        raise SourceError("R406", message, _SAVE_AGAIN) from None
    if not isinstance(value, dict):
        raise SourceError("R406", f"{name} of the model {files.source.id} is not a JSON object", _SAVE_AGAIN)
    return value


def _weights(files: Files) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The names of the weight files, and the tensors in them."""
    try:
        names = (SINGLE,) if SINGLE in files.names else _shards(files)
        tensors: dict[str, Tensor] = {}
        for name in names:
            if name.endswith(".safetensors"):
                tensors.update(files.header(name))
    except (ValueError, KeyError, TypeError) as error:
        message = f"the weights of the model {files.source.id} can't be read: {error}"
        raise SourceError("R406", message, "download or save them again") from None
    return names, tensors


def _fitting(config: Mapping[str, Any], files: Files) -> Mapping[str, Tensor]:
    """The tensors beside a configuration, where all that it says of their shapes is so; else none.

    Weights that are to be drawn anew need no file: one that is missing, broken or of another model says nothing.
    """
    try:
        _, tensors = _weights(files)
    except SourceError as error:
        if error.code not in _UNUSABLE:
            raise
        return {}
    return tensors if _fit(config, tensors) else {}


def _fit(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights have the layers and sizes of a configuration; not where these are said in another way."""
    shapes = weights.shapes(tensors)
    if "depths" in config or any(said != stored for _, said, stored in _layers(config, tensors)):
        return False
    halves = [_half(config, half) for half in _HALVES]
    sides = {side for shape in shapes.values() for side in shape}
    widths = {value for half in halves for key in _WIDTHS if (value := _whole(half, (key,))) is not None}
    keys = {shape[0] for name, shape in shapes.items() if name.endswith("k_proj.weight")}
    return (
        all(stored in said for _, said, stored in _embeddings_said(config, tensors))
        and widths <= sides
        and (not keys or (said := _keys_said(config)) is None or keys == {said})
    )


def _keys_said(config: Mapping[str, Any]) -> int | None:
    """The size of a layer's keys, where config.json says of how many heads they are."""
    heads, hidden = _whole(config, ("num_attention_heads",)), _whole(config, _HIDDEN_SIZE)
    groups, size = _whole(config, ("num_key_value_heads",)), _whole(config, ("head_dim",))
    if heads is None or hidden is None or groups is None:
        return None
    return groups * (size or hidden // heads)


def _shards(files: Files) -> tuple[str, ...]:
    if INDEX not in files.names:
        raise _no_weights(files)
    shards = weights.shards(_json(files, INDEX))
    missing = [name for name in shards if name not in files.names]
    if missing:
        message = f"the model {files.source.id} lacks {len(missing)} of its {len(shards)} weight files: {missing[0]}"
        raise SourceError("R402", message, "download it again")
    return (INDEX, *shards)


def _no_weights(files: Files) -> SourceError:
    pickled = [name for name in files.names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if not pickled:
        message = f"the model {files.source.id} has no weights: no {SINGLE}"
        return SourceError("R402", message, "choose a model with safetensors weights")
    message = f"the model {files.source.id} has only pickled weights ({pickled[0]}), which can run code when they load"
    return SourceError("R404", message, "convert them once, in a place that you trust, with save_pretrained")


def _tokenizer_files(names: tuple[str, ...]) -> Iterator[str]:
    """Those that there are; older vocabularies only where there is no tokenizer.json."""
    wanted = (TOKENIZER, *BESIDE, *(() if TOKENIZER in names else VOCABULARIES))
    return (name for name in wanted if name in names)


def _whole(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    """The first of the keys that has a positive whole number."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _max_positions(config: Mapping[str, Any], files: Files) -> int | None:
    """The tokens that a row can have, or None without a limit."""
    encoder = _half(config, "encoder")
    positions = _positions(encoder)
    if positions is not None or has_relative_positions(encoder):
        return positions  # a tokenizer's limit is then that of the texts that it was first used for
    name = "tokenizer_config.json"
    limit = _whole(_json(files, name), ("model_max_length",)) if name in files.names else None
    return limit if limit is not None and limit < _UNBOUNDED else None


def _max_target_positions(config: Mapping[str, Any]) -> int | None:
    """The tokens that an encoder-decoder can write, or None without a limit."""
    return _positions(_half(config, "decoder")) if config.get("is_encoder_decoder") is True else None


def _positions(config: Mapping[str, Any]) -> int | None:
    """The positions that a configuration names, less those that are never used."""
    positions = num_positions(config)
    if positions is None:
        return None
    padding = config.get("pad_token_id", 1)
    after = config.get("model_type") in _POSITIONS_AFTER_PADDING and padding is not None
    return positions - (padding + 1 if after else 0)


def _labels(config: Mapping[str, Any], tensors: Mapping[str, Tensor], head: str) -> tuple[str, ...] | None:
    """The labels of the model's own head of a kind in order, or None when it has none."""
    architectures = _list(config.get("architectures"))
    if architectures and not any(head in str(name) for name in architectures):
        return None
    count = weights.num_classes(tensors)
    if count == 0:
        return None
    named = config.get("id2label")
    names = named if isinstance(named, Mapping) else {}
    return tuple(str(names.get(str(number), f"LABEL_{number}")) for number in range(count))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
