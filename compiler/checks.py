"""What the schema can't say about a recipe, without looking at the data or the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from compiler import methods, tasks
from compiler.coreml import check_coreml
from compiler.data.checks import check_split_kinds
from compiler.diagnostics import Diagnostic, did_you_mean
from compiler.genai import check_adapter, check_exporter
from compiler.metrics import UNRANKED, OfClasses, name_of
from compiler.moments import unheld
from compiler.options import check_options
from compiler.placement import LIMIT_HINT, DeviceKind, Runtime, Target, choose_runtime, unkept_limit
from compiler.precisions import check_precisions, drop_of
from compiler.recipe import CoreMl, Export, Mlx, Onnx, Recipe, Split

OPSET = 18


def check_recipe(recipe: Recipe) -> Iterator[Diagnostic]:
    """Every finding about the recipe alone."""
    yield from check_metrics(recipe)
    yield from check_loss(recipe)
    yield from check_columns(recipe)
    yield from check_distinct_columns(recipe)
    yield from tasks.module_of(recipe.task).check(recipe)
    yield from check_length(recipe)
    yield from check_max_length(recipe)
    yield from check_packing(recipe)
    yield from check_balance(recipe)
    yield from check_micro_batch(recipe)
    yield from check_options(recipe)
    yield from check_split_kinds(recipe)
    yield from check_split_keys(recipe)
    yield from check_selection(recipe)
    yield from check_held_out(recipe)
    yield from check_exports(recipe)
    yield from check_formats(recipe)
    yield from check_coreml(recipe)
    yield from check_exporter(recipe)
    yield from check_adapter(recipe)
    yield from check_precisions(recipe)
    yield from check_generation(recipe)
    yield from check_unread_gate(recipe)
    yield from check_runtime(recipe)
    yield from check_moments(recipe)


def check_metrics(recipe: Recipe) -> Iterator[Diagnostic]:
    """Metrics belong to the task, stand once, and name a positive class only where one is scored."""
    known = tasks.module_of(recipe.task).METRICS
    seen: dict[str, int] = {}
    for index, metric in enumerate(recipe.metrics):
        pointer = f"/metrics/{index}"
        if metric.type not in known:
            message = f'the task "{recipe.task.type}" has no metric "{metric.type}"'
            hint = f"its metrics: {', '.join(sorted(known))}"  # no typo: another task has it
            yield recipe.finding("R201", f"{pointer}/type", message, hint)
        name = name_of(metric)
        if name in seen:
            message = f"{name} is listed twice, first as item {seen[name]}"
            yield recipe.finding("R203", pointer, message, "remove one")
        seen.setdefault(name, index)
        wrote_positive = recipe.wrote(f"{pointer}/positive") is not None
        if wrote_positive and isinstance(metric, OfClasses) and metric.average != "binary":
            reason = f'with average "{metric.average}"'
            yield recipe.unread(f"{pointer}/positive", reason, 'set average to "binary"')


def check_loss(recipe: Recipe) -> Iterator[Diagnostic]:
    """The loss belongs to the task."""
    loss, known = recipe.training.loss, tasks.module_of(recipe.task).LOSSES
    if loss is not None and loss.type not in known:
        message = f'the task "{recipe.task.type}" has no loss "{loss.type}"'
        yield recipe.finding("R201", "/training/loss/type", message, did_you_mean(loss.type, known, noun="its losses"))


def check_columns(recipe: Recipe) -> Iterator[Diagnostic]:
    """Columns are named for the roles that the task has."""
    roles = tasks.module_of(recipe.task).COLUMNS
    for role in recipe.dataset.columns:
        if role not in roles:
            reason = f'with the task "{recipe.task.type}"'
            yield recipe.unread(f"/dataset/columns/{role}", reason, did_you_mean(role, roles, noun="its columns"))


def check_distinct_columns(recipe: Recipe) -> Iterator[Diagnostic]:
    """Each role has a column of its own."""
    owners: dict[str, str] = {}
    for role, column in tasks.columns_of(recipe.task, recipe.dataset.columns).items():
        owner = owners.setdefault(column, role)
        if owner != role:
            pointers = [tasks.pointer_of(recipe.task, one) for one in (role, owner)]
            pointer = next((pointer for pointer in pointers if recipe.wrote(pointer) is not None), pointers[-1])
            known = tasks.module_of(recipe.task).COLUMNS
            one, other = (name if name in known else f'target "{name}"' for name in (owner, role))
            message = f'the column "{column}" is both the {one} and the {other}'
            yield recipe.finding("R216", pointer, message, "name another column for one of them")


def check_length(recipe: Recipe) -> Iterator[Diagnostic]:
    """A training is as long as its epochs or its max_steps, not both."""
    if recipe.training.epochs is not None and recipe.training.max_steps is not None:
        yield recipe.unread("/training/epochs", "with max_steps", "keep one of epochs and max_steps")


def check_max_length(recipe: Recipe) -> Iterator[Diagnostic]:
    """Tokens are counted where a model reads tokens."""
    if recipe.wrote("/training/max_length") is not None and tasks.reads(recipe.task) == "image":
        reason = f'with the task "{recipe.task.type}"'
        yield recipe.unread("/training/max_length", reason, "remove it: the image processor says how large images are")


def check_balance(recipe: Recipe) -> Iterator[Diagnostic]:
    """Rows are balanced where they have classes."""
    if recipe.training.balance is not None and not tasks.module_of(recipe.task).STRATIFIES:
        reason = f'with the task "{recipe.task.type}"'
        yield recipe.unread("/training/balance", reason, "remove it: its rows have no classes")


def check_packing(recipe: Recipe) -> Iterator[Diagnostic]:
    """Rows are packed where the task can keep them apart."""
    if recipe.wrote("/training/packing") is not None and tasks.module_of(recipe.task).PACKING == "none":
        reason = f'with the task "{recipe.task.type}"'
        yield recipe.unread("/training/packing", reason, "remove it: each of its rows is a sequence of its own")


def check_micro_batch(recipe: Recipe) -> Iterator[Diagnostic]:
    """A micro-batch is part of a batch."""
    micro, batch = recipe.training.micro_batch_size, recipe.training.batch_size
    if micro != "auto" and micro > batch:
        message = f"a micro-batch of {micro} rows is larger than the batch of {batch}"
        yield recipe.finding("R209", "/training/micro_batch_size", message, f"at most {batch}")


def check_split_keys(recipe: Recipe) -> Iterator[Diagnostic]:
    """Keys about drawing rows stand only where rows are drawn."""
    if recipe.dataset.revision is not None and recipe.dataset.id is None:
        yield recipe.unread("/dataset/revision", "without id", "add the id of the hub dataset")
    for name in ("train", "validation", "test"):
        split: Split | None = getattr(recipe.dataset, name)
        pointer = f"/dataset/{name}"
        if split is None:
            continue
        if split.stratify is not None and split.fraction is None:
            yield recipe.unread(f"{pointer}/stratify", "without fraction", "remove it, or draw a fraction")
        elif split.stratify is not None and not tasks.module_of(recipe.task).STRATIFIES:
            reason = f'with the task "{recipe.task.type}"'
            yield recipe.unread(f"{pointer}/stratify", reason, "remove it: its rows have no classes")
        if split.seed is not None and split.fraction is None and split.rows is None:
            yield recipe.unread(f"{pointer}/seed", "without fraction or rows", "remove it")


def check_selection(recipe: Recipe) -> Iterator[Diagnostic]:
    """What reads validation rows needs validation rows, and a metric that is measured."""
    training = recipe.training
    if recipe.dataset.validation is None:
        for key in ("early_stopping", "evaluate_every"):
            if recipe.wrote(f"/training/{key}") is not None and getattr(training, key) is not None:
                yield recipe.unread(f"/training/{key}", "without validation rows", "add /dataset/validation")
        if training.keep == "best":
            message = "without validation rows no checkpoint is the best one"
            yield recipe.finding("R210", "/training/keep", message, "add /dataset/validation, or keep the last")
    stopping = training.early_stopping
    if stopping is None or stopping.metric == "auto":
        return
    known = selectable(recipe)
    if stopping.metric not in known:
        message = f'"{stopping.metric}" is not measured by this recipe'
        hint = did_you_mean(stopping.metric, known, noun="measured")
        yield recipe.finding("R201", "/training/early_stopping/metric", message, hint)


def selectable(recipe: Recipe) -> tuple[str, ...]:
    """The words by which validation rows can choose: loss, metrics' names, and types that only one metric has."""
    listed = recipe.metrics or tasks.module_of(recipe.task).DEFAULT_METRICS
    written = tasks.module_of(recipe.task).WRITTEN  # too slow to be measured between steps
    metrics = [metric for metric in listed if name_of(metric) not in UNRANKED and metric.type not in written]
    types = [metric.type for metric in metrics]
    return ("loss", *dict.fromkeys([*(name_of(m) for m in metrics), *(t for t in types if types.count(t) == 1)]))


