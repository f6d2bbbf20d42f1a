"""The lowered Llama beside mlx-lm's own: step time, memory, and what each counts in its loss.

The same random weights and batches. Both steps are compiled and take turns in one process, step by step, so that each
meets the same weather on the machine; ours also has its gradient's norm and the scaling that clips it, which mlx-lm has
not, at a limit so high that the two train alike. Losses are then set beside exact ones: numpy float64 on the logits of
a float64 model, and that model's gradients.
"""

# B = batch, T = tokens, V = vocabulary

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLE = """\
example:
  LD_PRELOAD=libopenblas.so.0 python benchmarks/mlx_vs_mlx_lm.py     on Debian with libopenblas0-pthread
"""
RATE, DECAY = 1e-4, 0.01
NO_LIMIT = 1e9  # of the gradient's norm: computed and applied, and never reached
IGNORED = -100
Tokens = npt.NDArray[np.int64]
Parameters = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A batch of token rows, padded with zeros behind."""

    tokens: Tokens  # [B, T + 1]
    lengths: Tokens  # [B]

    @property
    def inputs(self) -> Tokens:
        """What the model reads: all but the last token."""
        return self.tokens[:, :-1]

    @property
    def mask(self) -> Tokens:
        """One where the model reads a token of the row."""
        return (np.arange(self.inputs.shape[1]) < self.lengths[:, None]).astype(np.int64)

    @property
    def targets(self) -> Tokens:
        """The token that follows each; -100 where that is padding."""
        follows = np.arange(1, self.tokens.shape[1]) < self.lengths[:, None]
        return np.where(follows, self.tokens[:, 1:], IGNORED)

    @property
    def num_targets(self) -> int:
        """How many tokens are to be predicted."""
        return int((self.targets != IGNORED).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One contestant's steps."""

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]  # of all threads
    peak_memory: int  # bytes of arrays, the other contestant's not counted
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exactness:
    """A figure of both beside the exact one."""

    what: str
    exact: float
    ours: float
    theirs: float


class Ours:
    """The engine on the traced Llama."""

    name = "recipec"

    def __init__(self, model: Any, *, optimizer: Any = None) -> None:
        import mlx.core as mx

        from compiler.recipe import AdamW
        from runtimes.mlx.engine import MlxEngine
        from runtimes.mlx.trace.training import Traced
        from runtimes.mlx.weights import Weights
        from runtimes.pytorch.models import Wrapped
        from runtimes.pytorch.places import places_of
        from tests.runtimes.tiny import placed, train_step

        graph = traced(model)
        named = dict(model.named_parameters())
        weights = {name: mx.array(named[name].detach().numpy()) for name in graph.parameters}
        settings: dict[str, Any] = {
            "optimizer": optimizer or AdamW(),
            "weight_decay": DECAY if optimizer is None else 0.0,
        }
        self.engine = MlxEngine(
            train_step(**settings, max_grad_norm=NO_LIMIT),
            Traced(
                model=model,
                last_layer=None,
                train=graph,
                evaluate=graph,
                names={},
                values={},
                places=places_of(Wrapped(model=model, inner=model, head=(), values={}, last_layer=None)),
            ),
            Weights(parameters=weights, buffers={}, missing=()),
            Path(),
            placed("mlx"),
        )

    def step(self, batches: Sequence[Any], rate: float = RATE) -> float:
        """The loss of one optimizer step over portions."""
        total = float(sum((batch.targets != IGNORED).sum() for batch in batches))
        done = self.engine.train_step(batches, denominators={"loss": total}, learning_rates=(rate,), seed=0)
        return done.result().losses["loss"]

    @staticmethod
    def batch(rows: Rows) -> Any:
        """A batch as the engine takes it."""
        from runtimes.protocol import Batch

        return Batch(
            inputs={"input_ids": rows.inputs, "attention_mask": rows.mask},
            targets=rows.targets,
            weights=np.ones(len(rows.lengths), np.float32),
            positions=np.ones(len(rows.lengths), bool),
            rows=np.arange(len(rows.lengths)),
        )

    def parameters(self) -> Parameters:
        """All parameters now, by torch's names."""
        return {name: np.array(value).astype(np.float64) for name, value in self.engine.trained.items()}


