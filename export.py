"""``ingot.onnx``: modules as ONNX files. (A module of this name, because a file ``onnx.py`` would hide the package.)"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .driver import input_names as forward_names
from .driver import trace_inference
from .ir.dims import Dim

DynamicAxes = Mapping[str, "Mapping[int, str | Dim] | Sequence[int]"]


def export(
    model: Any,
    args: Any,
    path: str | os.PathLike[str] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: DynamicAxes | None = None,
    opset_version: int = 18,
    *,
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Write ``model`` in eval mode as an ONNX file; its parameters are initializers under their state_dict names.

    Args:
        model: a Module or a function on tensors.
        args: an example input (Tensor, array or InputSpec), or a tuple of them. Only shapes and dtypes matter.
        path: file to write, atomically; None: only return the model.
        input_names, output_names: names in the file, in order; default: the parameters of ``forward``.
        dynamic_axes: as in PyTorch: name to ``{axis: dimension name}`` (or Dim), or to a list of axes. Axes of one
            dimension name are one symbolic size. Those of outputs follow from the inputs and need not be given.
        opset_version: 17 or newer.
        kwargs: keyword inputs of ``forward``; not dynamic.

    Returns:
        The model (``onnx.ModelProto``), checked by ``onnx.checker`` if it was written.

    Raises:
        UnsupportedError: lists every operator without an ONNX equivalent, with module path and line.
        ValueError: names or axes that do not exist, or are not unique.
    """
    from .codegen.onnx_export import graph_to_onnx, save_model

    arguments = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f"folder {str(Path(path).parent)!r} does not exist")
    names = list(input_names) if input_names is not None else list(forward_names(model))
    dynamic = _dims(dynamic_axes or {}, names[: len(arguments)], output_names or ())
    traced = trace_inference(model, arguments, kwargs, dynamic or None)
    proto = graph_to_onnx(
        traced.graph,
        input_names=input_names,
        output_names=output_names,
        opset_version=opset_version,
        producer_version=_version(),
    )
    if path is not None:
        save_model(proto, path)
    return proto


def _dims(dynamic_axes: DynamicAxes, names: Sequence[str], outputs: Sequence[str]) -> dict[int, dict[int, Dim]]:
    """``dynamic_axes`` by input position, with one Dim per dimension name."""
    known: dict[str, Dim] = {}
    found: dict[int, dict[int, Dim]] = {}
    for name, axes in dynamic_axes.items():
        if name not in names:
            # A name that is no input is an output's; those of outputs without given names cannot be checked here.
            if outputs and name not in outputs:
                raise ValueError(f"dynamic_axes names {name!r}; inputs are {list(names)}, outputs {list(outputs)}")
            continue
        table = axes if isinstance(axes, Mapping) else {axis: f"{name}_dynamic_axes_{axis}" for axis in axes}
        found[names.index(name)] = {axis: _dim(label, known) for axis, label in table.items()}
    if dynamic_axes and not found:
        raise ValueError(f"dynamic_axes names {sorted(dynamic_axes)}, and none of them is an input: {list(names)}")
    return found


def _dim(label: str | Dim, known: dict[str, Dim]) -> Dim:
    if isinstance(label, Dim):
        return known.setdefault(label.name, label)
    identifier = "".join(c if c.isalnum() else "_" for c in label) or "dim"
    identifier = identifier if identifier.isidentifier() else f"_{identifier}"
    return known.setdefault(identifier, Dim(identifier))


def _version() -> str:
    from . import __version__

    return __version__