def check_held_out(recipe: Recipe) -> Iterator[Diagnostic]:
    """A gate needs rows that were not trained on."""
    if recipe.export and recipe.dataset.test is None and recipe.dataset.validation is None:
        message = "the export gate needs held-out rows, and there are none"
        yield recipe.finding("R211", "/dataset", message, 'add "test": {"fraction": 0.1}')


def check_runtime(recipe: Recipe) -> Iterator[Diagnostic]:
    """The method runs on the runtime that the recipe names."""
    runtimes = methods.module_of(recipe.method).RUNTIMES
    if recipe.runtime != "auto" and recipe.runtime not in runtimes:
        message = f'the method "{recipe.method.type}" runs on {", ".join(runtimes)}, not on {recipe.runtime}'
        yield recipe.finding("R213", "/runtime", message, f'write "runtime": "{runtimes[0]}", or use another method')


def check_moments(recipe: Recipe) -> Iterator[Diagnostic]:
    """The runtime that the recipe names can hold the optimizer's running means as it says."""
    if recipe.runtime != "auto":
        yield from _unheld_findings(recipe, recipe.runtime, None, f"the recipe's runtime is {recipe.runtime}")


def _unheld_findings(recipe: Recipe, engine: Runtime, device: DeviceKind | None, reason: str) -> Iterator[Diagnostic]:
    for key, message in unheld(recipe.training.optimizer, engine, device):
        hint = f'remove "{key}", or run it with PyTorch where it can be: --runtime pytorch --target cuda'
        yield recipe.finding("R222", f"/training/optimizer/{key}", f"{message}, and {reason}", hint)


