"""Writes docs/operators.md and docs/errors.md from the tables and docstrings of the code.

    python docs/reference_pages.py

``tests/test_docs.py`` checks that the pages are current; ``pytest tests/test_docs.py --update-golden`` rewrites them.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))  # sample operands of every operator: op_cases.py

import numpy as np  # noqa: E402
from ingot.codegen.assemble import AssembleError  # noqa: E402
from ingot.codegen.host import target_named  # noqa: E402
from ingot.codegen.library import NativeKernels  # noqa: E402
from ingot.codegen.lower.table import LOWERINGS, NOT_LOWERED  # noqa: E402
from ingot.codegen.objfile import LinkError  # noqa: E402
from ingot.codegen.onnx_emit import RULES  # noqa: E402
from ingot.codegen.onnx_export import DECOMPOSED, NOT_EXPORTED  # noqa: E402
from ingot.ir import dtypes, errors, ops  # noqa: E402, F401  (ops fills the registry)
from ingot.ir.builder import GraphBuilder  # noqa: E402
from ingot.ir.graph import Graph, Node  # noqa: E402
from ingot.ir.registry import OPS, Fusion, OpDef  # noqa: E402
from ingot.ir.types import TensorType  # noqa: E402
from ingot.runtime.code import CodeError  # noqa: E402
from ingot.runtime.guard import BoundsError  # noqa: E402
from op_cases import _MAKERS, cases  # noqa: E402
from op_sampling import Case  # noqa: E402

TARGET = target_named("x86-64-avx2")
FAMILIES = (
    ("Elementwise", "elementwise", "Operands have one dtype (`where`: the condition is bool) and broadcast."),
    ("Elementary functions", "elementary", "Elementwise, too: trigonometry, special functions, parts of numbers."),
    ("Index", "indexing", "They move elements and compute nothing (`scatter_add` adds)."),
    ("Scatter", "scattering", "Of elements that arrive at one place."),
    ("Strided", "strided", "Views that the index operators cannot express; the same memory in eager mode."),
    ("Reduction", "reduction", "`axes` are reduced; `keepdims` leaves extents of 1 behind."),
    ("Scan", "scans", "Along one axis; every other axis is a line of its own."),
    ("Order", "ordering", "Top-k, medians and quantiles are built from it."),
    ("Contraction", "contraction", "Sums of products; an elementwise chain behind one runs in its kernel."),
    ("Matrix", "matrices", "Of matrices over leading axes, by LAPACK in eager mode."),
    ("Pooling", "pooling", "Windows over the axes behind batch and channels."),
    ("Resampling", "resampling", "Interpolation along the axes behind batch and channels."),
    ("Normalisation", "normalisation", "Composite: each has an equivalent in simpler operators."),
    ("Generated", "random", "No tensor operands. Random numbers are counter-based: they do not depend on threads."),
    ("Structure", "structure", "Made by passes, not by users."),
)  # fmt: skip

# Why an operator has no gradient rule. The same set is checked by tests/test_ir_ops_all.py.
NO_GRADIENT: dict[str, str] = {
    **dict.fromkeys(
        ("logical_not", "logical_and", "logical_or", "logical_xor", "isnan", "isinf", "isfinite", "any", "all",
         "eq", "ne", "lt", "le", "gt", "ge"), "the result is bool"),
    **dict.fromkeys(("bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor"), "takes integers and bools only"),
    **dict.fromkeys(("gcd", "shift_left", "shift_right"), "takes integers only"),
    "exponent": "the result is an integer",
    **dict.fromkeys(("argmax", "argmin"), "the result is an index"),
    **dict.fromkeys(("constant", "iota"), "it has no operands"),
    "random_uniform": "its operand is an integer state",
    "bitcast": "the result is another dtype's reading of the bits",
    "fused": "differentiation comes before fusion",
}  # fmt: skip


def sections() -> dict[str, list[OpDef]]:
    """Operators by the module in ir/ops/ that registers them, in order of registration."""
    files = {p.stem: p.read_text(encoding="utf-8") for p in sorted((DOCS.parent / "ir" / "ops").glob("*.py"))}
    found: dict[str, list[OpDef]] = {}
    for op in OPS.values():
        # Rules are shared between families, so the record's functions do not tell. A record is made by OpDef("name", or
        # by a family's helper such as _unary("name", .
        made = re.compile(rf'\b(?:OpDef|_(?!check)\w+(?<!check))\(\s*"{op.name}",')
        keys = [key for _, key, _ in FAMILIES if made.search(files[key]) or f'for name in ("{op.name}"' in files[key]]
        assert len(keys) == 1, (op.name, keys)
        found.setdefault(keys[0], []).append(op)
    return found


def sample(op: OpDef, dtype: dtypes.DType) -> Case | None:
    """A case of ``op`` in ``dtype``; one with extents above 1 and without broadcasting oddities where there is one."""
    if op.name not in _MAKERS or dtype not in _MAKERS[op.name][1]:
        return None
    found = cases(op.name, 0, [dtype])
    plain = [c for c in found if all(len(a.shape) >= 1 and min(a.shape) > 1 for a in c.inputs)]
    several = [c for c in plain if any(a.ndim >= 2 for a in c.inputs)] or plain or found
    if op.fusion is Fusion.ELEMENTWISE:
        return min(several, key=lambda c: sum(a.size for a in c.inputs))
    # Where the operator can change the shape, show that, on matrices if possible.
    telling = [
        c for c in found
        if c.inputs and all(a.size and a.ndim for a in c.inputs) and result_shape(op, c) != c.inputs[0].shape
        and 0 not in result_shape(op, c)
    ]  # fmt: skip

    def oddness(c: Case) -> tuple[bool, bool, int]:
        shapes = [a.shape for a in c.inputs]
        return any(1 in s for s in shapes), max(map(len, shapes), default=0) < 2, sum(a.size for a in c.inputs)

    return min(telling or several, key=oddness)


def result_shape(op: OpDef, case: Case) -> tuple:
    return op.infer(types_of(case), op.complete_attrs(case.attrs))[0].shape


def types_of(case: Case) -> list[TensorType]:
    return [TensorType(dtypes.dtype_from_numpy(a.dtype), a.shape) for a in case.inputs]


def example(op: OpDef) -> str:
    """Types of one application."""
    takes = _MAKERS.get(op.name, (None, ()))[1]
    if not takes:
        return ""
    case = sample(op, dtypes.float32 if dtypes.float32 in takes else takes[0])
    assert case is not None
    given = ", ".join(map(str, types_of(case)))
    result = ", ".join(map(str, op.infer(types_of(case), op.complete_attrs(case.attrs))))
    return f"`{given or '()'} -> {result}`"


def dtype_set(found: list[dtypes.DType] | tuple[dtypes.DType, ...]) -> str:
    """``all``, ``floats, ints`` ... for a set of dtypes."""
    have = set(found)
    if have == set(dtypes.ALL):
        return "all"
    groups = {
        "floats": {d for d in dtypes.ALL if d.kind == "f"},
        "integers": {d for d in dtypes.ALL if d.is_integer},
        "bool": {dtypes.bool_},
    }
    names = []
    for name, members in groups.items():
        if members <= have:
            names.append(name)
            have -= members
    return ", ".join(names + [d.name for d in dtypes.ALL if d in have]) or "none"


def single_node(op: OpDef, case: Case) -> Node:
    graph = Graph("page")
    inputs = [graph.add_input(t, f"x{i}") for i, t in enumerate(types_of(case))]
    node = GraphBuilder(graph).emit(op.name, inputs, **case.attrs)
    for out in node.outputs:
        graph.add_output(out)
    return node


def native(op: OpDef) -> str:
    if op.name in NOT_LOWERED:
        return f"no: {NOT_LOWERED[op.name]}"
    takes = _MAKERS[op.name][1]
    kernels = NativeKernels(TARGET)
    working, note = [], ""
    for dtype in takes:
        case = sample(op, dtype)
        assert case is not None
        node = single_node(op, case)
        if LOWERINGS[op.name].supports(node, TARGET) is None:
            working.append(dtype)
        if op.decompose is not None and kernels.supports(node) is not None:
            note = "; decomposed first, so that its parts fuse"
    same = set(working) == set(takes)
    return ("yes" if same else f"{dtype_set(working)} only") + note


def gradient(op: OpDef) -> str:
    if op.vjp is not None:
        return "rule"
    return "through its decomposition" if op.decompose is not None else f"none: {NO_GRADIENT[op.name]}"


def onnx_rule(op: OpDef) -> str:
    if op.name in RULES:
        return "yes"
    return DECOMPOSED.get(op.name) or f"no: {NOT_EXPORTED[op.name]}"


def attributes(op: OpDef) -> str:
    return ", ".join(f"`{name}: {attr.kind}`" for name, attr in op.attrs.items())


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def operators_page() -> str:
    named = {op.name for op in OPS.values() if op.vjp is None and op.decompose is None}
    assert named == set(NO_GRADIENT), "the table NO_GRADIENT is not current"
    grouped = sections()
    out = [
        "# Operators\n\n<!-- Written by docs/reference_pages.py; do not edit. -->\n\n"
        f"The {len(OPS)} operators of the IR, read from the registry (`ir/ops/`) and from the tables of the code "
        "generator. What users call (`torch.relu`, `nn.Linear`, `x + y`) is built from them. To add one see "
        "[adding-an-operator.md](adding-an-operator.md).\n\n"
        "- *dtypes*: what the shape and dtype rule accepts. *Types* shows one application.\n"
        "- *gradient*: `rule` means the record has one; it is built from operators and can be differentiated again.\n"
        "- *native*: whether code is generated for all those dtypes (targets: x86-64, AVX2, AVX-512, AArch64).\n"
        "- *ONNX*: whether `ingot.onnx.export` has a rule.\n\n"
        "Every operator has a NumPy reference. It defines the meaning and runs eager code. A gap in this table has its "
        "reason beside it."
    ]
    for title, key, text in FAMILIES:
        if key not in grouped:
            continue
        rows = [
            f"## {title}\n\n{text}\n",
            "| operator | formula | attributes | dtypes | types | gradient | native | ONNX |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for op in grouped[key]:
            takes = dtype_set(_MAKERS[op.name][1]) if op.name in _MAKERS else "any"
            cells = [f"`{op.name}`", op.doc, attributes(op), takes, example(op), gradient(op), native(op)]
            rows.append("| " + " | ".join(map(cell, [*cells, onnx_rule(op)])) + " |")
        out.append("\n".join(rows))
    return "\n\n".join(out) + "\n"


# -- errors -------------------------------------------------------------------------------------------
# Error class -> (code that raises it or "" where users cannot, what to do about it).
CASES: dict[str, tuple[str, str]] = {
    "ShapeError": (
        "import ingot as torch\n\ntorch.ones(2, 3) + torch.ones(4)",
        "Look at the two extents that the message names. `unsqueeze`, `reshape` or `expand` one operand.",
    ),
    "DTypeError": (
        "import ingot as torch\nfrom ingot import nn\n\nnn.Linear(4, 2)(torch.ones(1, 4, dtype=torch.float64))",
        "Convert one side: `x.float()`, `x.to(other.dtype)`, or `array.astype(...)` for NumPy arrays.",
    ),
    "UnsupportedError": (
        "import ingot as torch\n\n\ndef forward(x):\n    return x.angle() + x.conj_physical()\n\n\n"
        "torch.compile(forward, torch.ones(3))",
        "The message lists everything at once. Replace those parts, or run them outside the compiled function. "
        "[operators.md](operators.md) says what there is.",
    ),
    "DataDependentError": (
        "import ingot as torch\n\n\ndef forward(x):\n    if x.sum() > 0:\n        return x\n    return -x\n\n\n"
        "torch.compile(forward, torch.ones(3))",
        "Use `torch.where(condition, a, b)` or a mask, or take the decision before the call.",
    ),
    "ParseError": (
        "import io\n\nimport ingot as torch\n\ntorch.load(io.BytesIO(b'this is no checkpoint'))",
        "Check that the file is what you think it is and that the download is complete.",
    ),
    "InputError": (
        "import ingot as torch\nimport numpy as np\n\n"
        "exe = torch.compile(lambda x: x + 1, torch.ones(1, 4), dynamic=torch.Dim('N', 1, 8))\n"
        "exe(np.ones((2, 5), np.float32))",
        "The message names the input, what was compiled and what came. Declare an axis in `dynamic=` if it varies.",
    ),
    "ArtifactError": (
        "from pathlib import Path\n\nimport ingot as torch\n\nPath('broken.ingot').write_bytes(bytes(200))\n"
        "torch.load_executable('broken.ingot')",
        "Copy the file again, or compile the model again; for another CPU compile with `target=`.",
    ),
    "UnpicklingError": (
        "import fractions\nimport pickle\nimport zipfile\n\nimport ingot as torch\n\n"
        "with zipfile.ZipFile('whole_object.pt', 'w') as file:\n"
        "    file.writestr('archive/data.pkl', pickle.dumps(fractions.Fraction(1, 3), protocol=2))\n"
        "    file.writestr('archive/version', '3\\n')\n"
        "torch.load('whole_object.pt')",
        "Save a state dict (tensors in plain containers) instead of whole objects. See [security.md](security.md).",
    ),
    "VerifyError": (
        "",
        "An internal error: a pass broke an invariant of the IR, or a program is inconsistent. Report it.",
    ),
    "PassError": (
        "from ingot.driver import Options, optimise, trace_inference\nimport ingot as torch\n"
        "from ingot.passes.manager import Pass, PassManager, PassContext\n\n\nclass Broken(Pass):\n"
        "    name = 'broken'\n\n    def run(self, graph, ctx):\n        raise IndexError('no such operand')\n\n\n"
        "graph = trace_inference(lambda x: x + 1, [torch.ones(3)]).graph\n"
        "PassManager([Broken()]).run(graph, PassContext())",
        "An internal error. Report it with the reproducer file; it holds the graph and no large weights. "
        "`disable=[\"name\"]` leaves the pass out if it is an optional one. See [debugging.md](debugging.md).",
    ),
    "KernelError": (
        "",
        "An internal error. Report it with the reproducer file. `python <file>` repeats it.",
    ),
    "CheckError": (
        "",
        "Raised by `ingot check` (exit code 3). It names the first kernel or pass that departs. Report it.",
    ),
}


OTHER_ERRORS = (CodeError, BoundsError, AssembleError, LinkError)


def raised_by(code: str) -> BaseException:
    """What ``code`` raises when run as a file called example.py."""
    try:
        exec(compile(code, "example.py", "exec"), {"__name__": "example"})
    except Exception as error:
        return error
    raise AssertionError(f"this example raises nothing:\n{code}")


def error_classes() -> list[type[errors.IngotError]]:
    found = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, errors.IngotError)]
    return [c for c in found if c is not errors.IngotError]


def errors_page(run: Callable[[str], BaseException] = raised_by) -> str:
    classes = error_classes()
    assert {c.__name__ for c in classes} == set(CASES), "the table CASES is not current"
    out = [
        "# Errors\n\n<!-- Written by docs/reference_pages.py; do not edit. -->\n\n"
        "Everything that Ingot raises on purpose derives from `ingot.IngotError`. Where PyTorch raises a builtin, the "
        "class derives from that builtin too, so `except RuntimeError` keeps working. The classes are in "
        "`ingot.ir.errors`. The examples below were run; the text behind each is the message that came.\n\n"
        "On the command line, errors go to stderr. Exit codes: 1 an error in the model, data or files; 2 wrong usage; "
        "3 a check failed; 70 an internal error; 130 interrupted."
    ]
    for c in classes:
        code, fix = CASES[c.__name__]
        bases = ", ".join(b.__name__ for b in c.__bases__ if b is not errors.IngotError)
        text = f"## {c.__name__}\n\n{inspect.cleandoc(c.__doc__ or '')}\n"
        if bases:
            text += f"\nAlso a {bases}.\n"
        if code:
            error = run(code)
            assert type(error) is c, f"{c.__name__}: the example raises {type(error).__name__}: {error}"
            text += f"\n```python\n{code}\n```\n\n```text\n{textwrap.dedent(str(error)).strip()}\n```\n"
        out.append(f"{text}\n**What to do.** {fix}")
    rest = "\n".join(f"- `{c.__module__}.{c.__name__}`: {' '.join((c.__doc__ or '').split())}" for c in OTHER_ERRORS)
    out.append(f"## Further subclasses\n\nRaised by one room only; `except IngotError` catches them.\n\n{rest}")
    return "\n\n".join(out) + "\n"


def pages() -> dict[str, str]:
    """Text by file name. Runs in the current folder (an example writes a file there)."""
    np.random.seed(0)
    return {"operators.md": operators_page(), "errors.md": errors_page()}


if __name__ == "__main__":
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, text in pages().items():
            (DOCS / name).write_text(text, encoding="utf-8")
