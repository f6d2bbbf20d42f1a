"""The catalogue of faults that exports have in practice, each put into a finished bundle that is then sealed again.

A hash never catches one: it is what the bundle answers, decides or measures that has to. See judges.py.
"""

from __future__ import annotations

from tests.mutations import files, graphs, models
from tests.mutations.mutation import Mutation, in_files, in_graph, layers_swapped, on_graph, on_graph_of, unscaled
from tests.mutations.subjects import CHAT, IMAGES, PAIRS, RATED, ROUNDED, TAGS, TOPICS, TRANSLATION

MUTATIONS: tuple[Mutation, ...] = (
    # --- weights
    in_graph(
        "weight scaled", "one matrix is 1.01 times what it was", PAIRS, "outputs_batch_1", on_graph(graphs.scale(1.01))
    ),
    in_graph(
        "weight of a decoder scaled",
        "the same, of a model that writes",
        CHAT,
        "outputs_batch_1",
        on_graph(graphs.scale(1.01)),
    ),
    in_graph(
        "encoder scaled",
        "the same, in the graph that reads",
        TRANSLATION,
        "outputs_batch_1",
        on_graph(graphs.scale(1.01), 0),
    ),
    in_graph(
        "layers swapped",
        "a layer has its neighbour's matrices",
        PAIRS,
        "outputs_batch_1",
        on_graph_of(layers_swapped),
    ),
    in_graph("layer dropped", "the last layer is left out", PAIRS, "outputs_batch_1", on_graph(graphs.drop_layer)),
    in_graph(
        "embeddings shifted",
        "each token has the vector before its own",
        CHAT,
        "outputs_batch_1",
        on_graph(graphs.shift_embeddings),
    ),
    in_graph(
        "weights in bfloat16",
        "weights were rounded to 16 bits on the way",
        PAIRS,
        "outputs_batch_1",
        on_graph(graphs.round_bfloat16),
    ),
    in_graph(
        "pooling of another checkpoint",
        "the pooling's weights are others",
        PAIRS,
        "outputs_batch_1",
        on_graph(graphs.redraw(graphs.pooling)),
    ),
    in_graph(
        "head of another checkpoint",
        "the head's weights are others",
        TAGS,
        "outputs_batch_1",
        on_graph(graphs.redraw(graphs.head)),
    ),
    in_graph("head bias dropped", "the head has no bias", PAIRS, "outputs_batch_1", on_graph(graphs.drop_bias)),
    in_graph(
        "red and blue swapped",
        "the first convolution takes BGR for RGB",
        IMAGES,
        "outputs_batch_1",
        on_graph(graphs.swap_colours),
    ),
    # --- before the export
    in_graph(
        "adapter not merged",
        "the base was exported, under the tuned head",
        PAIRS,
        "outputs_batch_1",
        models.exported(models.not_merged),
    ),
    in_graph(
        "adapter merged twice",
        "the update was added twice",
        PAIRS,
        "outputs_batch_1",
        models.exported(models.merged_twice),
    ),
    in_graph(
        "head of another training",
        "the head was drawn anew before the export",
        RATED,
        "outputs_batch_1",
        models.exported(models.other_head),
    ),
    in_graph(
        "untuned model exported",
        "the base, under the tuned head",
        IMAGES,
        "outputs_batch_1",
        models.exported(models.not_merged),
    ),
    in_graph(
        "int8 calibrated on garbage",
        "ranges are those of rows of padding alone",
        ROUNDED,
        "outputs_batch_1",
        models.calibrated_on_garbage,
    ),
    # --- operators
    in_graph(
        "softmax axis",
        "attention is normalised over the wrong axis",
        PAIRS,
        "outputs_batch_1",
        on_graph(graphs.softmax_axis),
    ),
    in_graph(
        "norm epsilon",
        "1e-5 stands for 1e-12 in layer norms",
        PAIRS,
        "outputs_batch_1",
        on_graph(graphs.norm_epsilon(1e-5)),
    ),
    in_graph("gelu by tanh", "GELU is approximated", PAIRS, "outputs_batch_1", on_graph(graphs.gelu_by_tanh)),
    in_graph(
        "dropout on",
        "a tenth of what the head reads is dropped at random",
        PAIRS,
        "outputs_batch_1",
        on_graph(graphs.dropout_on),
    ),
    in_graph(
        "float16 overflow",
        "what the head reads is too large for float16",
        PAIRS,
        "outputs_batch_1",
        on_graph(graphs.overflow_float16),
    ),
    # --- inputs
    in_graph(
        "mask ignored", "padding is attended to", PAIRS, "outputs_batch_32", on_graph(graphs.ones_for("attention_mask"))
    ),
    in_graph(
        "mask of the source ignored",
        "the decoder reads the source's padding",
        TRANSLATION,
        "outputs_batch_32",
        on_graph(graphs.ones_for("encoder_attention_mask")),
    ),
    in_graph(
        "padding side",
        "the mask is read as of rows padded at the other side",
        PAIRS,
        "outputs_batch_32",
        on_graph(graphs.mask_from_the_other_side),
    ),
    in_graph(
        "segments ignored",
        "the second text is taken for the first",
        PAIRS,
        "outputs_batch_1",
        on_graph(graphs.zeros_for("token_type_ids")),
    ),
    in_graph(
        "positions restarted",
        "positions count from the tokens that are given",
        CHAT,
        "written_outputs",
        on_graph(graphs.restart_positions),
    ),
    in_graph(
        "positions ignored",
        "every token stands at the first position",
        CHAT,
        "outputs_batch_1",
        on_graph(graphs.zeros_for("position_ids")),
    ),
    in_graph(
        "cache off by one",
        "cached keys and values stand one place late",
        CHAT,
        "written_outputs",
        on_graph(graphs.cache_off_by_one),
    ),
    in_graph(
        "cache of the target off by one",
        "the same, of an encoder-decoder",
        TRANSLATION,
        "written_outputs",
        on_graph(graphs.cache_off_by_one),
    ),
    in_graph(
        "batch frozen", "the graph takes one row at a time", PAIRS, "outputs_batch_32", on_graph(graphs.freeze(0, 1))
    ),
    in_graph(
        "length frozen",
        "the graph takes the traced length alone",
        PAIRS,
        "outputs_batch_1",
        on_graph(graphs.freeze(1, graphs.TRACED)),
    ),
    in_graph(
        "length cut",
        "tokens beyond the traced length are not read",
        TAGS,
        "outputs_batch_1",
        on_graph(graphs.cut_at_traced_length),
    ),
    # --- outputs
    in_graph(
        "outputs reordered",
        "the outputs are in another order than the labels",
        PAIRS,
        "outputs_batch_1",
        on_graph(graphs.reorder_logits),
    ),
    in_graph(
        "scale lost", "numbers are in deviations, not in their unit", RATED, "outputs_batch_1", on_graph_of(unscaled)
    ),
    in_graph(
        "temperature baked in",
        "logits are divided by a temperature of 0.7",
        CHAT,
        "outputs_batch_1",
        on_graph(graphs.rescale_logits(1 / 0.7)),
    ),
    # --- labels
    in_files("labels reversed", "the labels are in reverse", PAIRS, "decisions", files.reverse_labels),
    in_files("tags reversed", "the same, of tags of words", TAGS, "decisions", files.reverse_labels),
    in_files("thresholds lost", "each label is given from a half on", TOPICS, "decisions", files.lose_thresholds),
    # --- tokenizers
    in_files("case kept", "the tokenizer no longer lower-cases", PAIRS, "tokens", files.keep_case),
    in_files("accents kept", "the tokenizer no longer takes accents off", PAIRS, "tokens", files.keep_accents),
    in_files("special tokens left out", "nothing is put around a text", PAIRS, "tokens", files.add_no_special_tokens),
    in_files("vocabulary of another checkpoint", "words have other numbers", TAGS, "tokens", files.rotate_vocabulary),
    in_files("rows cut", "rows are cut at half their length", PAIRS, "tokens", files.shorten),
    in_files(
        "cut at the beginning",
        "tokenizer_config.json cuts rows at the left",
        PAIRS,
        "",
        files.set_tokenizer("truncation_side", "left"),
    ),
    # --- what writes
    in_files("template changed", "prompts end in a word more", CHAT, "tokens", files.change_template),
    in_files(
        "template for servers changed", "prompts of other programs do", CHAT, "settings", files.change_served_template
    ),
    in_files(
        "end token wrong",
        "the end token is another one",
        TRANSLATION,
        "settings",
        files.set_everywhere("eos_token_id", 7),
    ),
    in_files(
        "end token of a chat wrong",
        "the end token is the base's",
        CHAT,
        "settings",
        files.set_everywhere("eos_token_id", 2),
    ),
    in_files(
        "start token wrong",
        "the decoder starts with another token",
        TRANSLATION,
        "settings",
        files.set_everywhere("decoder_start_token_id", 0),
    ),
    in_files(
        "cache switched off", "use_cache: false, as in training", CHAT, "settings", files.set_config("use_cache", False)
    ),
    in_files(
        "positions shortened",
        "config.json has room for eight tokens",
        CHAT,
        "settings",
        files.set_config("max_position_embeddings", 8),
    ),
    in_files(
        "answers cut short",
        "an answer has two tokens at most",
        CHAT,
        "settings",
        files.set_generation("max_new_tokens", 2),
    ),
    in_files(
        "answers drawn",
        "answers are drawn at a temperature of 1",
        CHAT,
        "",
        files.set_generation("temperature", 1.0),
    ),
    # --- images
    in_files(
        "image mean",
        "pixels are centred elsewhere",
        IMAGES,
        "outputs_batch_1",
        files.set_processor("image_mean", [0.485, 0.456, 0.406]),
    ),
    in_files(
        "image deviation",
        "pixels are scaled otherwise",
        IMAGES,
        "outputs_batch_1",
        files.set_processor("image_std", [0.229, 0.224, 0.225]),
    ),
    in_files(
        "resize filter", "images are resized to the nearest pixel", IMAGES, "pixels", files.set_processor("resample", 0)
    ),
    in_files(
        "pixels not rescaled",
        "pixels are from 0 to 255",
        IMAGES,
        "outputs_batch_1",
        files.set_processor("do_rescale", False),
    ),
)

NOT_CAUGHT: dict[str, str] = {
    "cut at the beginning": "no reader of ours asks tokenizer_config.json: rows are cut as the manifest says",
    "answers drawn": "the gate compares what is likeliest; whether answers are drawn is a choice it does not judge",
}
"""The faults that no check but the hashes catches, each with its reason."""