def check_placement(recipe: Recipe, target: Target, runtime: Runtime | None) -> Iterator[Diagnostic]:
    """The runtime that the command line asks for, or that is chosen for the target, has the method and the limit."""
    runtimes = methods.module_of(recipe.method).RUNTIMES
    engine, reason = choose_runtime(target, runtime or recipe.runtime)
    if engine not in runtimes:
        chosen = f"{engine} was chosen on {target.kind}: {reason}"
        message = f'the method "{recipe.method.type}" runs on {", ".join(runtimes)}, and {chosen}'
        yield recipe.finding(
            "R213", "/method", message, f'write "runtime": "{runtimes[0]}", or --runtime {runtimes[0]}'
        )
    else:
        yield from _unheld_findings(recipe, engine, target.kind, f"{engine} was chosen on {target.kind}: {reason}")
    if unkept := unkept_limit(target, runtime or recipe.runtime):
        yield recipe.finding("R217", "/runtime", unkept, LIMIT_HINT.format(kind=target.kind))


def check_exports(recipe: Recipe) -> Iterator[Diagnostic]:
    """Each export stands once: what is allowed of it changes nothing of what is written."""
    exports = [resolved_export(export) for export in recipe.export]
    written = [replace(export, max_metric_drop="auto") for export in exports]
    for index, export in enumerate(exports):
        first = written.index(written[index])
        if first == index:
            continue
        if export in exports[:index]:
            first, message = exports.index(export), "the same export is listed twice, first as item {}"
        else:
            message = "it writes the same as item {}, and differs in max_metric_drop alone"
        yield recipe.finding("R203", f"/export/{index}", message.format(first), "remove one")


