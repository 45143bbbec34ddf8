"""Tracing a network while other threads run theirs."""

import threading
from collections.abc import Callable
from typing import Any

from torch import fx, nn

_TRACING = threading.RLock()


class ThreadTracer(fx.Tracer):
    """A tracer that leaves other threads alone.

    While torch traces, every call of every module in the process goes through the tracer; those that another thread
    makes are not part of what is traced, and one trace at a time undoes what it patched in order.
    """

    def trace(self, *arguments: Any, **named: Any) -> fx.Graph:
        """The graph of a network, as ``torch.fx.Tracer`` makes it."""
        with _TRACING:
            self._thread = threading.get_ident()
            return super().trace(*arguments, **named)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call recorded in the graph if this thread made it, otherwise the call itself."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)
