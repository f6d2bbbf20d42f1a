"""The recipe language, version 1: what an author may write. These dataclasses are its only source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from compiler.diagnostics import Diagnostic, Place, Severity
from compiler.document import Document, Node
from compiler.generation import Generation
from compiler.groups import GroupSize
from compiler.methods import Full, Method
from compiler.metrics import Metric
from compiler.tasks import COLUMNS, Task
from compiler.typed import About

STAGE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}(?!\n)$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?!\n)$"  # Python's $ alone would allow a line break at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Where the rows of a split come from: a file, a named split of a hub dataset, or a share of the train rows."""

    SHORTHAND: ClassVar[str] = "path"

    path: Annotated[str | None, About("A file: .jsonl, .json, .csv, .tsv or .parquet.")] = None
    name: Annotated[str | None, About("A split of the hub dataset in /dataset/id.")] = None
    fraction: Annotated[float | None, About("A share of the train rows, taken out of them.", above=0, below=1)] = None
    stratify: Annotated[bool | None, About("With fraction: keep the shares of the labels. Default true.")] = None
    seed: Annotated[int | None, About("With fraction or rows: which rows are drawn. Default 0.", minimum=0)] = None
    rows: Annotated[int | None, About("Use at most this many rows, drawn by the seed.", minimum=1)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The rows. A bare string for a split is a path."""

    id: Annotated[str | None, About("A dataset of the hub.")] = None
    revision: Annotated[str | None, About("Branch, tag or commit of the hub dataset.")] = None
    train: Annotated[Split, About("The rows that are learnt from.")]
    validation: Annotated[
        Split | None, About("The rows that choose between checkpoints. Default a tenth of train; null for none.")
    ] = field(default_factory=lambda: Split(fraction=0.1))
    test: Annotated[
        Split | None, About("The held-out rows of the report and the gate. Default a tenth of train; null for none.")
    ] = field(default_factory=lambda: Split(fraction=0.1))
    columns: Annotated[
        Mapping[str, str], About("From a column that the task reads to its name in the data.", keys=tuple(COLUMNS))
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The pretrained model."""

    SHORTHAND: ClassVar[str] = "id"

    id: Annotated[str, About("A folder, or a hub id.", nonempty=True)]
    revision: Annotated[str | None, About("Branch, tag or commit of the hub model.")] = None


_WARMUP = About("Steps over which the rate rises from zero. auto: a tenth of all steps.", minimum=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The learning rate stays, after the warm-up."""

    type: Annotated[Literal["constant"], About("The rate stays, after the warm-up.")] = "constant"
    warmup_steps: Annotated[int | Literal["auto"], _WARMUP] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """The learning rate falls in a line to zero at the last step."""

    type: Annotated[Literal["linear"], About("The rate falls in a line to zero at the last step.")] = "linear"
    warmup_steps: Annotated[int | Literal["auto"], _WARMUP] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosine:
    """The learning rate falls in half a cosine to zero (Loshchilov and Hutter 2017, arXiv:1608.03983)."""

    type: Annotated[Literal["cosine"], About("The rate falls in half a cosine to zero at the last step.")] = "cosine"
    warmup_steps: Annotated[int | Literal["auto"], _WARMUP] = "auto"


Schedule = Constant | Linear | Cosine
_LOSS = "/training/loss"
_OF_A_TASK = (["task"], ["dataset"], ["metrics"], ["loss"])  # what each of several tasks has for itself
_BETA = "Decay of the running mean of the {}."


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    type: Annotated[Literal["adamw"], About("Adam with decoupled weight decay.")] = "adamw"
    beta1: Annotated[float, About(_BETA.format("gradient"), minimum=0, below=1)] = 0.9
    beta2: Annotated[float, About(_BETA.format("squared gradient"), minimum=0, below=1)] = 0.999
    epsilon: Annotated[float, About("Added to the denominator.", above=0)] = 1e-8
    state: Annotated[
        Literal["32-bit", "8-bit"],
        About(
            "How running means are held. 8-bit: those of large weights, in blocks (bitsandbytes, PyTorch on cuda, cpu)."
        ),
    ] = field(default="32-bit", metadata={"later": True})
    paged: Annotated[
        bool, About("Keep running means in the machine's memory while the GPU has no room (bitsandbytes, cuda).")
    ] = field(default=False, metadata={"later": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Adam; weight decay is added to the gradient (Kingma and Ba 2015, arXiv:1412.6980)."""

    type: Annotated[Literal["adam"], About("Adam; weight decay is added to the gradient.")] = "adam"
    beta1: Annotated[float, About(_BETA.format("gradient"), minimum=0, below=1)] = 0.9
    beta2: Annotated[float, About(_BETA.format("squared gradient"), minimum=0, below=1)] = 0.999
    epsilon: Annotated[float, About("Added to the denominator.", above=0)] = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class SGD:
    """Stochastic gradient descent; weight decay is added to the gradient."""

    type: Annotated[Literal["sgd"], About("Stochastic gradient descent.")] = "sgd"
    momentum: Annotated[float, About("Share of the last update that is kept.", minimum=0, below=1)] = 0.0


Optimizer = AdamW | Adam | SGD
Excluded = Literal["vectors", "biases", "norms", "embeddings", "head"]
"""Kinds of parameters that may be left out of weight decay, in the order in which a plan has them."""


ClassWeights = Mapping[str, float] | Literal["none", "balanced"]
_CLASS_WEIGHTS = About(
    "Weight of each label's rows; balanced: inverse to how often the label stands in train.", above=0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy:
    """Mean negative log-likelihood of the labels, in nats."""

    type: Annotated[Literal["cross-entropy"], About("Mean negative log-likelihood of the labels.")] = "cross-entropy"
    class_weights: Annotated[ClassWeights, _CLASS_WEIGHTS] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryCrossEntropy:
    """Mean negative log-likelihood of having each label or not, in nats: where a row may have several."""

    type: Annotated[
        Literal["binary-cross-entropy"], About("Mean negative log-likelihood of having each label or not.")
    ] = "binary-cross-entropy"
    class_weights: Annotated[
        ClassWeights,
        About("Weight of each label where a row has it; balanced: rows without it, over rows with it.", above=0),
    ] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Focal:
    """Cross-entropy times (1 - p)^gamma, p the share given to the true label (Lin et al. 2017, arXiv:1708.02002)."""

    type: Annotated[Literal["focal"], About("Cross-entropy in which rows that are answered well weigh little.")] = (
        "focal"
    )
    gamma: Annotated[float, About("How little they weigh; 0 is cross-entropy.", minimum=0, maximum=10)] = 2.0
    class_weights: Annotated[ClassWeights, _CLASS_WEIGHTS] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanSquaredError:
    """Mean squared difference, in squared standard deviations of the train rows."""

    type: Annotated[Literal["mse"], About("Mean squared difference from the targets.")] = "mse"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanAbsoluteError:
    """Mean absolute difference, in standard deviations of the train rows."""

    type: Annotated[Literal["mae"], About("Mean absolute difference from the targets.")] = "mae"


@dataclass(frozen=True, slots=True, kw_only=True)
class Huber:
    """Half the squared difference up to `delta`, a line beyond it (Huber 1964, doi:10.1214/aoms/1177703732)."""

    type: Annotated[Literal["huber"], About("Squared up to delta, straight beyond.")] = "huber"
    delta: Annotated[float, About("Where the line begins, in standard deviations of the train rows.", above=0)] = 1.0


LabelLoss = CrossEntropy | BinaryCrossEntropy | Focal
Loss = LabelLoss | MeanSquaredError | MeanAbsoluteError | Huber


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceWeights:
    """Rows of rare labels weigh more in the loss: class_weights of "balanced"."""

    type: Annotated[Literal["weights"], About("Rows of rare labels weigh more in the loss.")] = "weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class Oversample:
    """Rows of rare labels stand in an epoch several times, until each label has as many as the commonest."""

    type: Annotated[Literal["oversample"], About("Each label has as many rows of an epoch as the commonest.")] = (
        "oversample"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Undersample:
    """Each label has as many rows of an epoch as the rarest; the others are drawn anew in each epoch."""

    type: Annotated[Literal["undersample"], About("Each label has as many rows of an epoch as the rarest.")] = (
        "undersample"
    )


Balance = BalanceWeights | Oversample | Undersample


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopping:
    """Stop when the validation rows no longer gain."""

    patience: Annotated[int, About("Evaluations without a gain before the stop.", minimum=1)] = 3
    metric: Annotated[str, About("A metric of the recipe, or loss. auto: the recipe's first metric.")] = "auto"
    min_delta: Annotated[float, About("The least change that counts as a gain.", minimum=0)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long and how the parameters are trained."""

    epochs: Annotated[int | None, About("Passes over the train rows. Default 3.", minimum=1)] = None
    max_steps: Annotated[int | None, About("Optimizer steps, instead of epochs.", minimum=1)] = None
    learning_rate: Annotated[float | Literal["auto"], About("The highest rate. auto: by the method.", above=0)] = "auto"
    schedule: Annotated[Schedule, About("How the rate changes over the steps.")] = Linear()
    optimizer: Annotated[Optimizer, About("The rule of the update.")] = AdamW()
    weight_decay: Annotated[
        float | Literal["auto"],
        About("Decay of weights; not of biases and norms. auto: 0.01 for adamw, else 0.", minimum=0),
    ] = "auto"
    decay_excludes: Annotated[
        tuple[Excluded, ...],
        About("What does not decay. vectors: all that is no matrix, such as biases and the scales of norms."),
    ] = ("vectors",)
    layer_decay: Annotated[
        float,
        About(
            "The rate of a layer, as a share of the rate of the layer above it; below all are the embeddings. "
            "1: one rate for all.",
            above=0,
            maximum=1,
        ),
    ] = 1.0
    head_lr_multiplier: Annotated[
        float, About("The rate of the task head, as a multiple of learning_rate.", above=0, maximum=1000)
    ] = 1.0
    unfreeze_every: Annotated[
        int | Literal["epoch"] | None,
        About(
            "Train the head first, and one more layer from the top after every so many steps, the embeddings last. "
            "null: all from the start.",
            minimum=1,
        ),
    ] = None
    neftune_alpha: Annotated[
        float | None,
        About(
            "Noise on the embeddings of what is read, in training alone: uniform up to this over the root of the row's "
            "tokens times the width. null: none.",
            above=0,
        ),
    ] = None
    ema_decay: Annotated[
        float | None,
        About(
            "Evaluate and keep a running average of the weights, which each step leaves this share of. "
            "null: the weights themselves.",
            above=0,
            below=1,
        ),
    ] = None
    batch_size: Annotated[int, About("Rows of one optimizer step.", minimum=1)] = 32
    micro_batch_size: Annotated[
        int | Literal["auto"],
        About("Rows computed at once; changes memory, not the result. auto: batch_size.", minimum=1),
    ] = "auto"
    gradient_checkpointing: Annotated[
        bool,
        About("Compute each layer again for its gradients instead of keeping it; less memory, slower, same result."),
    ] = False
    max_grad_norm: Annotated[
        float | None, About("The gradient's norm is clipped here; null for no clipping.", above=0)
    ] = 1.0
    max_length: Annotated[
        int | Literal["auto"],
        About("Tokens of a row that are read. auto: the longest row, at most 512 and what the model takes.", minimum=2),
    ] = "auto"
    packing: Annotated[
        bool | Literal["auto"],
        About("Several rows in one sequence of max_length tokens, blind to each other. auto: for language models."),
    ] = "auto"
    label_smoothing: Annotated[float, About("Share of the target spread over all labels.", minimum=0, below=1)] = 0.0
    loss: Annotated[Loss | None, About("What is minimised. Follows from the task when it is not named.")] = None
    balance: Annotated[
        Balance | None, About("Makes up for labels of which train has few rows. Default: they count as they stand.")
    ] = None
    seed: Annotated[
        int, About("Decides fresh weights, the order of rows and dropout.", minimum=0, maximum=2**32 - 1)
    ] = 0
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], About("Of the computation. auto: bf16 on cuda, else fp32.")
    ] = "auto"
    evaluate_every: Annotated[int | Literal["epoch"], About("Steps between evaluations.", minimum=1)] = "epoch"
    checkpoint_every: Annotated[int | Literal["epoch"], About("Steps between checkpoints.", minimum=1)] = "epoch"
    keep: Annotated[
        Literal["auto", "best", "last"],
        About("Which checkpoint becomes the model. auto: best where there are validation rows, else last."),
    ] = "auto"
    early_stopping: Annotated[EarlyStopping | None, About("Stop before the end when nothing is gained.")] = None


Precision = Literal["fp32", "fp16", "int8", "int8-static", "int4"]
Held = Literal["fp32", "fp16", "bf16", "int8", "int8-static", "int4", "8 bits", "4 bits"]
"""How the weights of an export are held, whatever its format: those in so many bits are MLX's."""
_LATER: Mapping[str, bool] = {"later": True}  # not in plans, nor in keys, where it has its default
MOST_DROP = 1
MOST_EXCUSED = 0.1
_MAX_METRIC_DROP = About(
    "How much worse a metric may be after rounding; a share of it where lower is better. "
    "auto: 0.01, 0.02 with 8 bits, 0.1 with 4.",
    minimum=0,
    maximum=MOST_DROP,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Onnx:
    """An ONNX graph, in a bundle that needs onnxruntime, tokenizers and numpy."""

    format: Annotated[Literal["onnx"], About("An ONNX graph and the bundle around it.")] = "onnx"
    opset: Annotated[
        int | Literal["auto"],
        About("The ONNX operator set. auto: 18, and 22 of what onnxruntime-genai writes.", minimum=18, maximum=23),
    ] = "auto"
    exporter: Annotated[
        Literal["auto", "genai", "transformers"],
        About(
            "What writes the graph. genai: onnxruntime-genai's builder, of decoders that it is known to write right, "
            "with grouped-query attention; the bundle then opens in onnxruntime-genai. auto: genai where it can."
        ),
    ] = "auto"
    adapter: Annotated[
        Literal["merged", "separate"],
        About(
            "Where the updates of method lora go. merged: into the weights. separate: into a file beside the graph, "
            "which is the base without it; onnxruntime and onnxruntime-genai load it. Of what genai writes, in fp32."
        ),
    ] = field(default="merged", metadata=_LATER)
    precision: Annotated[
        Precision,
        About(
            "Of the weights. int8: in whole numbers, and what they are multiplied with while it runs; of models that "
            "write, the weights alone. int8-static: both, by ranges seen on train rows. int4: weights in blocks."
        ),
    ] = field(default="fp32", metadata=_LATER)
    block_size: Annotated[
        Literal[16, 32, 64, 128, 256],
        About("Inputs of a layer that share a scale, with int4, or where int8 has blocks."),
    ] = field(default=32, metadata=_LATER)
    calibration_rows: Annotated[
        int, About("Train rows on which int8-static sees the ranges of what it rounds.", minimum=1)
    ] = field(default=128, metadata=_LATER)
    max_metric_drop: Annotated[float | Literal["auto"], _MAX_METRIC_DROP] = field(default="auto", metadata=_LATER)

    @property
    def is_exact(self) -> bool:
        """Whether nothing is rounded."""
        return self.precision == "fp32"

    @property
    def whole(self) -> Onnx:
        """The export in float32, which is rounded afterwards."""
        return Onnx(opset=self.opset, exporter=self.exporter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlx:
    """For Apple silicon: a folder that mlx-lm opens, or a function for MLX in a bundle."""

    format: Annotated[
        Literal["mlx"],
        About(
            "Of a language model that writes, a folder that mlx-lm opens; of other models a function for MLX, and the "
            "bundle around it, which needs mlx, tokenizers and numpy."
        ),
    ] = "mlx"
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], About("Of the weights, or of their scales; and what is computed in.")
    ] = "fp32"
    bits: Annotated[Literal[4, 8] | None, About("Bits of a quantized weight; null for none.")] = None
    group_size: Annotated[GroupSize, About("Inputs of a layer that share a scale.")] = 64
    max_metric_drop: Annotated[float | Literal["auto"], _MAX_METRIC_DROP] = "auto"

    @property
    def is_exact(self) -> bool:
        """Whether no weight is rounded."""
        return self.precision == "fp32" and self.bits is None

    @property
    def held(self) -> Held:
        """How the weights are held."""
        if self.bits is None:
            return self.precision
        return "8 bits" if self.bits == 8 else "4 bits"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreMl:
    """For apps on Apple's systems: a Core ML package of a model that answers at once."""

    format: Annotated[
        Literal["coreml"],
        About(
            "A Core ML package, of models that classify, tag, measure or find answers. It is written anywhere, and run "
            "and proven on macOS alone; no bundle is made of it."
        ),
    ] = "coreml"
    precision: Annotated[Literal["fp32", "fp16"], About("Of the weights, and what is computed in.")] = "fp32"
    max_metric_drop: Annotated[float | Literal["auto"], _MAX_METRIC_DROP] = "auto"

    @property
    def is_exact(self) -> bool:
        """Whether no weight is rounded."""
        return self.precision == "fp32"


Export = Onnx | Mlx | CoreMl


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """What the gate asks of an export."""

    rows: Annotated[int | None, About("Compare at most this many held-out rows; null for all.", minimum=1)] = None
    tolerance_factor: Annotated[
        float, About("The outputs may differ by this many times the source's own float32 noise.", above=0, maximum=100)
    ] = 8.0
    max_excused: Annotated[
        float, About("Share of the rows that may be near ties before the gate fails.", minimum=0, maximum=MOST_EXCUSED)
    ] = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A training of several, which starts from the model that the one before it left."""

    name: Annotated[str, About("What its steps are called by: letters, digits, dash, underscore.", pattern=STAGE_NAME)]
    task: Annotated[Task, About("What the model is to do.")]
    dataset: Annotated[Dataset, About("The rows.")]
    method: Annotated[Method, About("What is trained. Merges with the recipe's.")] = Full()
    training: Annotated[Training, About("How it is trained. Merges with the recipe's.")] = Training()
    metrics: Annotated[tuple[Metric, ...], About("What is measured. Default the recipe's, else by the task.")] = ()
    generation: Annotated[Generation, About("How answers are written. Merges with the recipe's.")] = Generation()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A fine-tuning recipe."""

    recipe: Annotated[Literal[1], About("The version of the language.")]
    name: Annotated[str, About("The name of the run's folder: letters, digits, dot, dash, underscore.", pattern=NAME)]
    description: Annotated[str, About("For people.")] = ""
    task: Annotated[Task, About("What the model is to do. Required, here or in each of the stages.")]
    dataset: Annotated[Dataset, About("The rows. Required, here or in each of the stages.")]
    model: Annotated[Model, About("The pretrained model. A bare string is its id.")]
    method: Annotated[Method, About("What is trained.")] = Full()
    training: Annotated[Training, About("How it is trained.")] = Training()
    metrics: Annotated[tuple[Metric, ...], About("What is measured. Default by the task.")] = ()
    generation: Annotated[Generation, About("How answers are written, wherever they are.")] = Generation()
    runtime: Annotated[
        Literal["auto", "pytorch", "mlx"], About("What runs the plan. auto: mlx on Apple silicon, else pytorch.")
    ] = "auto"
    export: Annotated[tuple[Export, ...], About("What is written for deployment.")] = ()
    verify: Annotated[Verify, About("What the gate asks of an export.")] = Verify()
    stages: Annotated[
        tuple[Stage, ...],
        About(
            "Trainings one after another, each with a task and a dataset of its own, which then stand in none other "
            "place. What else stands beside them is common to all; the last one's model is exported.",
            nonempty=True,
            parts=True,
        ),
    ] = field(default=(), metadata={"later": True})
    document: Document = field(compare=False, repr=False, metadata={"hidden": True})
    within: str = field(default="", compare=False, metadata={"hidden": True})
    """Of several tasks' recipe, the JSON Pointer of this one; there stand its task, rows, metrics and loss."""

    def at(self, pointer: str) -> Place:
        """Where the value under a JSON Pointer was written, or its nearest ancestor."""
        return self.document.at(pointer)

    def finding(
        self, code: str, pointer: str, message: str, hint: str = "", *, severity: Severity = "error", key: bool = False
    ) -> Diagnostic:
        """A finding about the value under a JSON Pointer; with `key`, about the key that the pointer ends in."""
        at = self.document.key_at(pointer) if key else self.at(pointer)
        found = Diagnostic(code=code, at=at, pointer=pointer, message=message, hint=hint, severity=severity)
        return replace(found, pointer=self.pointer(pointer))

    def unread(self, pointer: str, reason: str, hint: str) -> Diagnostic:
        """The finding that nothing reads the key which a JSON Pointer ends in, and why."""
        name = pointer.rpartition("/")[2]
        return self.finding("R202", pointer, f'nothing reads "{name}" {reason}', hint, key=True)

    def pointer(self, pointer: str) -> str:
        """The JSON Pointer into the file of what a recipe of one task has under a pointer."""
        own = pointer.replace(_LOSS, "/loss", 1) if pointer.startswith(_LOSS) else pointer
        return f"{self.within}{own}" if self.within and own.split("/")[1:2] in _OF_A_TASK else pointer

    def wrote(self, pointer: str) -> Node | None:
        """What the author wrote under a pointer, or None when it was left out."""
        return self.document.find(pointer)
