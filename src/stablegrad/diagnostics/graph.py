"""What a tensor was computed from, read from autograd's graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

#: Nodes that one search visits at most; a network of a thousand layers has some ten thousand.
MAX_NODES = 20_000


@dataclass
class Upstream:
    """What was found upstream of a tensor.

    Attributes:
        parameters: ids of the leaves that it depends on.
        reached: keys of the known nodes at which the search ended.
        functions: names of the nodes on the way, such as "ReluBackward0".
        whole: False if the graph was too large to be searched to its ends.
    """

    parameters: set[int] = field(default_factory=set)
    reached: set[tuple[str, int]] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    whole: bool = True


def node_key(tensor: Tensor) -> tuple[str, int] | None:
    """Identifies the operation that made a tensor without keeping its graph alive; None for a leaf.

    A node's number is unique among those that its thread has made.
    """
    node = tensor.grad_fn
    return None if node is None else (node.name(), node._sequence_nr())


def upstream(tensor: Tensor, known: Mapping[tuple[str, int], Any]) -> Upstream:
    """Search back from a tensor, as far as nodes of ``known`` or leaves."""
    found = Upstream()
    if tensor.grad_fn is None:
        if tensor.requires_grad:
            found.parameters.add(id(tensor))
        return found
    waiting, seen = [tensor.grad_fn], {tensor.grad_fn}
    while waiting:
        if len(seen) > MAX_NODES:
            found.whole = False
            break
        node = waiting.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.parameters.add(id(leaf))
            continue
        key = (node.name(), node._sequence_nr())
        if key in known:
            found.reached.add(key)
            continue
        found.functions.add(key[0])
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found
