"""What ``ingot.compile`` returns: executables that take and give the structures, Tensors and arrays users pass."""

from __future__ import annotations

import itertools
import threading
import warnings
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .frontend import autocasting, dispatch, random
from .frontend.grad_mode import is_grad_enabled
from .frontend.nn import module_hooks
from .frontend.structure import Spec, flatten, unflatten
from .frontend.tape.recompute import Recompute
from .frontend.tensor import Tensor
from .frontend.tracing import MODELS, Trace, is_tracing, module_of, trace
from .ir.errors import InputError, UnsupportedError
from .ir.plan import Program

if TYPE_CHECKING:
    from .driver import Options, Report
    from .runtime.executable import Executable

Build = Callable[..., Program]

MAX_VARIANTS = 64  # per live module or training step; the least recently used make room
_ATTEMPTS = 3  # traces until the model stands still
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})


def is_data(x: Any) -> bool:
    """Whether ``x`` is a leaf of inputs and results."""
    return isinstance(x, (Tensor, np.ndarray))


def is_input(x: Any) -> bool:
    """Whether ``x`` is a leaf of the inputs of a live module: NumPy's scalars are arrays of no dimensions."""
    return isinstance(x, (Tensor, np.ndarray, np.generic))


def array_of(x: Any, name: str = "") -> np.ndarray:
    """The array of a Tensor or array; InputError for a traced Tensor, another library's or one on another device.

    Anything else passes through: the runtime refuses it by name.
    """
    label = f"input {name!r}" if name else "an input"
    if isinstance(x, Tensor):
        if x._data is None:
            raise InputError(f"{label} is a tensor of a running trace, which has no values: "
                             "compiled code cannot be called inside a function that is being compiled; call the "
                             "module itself")  # fmt: skip
        return x._data
    if not isinstance(x, (np.ndarray, np.generic)) and hasattr(x, "device") and hasattr(x, "shape"):
        where = str(x.device)
        place = "" if where.startswith("cpu") else f" on device {where!r}"
        raise InputError(f"{label}: expected a NumPy array or an ingot.Tensor on the CPU, got "
                         f"{type(x).__module__}.{type(x).__name__}{place}; convert it with .cpu().numpy()")  # fmt: skip
    return x