def resolved_export(export: Export) -> Export:
    """The export with nothing left open."""
    match export:
        case Onnx():
            opset = OPSET if export.opset == "auto" else export.opset
            return replace(export, opset=opset, max_metric_drop="auto" if export.is_exact else drop_of(export))
        case Mlx() | CoreMl():
            return replace(export, max_metric_drop=drop_of(export))


def check_generation(recipe: Recipe) -> Iterator[Diagnostic]:
    """How texts are written is read where the task writes some; what is drawn is not searched."""
    generation = recipe.generation
    if recipe.wrote("/generation") is None:
        return
    if not tasks.module_of(recipe.task).WRITES:
        yield recipe.unread("/generation", f'with the task "{recipe.task.type}"', "remove it: it writes no text")
        return
    yield from check_few_shot(recipe)
    if not generation.samples:
        keys = ("top_k", "top_p") if generation.few_shot and asks_for_texts(recipe) else ("top_k", "top_p", "seed")
        for key in keys:
            if recipe.wrote(f"/generation/{key}") is not None:
                yield recipe.unread(f"/generation/{key}", "without temperature", "add a temperature, or remove it")
    elif generation.num_beams > 1:
        yield recipe.unread("/generation/num_beams", "with temperature", "keep one of them: beams are not drawn")
    for index, stop in enumerate(generation.stop):
        if not stop:
            message = "the empty text is in every answer, so each would end at once"
            yield recipe.finding("R219", f"/generation/stop/{index}", message, "remove it")


def check_few_shot(recipe: Recipe) -> Iterator[Diagnostic]:
    """Solved rows are put before prompts where a decoder writes, and a metric reads what it writes."""
    pointer = "/generation/few_shot"
    if recipe.wrote(pointer) is None:
        return
    if tasks.module_of(recipe.task).ARCHITECTURES != ("decoder",):
        yield recipe.unread(pointer, f'with the task "{recipe.task.type}"', "remove it: its models read one text")
    elif not asks_for_texts(recipe):
        hint = 'add a metric of written texts ("rouge", for example) and held-out rows, or remove it'
        yield recipe.unread(pointer, "where no written text is measured", hint)


def asks_for_texts(recipe: Recipe) -> bool:
    """Whether texts are written for held-out rows, and measured."""
    held_out = recipe.dataset.test is not None or recipe.dataset.validation is not None
    written = tasks.module_of(recipe.task).WRITTEN
    return held_out and any(metric.type in written for metric in recipe.metrics)


def check_formats(recipe: Recipe) -> Iterator[Diagnostic]:
    """A folder for mlx-lm holds the weights of a language model and no more; each key of an export for MLX is read."""
    for index, export in enumerate(recipe.export):
        if not isinstance(export, Mlx):
            continue
        pointer = f"/export/{index}"
        if tasks.module_of(recipe.task).ARCHITECTURES == ("encoder-decoder",) and not export.is_exact:
            message = f'a function that writes has float32 weights, and the task is "{recipe.task.type}"'
            yield recipe.finding("R218", pointer, message, "remove precision and bits")
        elif tasks.is_language_model(recipe.task) and _stays_an_adapter(recipe):
            message = f'a folder for mlx-lm has no place for what the method "{recipe.method.type}" adds to the model'
            hint = 'write {"format": "onnx"}, or use a method that is merged: "lora"'
            yield recipe.finding("R218", pointer, message, hint)
        if export.bits is None and recipe.wrote(f"{pointer}/group_size") is not None:
            yield recipe.unread(f"{pointer}/group_size", "without bits", 'add "bits": 8, or remove it')


def _stays_an_adapter(recipe: Recipe) -> bool:
    """Whether what the method adds to the model is not merged into it."""
    module = methods.module_of(recipe.method)
    return module.SAVES == "adapter" and not module.MERGES


def check_unread_gate(recipe: Recipe) -> Iterator[Diagnostic]:
    """The gate's settings are read only where there is an export."""
    if not recipe.export and recipe.wrote("/verify") is not None:
        yield recipe.unread("/verify", "without an export", 'add "export": ["onnx"]')
