"""The one place where the chatter of torch, transformers and PEFT is silenced."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, frameworks neither warn nor log, print or draw bars; the process's own settings come back afterwards."""
    disabled, bars = logging.root.manager.disable, transformers_logging.is_progress_bar_enabled()
    with warnings.catch_warnings(action="ignore"), contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.callback(logging.disable, disabled)
        if bars:
            stack.callback(transformers_logging.enable_progress_bar)
            transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.disable(logging.CRITICAL)
        yield