class CompiledModule:
    """An inference executable: ``exe(*inputs, **kwargs)``.

    NumPy inputs give NumPy outputs; if any input is a Tensor, the results are Tensors; in the structure that
    ``forward`` returned. Safe to call from several threads at once.

    Attributes:
        program: the compiled program (``ir.plan``): ports, kernels, memory report.
        report: what the compile did (``driver.Report``); None for a loaded file.
    """

    def __init__(
        self, program: Program, in_spec: Spec, out_spec: Spec, *, threads: int | None = None,
        report: Report | None = None, model: Any = None,
    ) -> None:  # fmt: skip
        self.program = program
        frozen = [*model.parameters(), *model.buffers()] if hasattr(model, "parameters") else []
        self._model = None if model is None else (model, [(t, t._version) for t in frozen])
        self.report = report
        self._in_spec, self._out_spec = in_spec, out_spec
        self._threads = threads
        self._executable: Executable | None = None
        self._lock = threading.Lock()
        positional, keywords = in_spec.children
        flat = not keywords.children and all(c.kind == "leaf" for c in positional.children)
        # Number of inputs if they are plain positional ones: the usual call skips the structure check.
        self._plain = len(positional.children) if flat else -1
        self._single = out_spec.kind == "leaf"

    @property
    def executable(self) -> Executable:
        """The runtime object; UnsupportedError if this machine cannot run the code."""
        if self._executable is None:
            from .runtime.guard import executable_for

            with self._lock:
                if self._executable is None:
                    self._executable = executable_for(self.program, threads=self._threads)
        return self._executable

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves: Sequence[Any] = args if len(args) == self._plain and not kwargs else self._leaves(args, kwargs)
        tensors = False
        arrays: list[np.ndarray] = []
        for x in leaves:
            if type(x) is not np.ndarray:
                tensors |= isinstance(x, Tensor)
                x = array_of(x, self.program.inputs[len(arrays)].name)
            arrays.append(x)
        results: list[Any] = (self._executable or self.executable).run(arrays)
        if tensors:
            results = [dispatch.from_array(r) for r in results]
            if is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in leaves):
                self._record(args, kwargs, results)
        return results[0] if self._single else unflatten(self._out_spec, results)

    def _record(self, args: Sequence[Any], kwargs: Mapping[str, Any], results: list[Any]) -> None:
        """The gradient with respect to the inputs comes from the module that was compiled, with its frozen weights."""
        if self._model is None:
            raise UnsupportedError("an input requires grad, and an executable from a file has no gradient: it holds no "
                                   "model. Try: pass x.detach(), or call it under no_grad().")  # fmt: skip
        model, frozen = self._model

        def again(*args: Any, **kwargs: Any) -> Any:
            if any(t._version != version for t, version in frozen):
                raise UnsupportedError("the model's weights have changed since it was compiled, and its executable has "
                                       "the old ones. Try: compile it again, or compile without examples.")  # fmt: skip
            modes = [(m, m.training) for m in model.modules()] if hasattr(model, "modules") else []
            for m, _ in modes:
                m.training = False
            try:
                return model(*args, **kwargs)
            finally:
                for m, mode in modes:
                    m.training = mode

        Recompute("CompiledBackward", again, args, dict(kwargs), [], [], None, results)

    def run_into(self, out: Any, *args: Any, **kwargs: Any) -> None:
        """Run and write the results into ``out`` (arrays or Tensors in the structure that ``forward`` returns).

        Allocates nothing. InputError if ``out`` does not have the results' structure, shapes and dtypes, is
        not contiguous and writable, or overlaps an input.
        """
        outs = leaves_like(self._out_spec, out)
        if outs is None:
            given = describe(flatten(out, is_data)[1])
            raise InputError(f"run_into: out has the structure {given}; the results are {describe(self._out_spec)}")
        leaves = args if len(args) == self._plain and not kwargs else self._leaves(args, kwargs)
        names = self.program.inputs
        arrays = [x if type(x) is np.ndarray else array_of(x, names[i].name) for i, x in enumerate(leaves)]
        self.executable.run_into([array_of(o, "out") for o in outs], arrays)

    def _leaves(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        wanted = self._in_spec.children[1]
        if set(kwargs) != set(wanted.keys):
            raise InputError(f"keyword inputs {sorted(kwargs)} given; compiled for {sorted(wanted.keys)}")
        expected = ", ".join(f"{p.name}: {p.type}" for p in self.program.inputs)
        count = len(self._in_spec.children[0].children)
        if len(args) != count:
            raise InputError(f"{self.program.name!r} takes {count} positional inputs, got {len(args)}; its tensors are "
                             f"({expected})")  # fmt: skip
        leaves = leaves_like(self._in_spec, (args, kwargs))
        if leaves is None:
            given = describe(flatten((args, kwargs), is_data)[1])
            raise InputError(f"inputs have the structure {given}; compiled for {describe(self._in_spec)} with the "
                             f"tensors ({expected})")  # fmt: skip
        return leaves

    def save(self, path: str | Path) -> None:
        """Write an ``.ingot`` file: code, plan and weights; readable by ``ingot.load_executable``.

        The file appears complete or not at all. UnsupportedError if the structure of inputs or results holds
        objects that a file cannot (None, numbers and strings can).
        """
        from . import __version__
        from .runtime import artifact

        for name, spec in (("in_spec", self._in_spec), ("out_spec", self._out_spec)):
            try:
                text = spec.to_json()
                plain = same_structure(Spec.from_json(text), spec)
            except (TypeError, ValueError):
                plain = False
            if not plain:
                what = "inputs" if name == "in_spec" else "results"
                raise UnsupportedError(f"cannot save: the structure of the {what} {describe(spec)} holds objects that "
                                       "are not plain data (None, bool, int, float, str)")  # fmt: skip
            self.program.metadata[name] = text
        self.program.metadata["ingot"] = __version__
        artifact.save(self.program, path)

    def __repr__(self) -> str:
        p = self.program
        ins = ", ".join(f"{i.name}: {i.type}" for i in p.inputs)
        outs = ", ".join(f"{o.name}: {o.type}" for o in p.outputs)
        return f"<ingot executable {p.name}({ins}) -> ({outs}), {len(p.steps)} kernels, {p.target_name}>"


def same_structure(a: Spec, b: Spec) -> bool:
    """Equal but for leaf numbers and the classes of namedtuples."""
    stack = [(a, b)]
    while stack:
        x, y = stack.pop()
        if x.kind != y.kind or x.keys != y.keys or len(x.children) != len(y.children):
            return False
        if x.kind == "const" and (type(x.value) is not type(y.value) or x.value != y.value):
            return False
        stack.extend(zip(x.children, y.children, strict=True))
    return True


def leaves_like(spec: Spec, given: Any) -> list[Any] | None:
    """The leaves of ``given`` in the order of ``spec``, or None if it has another structure (dicts: other keys)."""
    leaves: list[Any] = []
    stack = [(spec, given)]
    while stack:
        s, x = stack.pop()
        parts: Sequence[Any] = ()
        if s.kind == "leaf":
            leaves.append(x)
            fits = is_data(x) or isinstance(x, np.generic)
        elif s.kind == "const":
            fits = type(x) is type(s.value) and bool(x == s.value)
        elif s.kind == "dict":
            fits = isinstance(x, dict) and x.keys() == set(s.keys)
            parts = [x[key] for key in s.keys] if fits else ()
        elif s.kind == "namedtuple":
            fits, parts = isinstance(x, tuple) and getattr(x, "_fields", None) == s.keys, x
        else:
            fits, parts = type(x) is (list if s.kind == "list" else tuple) and len(x) == len(s.children), x
        if not fits:
            return None
        stack.extend(reversed(list(zip(s.children, parts, strict=True))))
    return leaves


def describe(spec: Spec) -> str:
    """A structure as text: ``(x, {'mask': x})`` with x for each tensor."""
    if spec.kind == "leaf":
        return "x"
    if spec.kind == "const":
        return repr(spec.value)
    parts = [describe(c) for c in spec.children]
    if spec.kind == "dict":
        return "{" + ", ".join(f"{k!r}: {p}" for k, p in zip(spec.keys, parts, strict=True)) + "}"
    if spec.kind == "namedtuple":
        return f"{spec.value.__name__}({', '.join(parts)})"
    return ("[%s]" if spec.kind == "list" else "(%s)") % ", ".join(parts)


class Variant:
    """A program with live states: every call passes the states' present arrays; updates are written into them."""

    def __init__(
        self, found: Trace, program: Program, threads: int | None, report: Report, lock: threading.RLock
    ) -> None:
        from .runtime.guard import executable_for

        self.executable = executable_for(program, threads=threads)
        self.program = program
        self.report = report
        self.out_spec = found.out_spec
        ports = [p for p in program.inputs if p.role != "input"]
        self.draws = any(p.role == "rng" for p in ports)
        self.states = [found.states[p.name] for p in ports]
        self._results = found.out_spec.num_leaves
        first = len(program.inputs) - len(self.states)
        self._updated = [p.updates - first for p in program.outputs if p.updates >= 0]
        # Calls that write exclude each other: those of one model, and all that draw random numbers.
        self._locks: list[threading.RLock] = [lock] if self._updated else []
        if any(ports[i].role == "rng" for i in self._updated):
            self._locks.append(_RANDOM)
        self.slots: list[tuple[int, Tensor, str]] | None = None  # states that are looked up (training steps)
        self.keep: Any = None  # the key holds ids of these objects
        self.used = 0

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        if not self._locks:
            return self.executable.run(inputs + [s._data for s in self.states])[: self._results]
        with ExitStack() as held:
            for lock in self._locks:
                held.enter_context(lock)
            return self._run_and_write(inputs)

    def _run_and_write(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        held = [s._data for s in self.states]
        copied = [i for i in self._updated if not held[i].flags.c_contiguous]
        arrays = list(held)
        for i in copied:
            arrays[i] = held[i].copy(order="C")
        results = self.executable.run(inputs + arrays)[: self._results]
        for i in copied:
            held[i][...] = arrays[i]
        return results


_RANDOM = threading.RLock()
_model_locks: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()


def lock_of(model: Any) -> threading.RLock:
    """One lock per model, shared by everything that was compiled from it."""
    with MODELS:
        try:
            return _model_locks.setdefault(module_of(model) or model, threading.RLock())
        except TypeError:  # a callable without weak references or without a hash
            return threading.RLock()


# -- keys: what a variant depends on ------------------------------------------------------------------
# They are made at every call, so they are flat tuples of cheap things (a dtype's number hashes faster than a dtype).
# Objects are named by id; ``keep`` collects them, for an id may be used again once its object is gone.
Key = tuple[Hashable, ...]


def constant_key(value: Any, keep: list[Any]) -> Hashable:
    """Plain data by type and value (floats as text: 0.0 equals -0.0, no NaN itself), the rest by identity."""
    kind = type(value)
    if kind in _PLAIN:
        return (kind, repr(value) if kind in (float, complex) else value)
    keep.append(value)
    return (kind, id(value))


def structure_key(spec: Spec, keep: list[Any], modules: list[Any]) -> Key:
    """The structure of arguments with its constants; modules among those are added to ``modules``."""
    parts: list[Hashable] = []
    stack = [spec]
    while stack:
        s = stack.pop()
        parts.append(s.kind)
        if s.kind == "const":
            value = unwrap(s.value)
            if hasattr(value, "_modules"):
                modules.append(value)
            parts.append(constant_key(value, keep))
        elif s.kind != "leaf":
            parts += (len(s.children), s.value, *(constant_key(k, keep) for k in s.keys))
            stack += s.children
    return tuple(parts)


def inputs_key(arrays: Sequence[Any]) -> Key:
    key: list[Hashable] = [*autocasting.signature()]
    for x in arrays:
        key += (x.shape, x.dtype.num)
    return tuple(key)


def modules_key(modules: Sequence[Any], keep: list[Any]) -> Key:
    """Modules with everything below: which they are, modes, hooks, and their parameters' and buffers' identities."""
    key: list[Hashable] = []
    seen: set[int] = set()
    stack = [m for m in modules if hasattr(m, "_modules")]
    while stack:
        m = stack.pop()
        key.append(id(m))
        if m is None or id(m) in seen:
            continue
        seen.add(id(m))
        own = m.__dict__
        keep.append(m)
        key.append(own["training"])
        for name, p in own["_parameters"].items():
            key.append(name)
            if p is not None:
                keep.append(p)
                data = p._data
                key += (id(p), p.requires_grad, data.dtype.num, data.shape)
        for name, b in own["_buffers"].items():
            key.append(name)
            if b is not None:
                keep.append(b)
                key += (id(b), b._data.dtype.num, b._data.shape)
        for hooks in (own["_forward_pre_hooks"], own["_forward_hooks"]):
            if hooks:
                keep += hooks.values()
                key += ("hooks", *hooks, *map(id, hooks.values()))
        children = own["_modules"]
        key += children
        stack += children.values()
    for hooks in (module_hooks._global_forward_pre_hooks, module_hooks._global_forward_hooks):
        if hooks:
            keep += hooks.values()
            key += ("hooks", *hooks, *map(id, hooks.values()))
    return tuple(key)


# Parts of a key, as the warning about many variants names them.
_PARTS = ("the structure or the constants of the arguments", "the shapes or dtypes of the inputs", "the model",
          "the parameters or the fixed options of the optimizer")  # fmt: skip


def what_changes(keys: Sequence[Key]) -> str:
    """What tells ``keys`` (of variants, oldest first) apart most: words for a warning."""
    part = max(range(min(map(len, keys))), key=lambda i: len({key[i] for key in keys}))
    a, b = keys[-2][part], keys[-1][part]
    if part == 1:
        return f"{_PARTS[part]} (the latest: {[x for x in b if isinstance(x, tuple)]})"  # type: ignore[attr-defined]
    if part != 2:
        return _PARTS[part]
    last = ""
    for x, y in zip(a, b, strict=False):  # type: ignore[call-overload]
        if x != y:
            break
        last = y if isinstance(y, str) else last
    return f"{_PARTS[part]} (its modes, hooks, or which parameters, buffers and modules it holds, at {last!r})"


def function_name(model: Any) -> str:
    """Name of a module's class or of a function, as an identifier."""
    name = getattr(model, "__name__", None) or type(model).__name__
    return "".join(c if c.isalnum() else "_" for c in name)


class _Entry:
    """Variants with equal keys. They differ in the modules that only tracing showed (those a function reaches)."""

    def __init__(self) -> None:
        self.modules: list[Any] = []
        self.variants: dict[Key, Variant] = {}


class _Compiling:
    """What live modules and training steps share: variants by key, made under a lock, ``MAX_VARIANTS`` at most."""

    def __init__(self, model: Any, options: Options, build: Build) -> None:
        self.options, self.build = options, build
        self.lock = lock_of(model)
        self._entries: dict[Key, _Entry] = {}
        self._made: dict[Variant, tuple[Key, Key]] = {}
        self._clock = itertools.count(1)
        self._warned = False

    @property
    def variants(self) -> list[Variant]:
        return list(self._made)

    def variant(self, sign: Callable[[], tuple[Key, list[Any]]], trace_it: Callable[[], Trace]) -> Variant:
        """The variant for the key that ``sign`` makes of inputs and model (with the objects it names by id)."""
        with MODELS:  # no trace in another thread has changed modes meanwhile
            found = self._lookup(sign()[0])
        if found is not None:
            return found
        from .driver import Report

        with self.lock:
            report = Report()
            for attempt in range(_ATTEMPTS):
                with MODELS:
                    key, _ = sign()
                    found = self._lookup(key)
                    if found is not None:
                        return found
                    known = list(entry.modules) if (entry := self._entries.get(key)) else []
                    before = modules_key(known, [])
                    with report.stage("trace"):
                        traced = trace_it()
                    after, keep = sign()
                    # Modes and members may change while forward runs: by another thread, or by forward itself.
                    stable = (after, modules_key(known, [])) == (key, before)
                    named = {id(k) for k in keep}
                    reached = [m for m in traced.modules if id(m) not in named]
                    modules = known + [m for m in reached if not any(m is k for k in known)]
                    extra = modules_key(modules, keep)
                if stable or attempt == _ATTEMPTS - 1:
                    break
            program = self.build(traced.graph, self.options, report)
            made = Variant(traced, program, self.options.threads, report, self.lock)
            made.keep = [keep, modules]
            if stable:
                self._store(key, modules, extra, made)
            else:
                self._warn("its modules change whenever they are traced, so nothing compiled can be kept")
            return made

    def _lookup(self, key: Key) -> Variant | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        found = entry.variants.get(modules_key(entry.modules, []) if entry.modules else ())
        if found is not None:
            found.used = next(self._clock)
        return found

    def _store(self, key: Key, modules: list[Any], extra: Key, made: Variant) -> None:
        while len(self._made) >= MAX_VARIANTS:
            keys = [*self._made.values(), (key, extra)]
            changing = what_changes([(k[0], k[1], (*k[2], *e), *k[3:]) for k, e in keys])  # type: ignore[misc]
            self._warn(f"more than {MAX_VARIANTS} variants, because of changes between calls in {changing}. The least "
                       "recently used are dropped and compiled again when needed")  # fmt: skip
            oldest = min(self._made, key=lambda v: v.used)
            old_key, old_extra = self._made.pop(oldest)
            del self._entries[old_key].variants[old_extra]
            if not self._entries[old_key].variants:
                del self._entries[old_key]
        entry = self._entries.setdefault(key, _Entry())
        if len(modules) != len(entry.modules):
            # The keys of the earlier variants lack the new modules: they cannot be found any more.
            for variant in entry.variants.values():
                del self._made[variant]
            entry.variants = {}
            entry.modules = modules
        made.used = next(self._clock)
        entry.variants[extra] = made
        self._made[made] = key, extra

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"compiling again and again: {what}.", RuntimeWarning, stacklevel=5)


# Methods of Module that return the module: on a live module they return the live module.
_FLUENT = frozenset({
    "apply", "bfloat16", "cpu", "double", "eval", "float", "half", "requires_grad_", "to", "train", "type",
})  # fmt: skip


def record_eager_backward(
    model: Any, modules: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any], results: list[Any], state: Any
) -> None:
    """Join compiled results to the graph of eager differentiation; their backward runs ``model`` again, eagerly."""
    known = [m for m in modules if hasattr(m, "parameters")]
    parameters = list(dict.fromkeys(p for m in known for p in m.parameters() if p.requires_grad))
    given = flatten((tuple(args), dict(kwargs)), is_data)[0]
    if parameters or any(isinstance(x, Tensor) and x.requires_grad for x in given):
        buffers = list(dict.fromkeys(b for m in known for b in m.buffers()))
        run = model if state is None else random.counter_based()(model)
        Recompute("CompiledBackward", run, args, dict(kwargs), parameters, buffers, state, results)