def traced(model: Any) -> Any:
    """The graph of a row's summed losses, for any size of batch."""
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import cross_entropy

    from runtimes.mlx.graph import Input
    from runtimes.mlx.passes import simplify
    from runtimes.mlx.trace import trace
    from runtimes.rows.features import TARGETS

    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor, targets: Tensor) -> dict[str, Tensor]:
            logits = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
            losses_BT = cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
            return {"losses": losses_BT.sum(-1)}

    axes = Input(dtype="int64", axes=("batch", "tokens"))
    with torch.random.fork_rng():
        return simplify(
            trace(Language().train(), dict.fromkeys(("input_ids", "attention_mask", TARGETS), axes), root="model")
        )


class Theirs:
    """mlx-lm's Llama in the step of mlx_lm.tuner.trainer."""

    name = "mlx-lm"

    def __init__(self, model: Any, *, optimizer: Any = None) -> None:
        import mlx.core as mx
        import mlx.optimizers
        from mlx.nn.utils import value_and_grad
        from mlx_lm.models.llama import Model, ModelArgs
        from mlx_lm.tuner.trainer import default_loss

        settings = model.config.to_dict() | {"rope_theta": theta(model.config)}
        self.model = Model(ModelArgs.from_dict(settings))  # type: ignore[no-untyped-call]
        weights = [(name, mx.array(value.detach().numpy())) for name, value in model.named_parameters()]
        self.model.load_weights(weights)
        # torch corrects Adam's bias, mlx-lm's default does not; with it, the losses of both can be compared.
        self.optimizer = optimizer or mlx.optimizers.AdamW(RATE, weight_decay=DECAY, bias_correction=True)
        differentiated = value_and_grad(self.model, default_loss)
        self.state = [self.model.state, self.optimizer.state, mx.random.state]
        mx.eval(self.model.parameters())

        @partial(mx.compile, inputs=self.state, outputs=self.state)
        def step(batch: mx.array, lengths: mx.array) -> mx.array:
            loss: mx.array
            (loss, _), gradients = differentiated(self.model, batch, lengths)
            self.optimizer.update(self.model, gradients)
            return loss

        self.compiled = step

    def step(self, batches: Sequence[Any]) -> float:
        """The loss of one optimizer step over a portion."""
        import mlx.core as mx

        [batch] = batches
        loss = self.compiled(*map(mx.array, batch))
        mx.eval(self.state, loss)
        return float(np.array(loss))

    @staticmethod
    def batch(rows: Rows) -> Any:
        """A batch as mlx-lm's loss takes it: tokens, and where each row begins and ends."""
        begins_and_ends = np.stack([np.zeros_like(rows.lengths), rows.lengths], axis=1)
        return rows.tokens.astype(np.int32), begins_and_ends.astype(np.int32)

    def loss(self, rows: Rows) -> float:
        """What mlx-lm takes for the loss of a batch."""
        import mlx.core as mx
        from mlx_lm.tuner.trainer import default_loss

        loss, _ = default_loss(self.model, *map(mx.array, self.batch(rows)))  # type: ignore[no-untyped-call]
        return float(np.array(loss))

    def train(self, portions: Sequence[Rows], accumulated: int) -> None:
        """mlx_lm.tuner.trainer.train itself, on these batches in this order."""
        import mlx.core as mx
        from mlx_lm.tuner.trainer import TrainingArgs, train

        def batches(**_: Any) -> Iterator[Any]:
            yield from (tuple(map(mx.array, self.batch(rows))) for rows in portions)

        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            settings = TrainingArgs(
                iters=len(portions),
                grad_accumulation_steps=accumulated,
                adapter_file=str(Path(folder) / "a.safetensors"),
            )
            train(self.model, self.optimizer, None, args=settings, iterate_batches=batches)

    def parameters(self) -> Parameters:
        """All parameters now, by torch's names."""
        from mlx.utils import tree_flatten

        named = dict(tree_flatten(self.model.parameters()))
        return {name: np.array(value).astype(np.float64) for name, value in named.items()}


