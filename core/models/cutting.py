"""Cuts a network behind the layers that feed its exits, so that it can really stop at each of them."""

from collections.abc import Sequence

from torch import Tensor, fx, nn

from core.errors import ExitLensError
from core.foreign import foreign_code
from core.models.tracing import ThreadTracer


class _Tracer(ThreadTracer):
    """Traces a network, keeping the named layers whole whatever they contain."""

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        self.layers = set(layers)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.layers or super().is_leaf_module(m, module_qualified_name)


class CutNetwork(nn.Module):
    """A network in pieces: from exit to exit, and from each exit to its logits.

    The pieces share the network's own layers; nothing is hooked or copied, so threads may share them too. It is a
    module so that constants of the traced code, which the pieces hold themselves, move with the network.
    """

    def __init__(self, network: nn.Module, exit_layers: Sequence[str]) -> None:
        """Traces and cuts.

        Args:
            network: In eval mode; returns a list or tuple with the logits of each exit.
            exit_layers: Names of those of its layers that feed the exits, in their order.

        Raises:
            ExitLensError: If the network cannot be traced, or an exit depends on more than its layer.
        """
        super().__init__()
        with foreign_code("Tracing the network", "Without exit_layers, give exit_costs: it then computes all exits."):
            graph = _Tracer(exit_layers).trace(network)
        (images, *others), answers = graph.find_nodes(op="placeholder"), graph.output_node().args[0]
        if others or not isinstance(answers, list | tuple) or len(answers) != len(exit_layers):
            raise ExitLensError(
                f"Stopping at {len(exit_layers)} exit_layers needs a network that takes images alone and returns a "
                f"list or tuple of {len(exit_layers)} logits."
            )
        forks = [_the_call(graph, layer) for layer in exit_layers]
        starts = [images, *forks]
        steps = [_needed(starts[index], fork, f"The layer {fork.target!r}") for index, fork in enumerate(forks)]
        ends = [
            _needed(fork, answer, f"Exit {n}") for n, (fork, answer) in enumerate(zip(forks, answers, strict=True), 1)
        ]
        for index, (fork, own, later) in enumerate(zip(forks[:-1], ends[:-1], steps[1:], strict=True)):
            _check_apart(network, own & later - {fork}, exit_layers[index], index + 1)
        self.layers = nn.ModuleList(_piece(network, *cut) for cut in zip(starts[:-1], forks, steps, strict=True))
        self.classifiers = nn.ModuleList(_piece(network, *cut) for cut in zip(forks, answers, ends, strict=True))

    def begin(self, images: Tensor) -> Tensor:
        """The images: the first piece starts from them."""
        return images

    def advance(self, features: Tensor, exit_index: int) -> Tensor:
        """Features at an exit, from those at the exit before it or from the images."""
        reached: Tensor = self.layers[exit_index](features)
        return reached

    def classify(self, features: Tensor, exit_index: int) -> Tensor:
        """Logits (N, C) of an exit from the features that feed it."""
        logits: Tensor = self.classifiers[exit_index](features)
        return logits


def _the_call(graph: fx.Graph, layer: str) -> fx.Node:
    calls: list[fx.Node] = list(graph.find_nodes(op="call_module", target=layer))
    if len(calls) != 1:
        raise ExitLensError(
            f"The layer {layer!r} runs {len(calls)} times in one pass; name one that runs once and is not part of "
            "another exit's layer."
        )
    return calls[0]


def _needed(start: fx.Node, end: object, what: str) -> set[fx.Node]:
    """All that leads from one value to another, both included; it must need nothing else of the images."""
    needed: set[fx.Node] = set()
    waiting = [end] if isinstance(end, fx.Node) else []
    while waiting:
        node = waiting.pop()
        if node in needed:
            continue
        needed.add(node)
        if node is start:
            continue
        if node.op == "placeholder":
            raise ExitLensError(
                f"{what} does not depend on the exit_layers before it alone, so the network cannot stop there. "
                "Name layers whose output is all that comes after needs, in the order of the exits, or give "
                "exit_costs instead."
            )
        waiting += node.all_input_nodes
    if start not in needed:
        raise ExitLensError(f"{what} does not depend on {start.target!r}. Name exit_layers in the order of the exits.")
    return needed


def _check_apart(network: nn.Module, shared: set[fx.Node], layer: str, number: int) -> None:
    """Layers with weights must not run twice: for an exit, and again on the way to the next."""
    modules = dict(network.named_modules())
    weighty = [
        str(node.target)
        for node in shared
        if node.op == "call_module" and any(True for _ in modules[str(node.target)].parameters())
    ]
    if weighty:
        raise ExitLensError(
            f"{min(weighty)!r} runs after {layer!r}, for exit {number} as for all that follows it. Name the last layer "
            "that they share in exit_layers."
        )


def _piece(network: nn.Module, start: fx.Node, end: fx.Node, needed: set[fx.Node]) -> fx.GraphModule:
    """A part of the traced network as a module of its own, on the same layers."""
    piece = fx.Graph()
    copies = {start: piece.placeholder("features")}
    for node in start.graph.nodes:
        if node in needed and node is not start:
            copies[node] = piece.node_copy(node, copies.__getitem__)
    piece.output(copies[end])
    return fx.GraphModule(network, piece)