class LiveModule:
    """A module compiled on demand: one variant per input signature, train/eval mode and set of parameters.

    Parameters and buffers are read (and running statistics written) where they are, so loading a state dict or
    an optimiser step shows at the next call. Attributes are the wrapped module's. Forward hooks, and whatever
    else in ``forward`` is not a tensor operation, run when a variant is traced, not at every call.

    What is fixed per variant: Python attributes and globals that ``forward`` reads (changing ``self.scale`` from 2.0 to
    3.0 has no effect on variants that exist; a buffer has), tensors from outside that are neither parameters nor
    buffers of a module that is called, and objects among the arguments (plain data counts by value, anything else
    by identity). In-place operations on an input change it inside the computation only, not the caller's array.

    At most ``MAX_VARIANTS`` variants are kept; the least recently used make room, and the first time a RuntimeWarning
    says what keeps changing. Safe to call from several threads; calls that write state (train mode) take turns.
    """

    def __init__(self, model: Any, options: Options, build: Build) -> None:
        self.__dict__.update(_model=model, _compiling=_Compiling(model, options, build))

    def __getattr__(self, name: str) -> Any:
        if "_model" not in self.__dict__:  # a copy under construction
            raise AttributeError(name)
        value = getattr(self._model, name)
        if name not in _FLUENT or not callable(value):
            return value

        def method(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            return self if result is self._model else result

        return method

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._model, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._model)})

    @property
    def variants(self) -> list[Variant]:
        """The compiled variants so far, oldest first (``.program``, ``.report``)."""
        return self._compiling.variants

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_tracing():
            return self._model(*args, **kwargs)
        leaves: Sequence[Any] = args
        structure: Key = ()
        modules = [module_of(self._model)]
        given: list[Any] = []
        if kwargs or not all(map(is_data, args)):
            for x in (*args, *kwargs.values()):
                array_of(x)  # refuses other libraries' tensors, which would pass for constants
            leaves, spec = flatten((args, kwargs), is_input)
            structure = structure_key(spec, given, modules)
        arrays = [array_of(x) for x in leaves]

        def sign() -> tuple[Key, list[Any]]:
            keep = list(given)
            return (structure, inputs_key(arrays), modules_key(modules, keep)), keep

        variant = self._compiling.variant(
            sign, lambda: trace(self._model, args, kwargs, name=function_name(self._model))
        )
        tensors = any(isinstance(x, Tensor) for x in leaves)
        recording = tensors and is_grad_enabled()
        state = random.default_generator.get_state() if recording and variant.draws else None
        results: list[Any] = variant.run(arrays)
        if tensors:
            results = [dispatch.from_array(r) for r in results]
            if recording:
                record_eager_backward(self._model, modules, args, kwargs, results, state)
        return unflatten(variant.out_spec, results)

    def __repr__(self) -> str:
        return f"<ingot live module of {self._model!r}>"


def unwrap(model: Any) -> Any:
    """The module inside a live one; anything else as it is."""
    return model.__dict__["_model"] if isinstance(model, LiveModule) else model