def theta(config: Any) -> float:
    """The base of the rotary frequencies."""
    return float(config.rope_parameters["rope_theta"])


def main() -> None:
    """Prints the figures, or JSON."""
    options = arguments()
    sys.path.insert(0, str(PROJECT))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import mlx_lm  # noqa: F401
    except ImportError:
        sys.exit('mlx-lm is not here: pip install "recipec[mlx]"')
    runs = [] if options.only == "losses" else [take_turns(options) for _ in range(options.repeats)]
    figures = [] if options.only == "speed" else [*padding(options), *accumulation(options)]
    if options.json:
        print(json.dumps(summary(options, runs, figures), indent=2))
    else:
        print("\n\n".join(filter(None, (table(options, runs) if runs else "", report(figures)))))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=4, help="heads of keys and values (default 4)")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=64, help="tokens that the model reads of a row (default 64)")
    parser.add_argument("--steps", type=int, default=20, help="steps of each that are timed (default 20)")
    parser.add_argument("--repeats", type=int, default=3, help="times that all is measured anew (default 3)")
    parser.add_argument("--only", choices=("speed", "losses"))
    parser.add_argument("--json", action="store_true", help="print as JSON")
    return parser.parse_args()


def llama(options: argparse.Namespace) -> Any:
    """A random Llama of torch, the same for the same options."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        intermediate_size=options.hidden * 11 // 4,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM._from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]  # noqa: SLF001


def random_rows(options: argparse.Namespace, seed: int, shortest: float = 1.0) -> Rows:
    """Rows of random tokens; lengths are between a share of the longest and all of it."""
    random = np.random.default_rng(seed)
    size = (options.batch_size, options.length + 1)
    lengths = random.integers(max(2, int(shortest * size[1])), size[1] + 1, size[0])
    tokens = random.integers(1, options.vocabulary, size)
    return Rows(tokens=np.where(np.arange(size[1]) < lengths[:, None], tokens, 0), lengths=lengths)


def take_turns(options: argparse.Namespace) -> dict[str, Speed]:
    """Steps of both, one after the other; the first two of each, of which one compiles, are not counted."""
    import mlx.core as mx

    model, rows = llama(options), [random_rows(options, seed) for seed in range(4)]
    contestants, held = [], []
    for kind in (Ours, Theirs):
        before = mx.get_active_memory()
        contestants.append(kind(model))
        contestants[-1].step([kind.batch(rows[0])])
        held.append(mx.get_active_memory() - before)
    batches = {one.name: [one.batch(own) for own in rows] for one in contestants}
    seconds: dict[str, list[float]] = {one.name: [] for one in contestants}
    cpu_seconds: dict[str, list[float]] = {one.name: [] for one in contestants}
    losses: dict[str, list[float]] = {one.name: [] for one in contestants}
    peaks = dict.fromkeys(seconds, 0)
    for number in range(options.steps + 1):
        for at, one in list(enumerate(contestants))[:: 1 if number % 2 else -1]:
            mx.reset_peak_memory()
            start, cpu = time.perf_counter(), time.process_time()
            loss = one.step([batches[one.name][number % len(rows)]])
            taken, computed = time.perf_counter() - start, time.process_time() - cpu
            if number:
                seconds[one.name].append(taken)
                cpu_seconds[one.name].append(computed)
                peaks[one.name] = max(peaks[one.name], mx.get_peak_memory() - held[1 - at])
            losses[one.name].append(loss)
    return {
        name: Speed(
            seconds=tuple(seconds[name]),
            cpu_seconds=tuple(cpu_seconds[name]),
            peak_memory=peaks[name],
            losses=tuple(losses[name]),
        )
        for name in seconds
    }


def exact_loss(model: Any, portions: Sequence[Rows]) -> float:
    """The mean over all targets: numpy float64 on the logits of a float64 model."""
    import torch

    total = 0.0
    for rows in portions:
        with torch.inference_mode():
            given = {"input_ids": torch.from_numpy(rows.inputs), "attention_mask": torch.from_numpy(rows.mask)}
            logits_BTV = model(**given, use_cache=False).logits.numpy()
        logits_BTV = logits_BTV - logits_BTV.max(-1, keepdims=True)
        shares_BTV = logits_BTV - np.log(np.exp(logits_BTV).sum(-1, keepdims=True))
        counts_BT = rows.targets != IGNORED
        picked_BT = np.take_along_axis(shares_BTV, np.where(counts_BT, rows.targets, 0)[..., None], -1)[..., 0]
        total -= float(picked_BT[counts_BT].sum())
    return total / sum(rows.num_targets for rows in portions)


def exact_gradient(model: Any, portions: Sequence[Rows]) -> Parameters:
    """The gradient of the mean over all targets of a float64 model."""
    import torch
    from torch.nn.functional import cross_entropy

    model.zero_grad()
    for rows in portions:
        given = {"input_ids": torch.from_numpy(rows.inputs), "attention_mask": torch.from_numpy(rows.mask)}
        logits = model(**given, use_cache=False).logits.flatten(0, 1)
        targets = torch.from_numpy(rows.targets).flatten()
        loss = cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
        (loss / sum(other.num_targets for other in portions)).backward()  # type: ignore[no-untyped-call]
    return {name: value.grad.numpy().copy() for name, value in model.named_parameters()}


def padding(options: argparse.Namespace) -> Iterator[Exactness]:
    """The loss of a padded batch, and what it owes to the token that pads: rows are read from left to right."""
    rows, model = random_rows(options, 7, shortest=0.1), llama(options)
    behind = np.arange(rows.tokens.shape[1]) >= rows.lengths[:, None]
    other = replace(rows, tokens=np.where(behind, options.vocabulary - 1, rows.tokens))
    exact = exact_loss(llama(options).double(), [rows])
    ours = [Ours(model).step([Ours.batch(padded)]) for padded in (rows, other)]
    theirs = [Theirs(model).loss(padded) for padded in (rows, other)]
    yield Exactness(what="loss of a padded batch", exact=exact, ours=ours[0], theirs=theirs[0])
    changes = (abs(one - two) for one, two in (ours, theirs))
    yield Exactness(
        what="its change when padding is another token", exact=0.0, ours=next(changes), theirs=next(changes)
    )


def accumulation(options: argparse.Namespace) -> Iterator[Exactness]:
    """What plain descent with a rate of one takes from the weights, against the exact gradient.

    Three portions, of long rows, short rows and long rows, by twos: the last window is a partial one. Rows are not
    padded here, so that each fault shows by itself.
    """
    import mlx.optimizers

    from compiler.recipe import SGD

    def full(seed: int, share: float) -> Rows:
        return random_rows(argparse.Namespace(**vars(options) | {"length": int(options.length * share)}), seed)

    portions = [full(11, 1.0), full(12, 0.125), full(13, 1.0)]
    model = llama(options)
    start = {name: value.detach().numpy().astype(np.float64) for name, value in model.named_parameters()}

    def ours(window: Sequence[Rows]) -> Parameters:
        engine = Ours(model, optimizer=SGD())
        engine.step([engine.batch(rows) for rows in window], rate=1.0)
        return moved(engine.parameters(), start)

    def theirs(run: Sequence[Rows]) -> Parameters:
        trainer = Theirs(model, optimizer=mlx.optimizers.SGD(1.0))
        trainer.train(run, accumulated=2)
        return moved(trainer.parameters(), start)

    for what, window, run in (
        ("gradient of a full window, relative error", portions[:2], portions[:2]),
        ("gradient of a partial last window, relative error", portions[2:], portions[2:]),
    ):
        gradient = exact_gradient(llama(options).double(), window)
        yield Exactness(
            what=what, exact=0.0, ours=distance(ours(window), gradient), theirs=distance(theirs(run), gradient)
        )


def moved(now: Parameters, start: Parameters) -> Parameters:
    """What was taken from each parameter."""
    return {name: value - now[name] for name, value in start.items()}


def distance(found: Parameters, expected: Parameters) -> float:
    """The length of the difference, over that of what was expected."""
    squares = {name: float(np.square(found[name] - value).sum()) for name, value in expected.items()}
    return float(np.sqrt(sum(squares.values()) / sum(float(np.square(value).sum()) for value in expected.values())))


def ratio_of(run: dict[str, Speed], figure: str) -> float:
    """Ours over theirs: the median over pairs of steps that followed each other."""
    pairs = zip(getattr(run["recipec"], figure), getattr(run["mlx-lm"], figure), strict=True)
    return float(statistics.median(ours / theirs for ours, theirs in pairs))


FIGURES = ("seconds", "cpu_seconds")


def summary(
    options: argparse.Namespace, runs: Sequence[dict[str, Speed]], figures: Sequence[Exactness]
) -> dict[str, Any]:
    """Everything that was measured, as JSON."""
    return {
        "options": vars(options),
        "runs": [{name: asdict(speed) for name, speed in run.items()} for run in runs],
        "ratios": {figure: [ratio_of(run, figure) for run in runs] for figure in FIGURES},
        "exactness": [asdict(figure) for figure in figures],
    }


def table(options: argparse.Namespace, runs: Sequence[dict[str, Speed]]) -> str:
    """The medians for a person."""
    size = f"{options.layers} layers of {options.hidden}, {options.heads} heads over {options.kv_heads}"
    rows = f"{options.batch_size} rows of {options.length}, vocabulary {options.vocabulary:,}"
    lines = [
        f"Llama, {size}; {rows}; float32; {options.repeats} runs of {options.steps} steps in turns",
        f"{'':10}{'step':>14}{'processor':>14}{'peak memory':>14}{'first loss':>14}{'last loss':>14}",
    ]
    for name in ("recipec", "mlx-lm"):
        own = [run[name] for run in runs]
        cells = [f"{1e3 * statistics.median(t for one in own for t in getattr(one, fig)):.1f} ms" for fig in FIGURES]
        cells += [f"{own[0].peak_memory / 2**20:.0f} MiB", f"{own[0].losses[0]:.6f}", f"{own[0].losses[-1]:.6f}"]
        lines.append(f"{name:10}" + "".join(f"{cell:>14}" for cell in cells))
    ratios = {figure: sorted(ratio_of(run, figure) for run in runs) for figure in FIGURES}
    lines.append(f"{'ratio':10}" + "".join(f"{statistics.median(found):>14.3f}" for found in ratios.values()))
    spreads = (f"{found[0]:.3f}-{found[-1]:.3f}" for found in ratios.values())
    lines.append(f"{'of runs':10}" + "".join(f"{spread:>14}" for spread in spreads))
    return "\n".join(lines)


def report(figures: Sequence[Exactness]) -> str:
    """The figures of both beside the exact ones, for a person."""
    if not figures:
        return ""
    lines = [f"{'':52}{'exact':>14}{'recipec':>14}{'mlx-lm':>14}"]
    lines += [f"{own.what:52}{own.exact:>14.7g}{own.ours:>14.7g}{own.theirs:>14.7g}" for own in figures]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
