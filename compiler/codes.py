"""Every diagnostic code: its title and the text that `recipe explain` prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """What a code means."""

    title: str
    text: str


CODES: dict[str, Code] = {
    "R001": Code(
        "not valid JSON",
        "The text stops being JSON at the place shown. Usual causes: a comma too many before a closing bracket, a "
        "comma missing between two members, single quotes, a comment, or a word without quotes. JSON has no comments "
        'and no trailing commas; use the "description" key for remarks.',
    ),
    "R002": Code(
        "a key is written twice",
        "Readers of JSON disagree about which of two equal keys counts, so a recipe may have only one.",
    ),
    "R003": Code(
        "not a finite number",
        "NaN, Infinity and numbers too large for a double are not JSON. Whole numbers go up to 2^53.",
    ),
    "R006": Code(
        "a file can't be read",
        "The recipe, or a recipe that it extends, is not there or may not be read. Paths are relative to the file "
        "that writes them.",
    ),
    "R007": Code(
        "recipes extend each other in a circle",
        "A recipe that extends another takes its values as a base. In a circle there is no base to start from.",
    ),
    "R008": Code(
        "an override can't be applied",
        "`--set` takes a JSON Pointer, an equals sign and a JSON value: --set /training/epochs=1. A value that is not "
        'JSON is taken as a string: --set /method=head. Items of lists have numbers, "-" appends.',
    ),
    "R101": Code(
        "unknown key",
        "A recipe is a closed world: a key that the language does not have is an error, because a misspelt key would "
        "silently train with the default. The hint names the nearest key that exists at that place.",
    ),
    "R102": Code("wrong type", "The value has another JSON type than the language expects at this place."),
    "R103": Code("not one of the known words", "The value must be one of a few words; the hint names the nearest one."),
    "R104": Code("out of range", "The value has the right type but is outside of its range or pattern."),
    "R105": Code("a key is missing", "The language needs this key. It is looked for after `extends` has been merged."),
    "R201": Code(
        "a metric that is not there",
        "The task does not have the metric, or early stopping asks for one that the recipe does not measure.",
    ),
    "R202": Code(
        "nothing reads this key",
        "The key exists in the language, but with the other values of this recipe nothing would read it: the rank of "
        "LoRA under full tuning, or the gate's settings without an export. It would look as if it had an effect.",
    ),
    "R203": Code("a metric is listed twice", "Two metrics have the same name in the report. Remove one."),
    "R204": Code(
        "freezing leaves nothing to tune",
        "The method `freeze` keeps the first layers as they are. With as many layers as the model has, or more, only "
        "the head would be trained; say so with the method `head`.",
    ),
    "R205": Code(
        "a target module that does not exist",
        "LoRA's target_modules are matched against the ends of the names of the model's linear layers. The hint lists "
        "the names that the model has.",
    ),
    "R206": Code(
        "a split needs one source",
        "The rows of a split are a file (path), a named split of the hub dataset in /dataset/id (name), or a share of "
        "the train rows (fraction): one of them. Train itself has a path or a name, and the shares leave it rows.",
    ),
    "R207": Code(
        "a column that the task does not read",
        "/dataset/columns maps the columns that the task reads (for text classification: text, label) to their names "
        "in the data. The hint names the nearest one.",
    ),
    "R208": Code(
        "labels that don't fit",
        "Labels are declared once each, at least two of them, and class weights and positive classes speak of labels "
        "that exist.",
    ),
    "R209": Code("a micro-batch larger than the batch", "Micro-batches are the portions in which a batch is computed."),
    "R210": Code("no rows tell which checkpoint is best", "Keeping the best checkpoint needs validation rows."),
    "R211": Code(
        "no held-out rows for the gate",
        "An export is proven on rows that were not trained on: the test rows, or else the validation rows.",
    ),
    "R212": Code("the warm-up outlasts the training", "The learning rate would never reach its value."),
    "R407": Code(
        "no tokenizer.json",
        "Rows are read with the model's own fast tokenizer, the file tokenizer.json, in training and in the bundle "
        "alike. Save the model with a fast tokenizer to get it.",
    ),
    "R408": Code(
        "longer than the model's positions",
        "The model has learnt a fixed number of positions; longer rows would fail or be nonsense.",
    ),
    "E401": Code("the system refused", "A file could not be written or read: disk full, no permission, or gone."),
    "E402": Code("a package is missing", "The command needs an extra of recipec; the hint installs it."),
    "E404": Code("another process writes here", "Only one process may write a run or a step at a time."),
    "E499": Code("an unforeseen error", "A fault of recipec. `recipe --debug` shows the traceback; please report it."),
}
