"""One variant of one Triton function: compiled once, launched many times, at little cost.

Triton's own launch works out anew, for every argument, what kind of code it needs: tens of
microseconds on the host for a kernel that runs for two. A `Launcher` has one answer, so it keeps
the compiled kernel of its first launch, or of `Launcher.warm`, and afterwards only makes sure that
the arguments are of the kinds that it was compiled for. Where they are not, or somebody watches
launches through Triton's hooks, Triton's own path is taken; it is right for everything.
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from quantmux_triton.interpreter import interpreting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from quantmux.capability.arch import Arch
    from quantmux.registry.protocol import CompiledCode

    _Launch = Callable[..., bool]

TYPE_NAMES: Final[dict[torch.dtype, str]] = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e5m2: "*fp8e5",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
"""Triton's names of pointers to torch's dtypes."""

_ALIGNMENT: Final = 16
_END_OF_I32: Final = 1 << 31

_compiling: Final[dict[Any, Lock]] = {}
_interpreter_lock: Final = Lock()
_interpreted: Final[dict[Any, set[Any]]] = {}
"""Function → variants that a process with a GPU would have compiled."""


class Launcher:
    """A ``@triton.jit`` function with its constexprs and options: one compiled variant.

    Every runtime integer of the function must be in its ``do_not_specialize`` list, so that no
    value of it makes another variant; what is known of divisibility is a constexpr or a
    ``tl.multiple_of``. Integers from 2^31 on make one, and so do pointers that are no multiple of
    16, but for those in ``do_not_specialize`` or ``do_not_specialize_on_alignment``.

    Any number of threads may launch at once.

    Args:
        fn: The decorated function; its runtime arguments come first, in order.
        constexprs: Argument → compile-time value.
        options: ``num_warps``, ``num_stages``, ``enable_fp_fusion``, ``launch_pdl`` …
    """

    def __init__(self, fn: Any, constexprs: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self.fn = fn
        self.constexprs = dict(constexprs)
        self.options = dict(options)
        self._call = {**self.constexprs, **({} if interpreting() else self.options)}
        self._variant = (repr(sorted(self.constexprs.items())), repr(sorted(self.options.items())))
        self._launch: _Launch = _not_yet  # of the device that was launched on last
        self._launches: dict[int, _Launch] = {}  # by device; an entry is replaced, never changed

    def __call__(self, grid: tuple[int, ...], *args: Any) -> None:
        """Launch on the current stream of the current device.

        Args:
            grid: Programs per axis, one to three axes, each at least 1.
            args: The runtime arguments in order: tensors, integers, floats, None, descriptors.
        """
        try:
            if self._launch(grid, *args):
                return
        except (AttributeError, TypeError):
            # an argument of another kind, or one too many: Triton's path says what is wrong
            pass
        self._otherwise(grid, args)

    def warm(self, *args: Any) -> None:
        """Compile and load without launching; a tensor may be given as its dtype."""
        if interpreting():
            self._count(args)
            return
        # threads that warm layers up meet in the same variants: one compiles, the others wait
        key = (self.fn, self._variant, tuple(_type_name(a) for a in args))
        with _compiling.setdefault(key, Lock()):
            self._keep(self.fn.warmup(*args, grid=(1,), **self._call), args)

    def compile_for(self, arch: Arch, *args: Any) -> CompiledCode:
        """Give the machine code for a GPU that need not be here; arguments as for `warm`.

        Pointers are taken to be multiples of 16 bytes where Triton looks at it.

        Raises:
            BuildError: As of `quantmux.testing.compile_triton`.
        """
        from quantmux.testing.compile_triton import compile_triton

        names = [name for name in self.fn.arg_names if name not in self.constexprs]
        kinds = dict(zip(names, (_type_name(a) for a in args), strict=True))
        loose = _unspecialized(self.fn)
        pointers = tuple(a for a, kind in kinds.items() if kind.startswith("*") and a not in loose)
        return compile_triton(
            self.fn, kinds, self.constexprs, arch, self.options, divisible_by_16=pointers
        )

    def _otherwise(self, grid: tuple[int, ...], args: tuple[Any, ...]) -> None:
        """Launch by the kernel kept for another device, else by Triton's own path."""
        if interpreting():
            self._count(args)
            with _one_at_a_time():
                self.fn[grid](*args, **self._call)
            return
        if len(self._launches) > 1:
            known = self._launches.get(_current_device())
            if known is not None and known is not self._launch:
                self._launch = known
                self(grid, *args)
                return
        self._keep(self.fn[grid](*args, **self._call), args)

    def _keep(self, kernel: Any, args: tuple[Any, ...]) -> None:
        """Keep what Triton compiled for these arguments, if they are of the common kinds."""
        if hasattr(kernel, "result"):  # of a thread that compiles
            kernel = kernel.result()
        launch = _launch_of(kernel, self.fn, self.constexprs, args)
        if launch is not None:
            self._launches[_current_device()] = self._launch = launch

    def _count(self, args: tuple[Any, ...]) -> None:
        variant = (*self._variant, tuple(_type_name(a) for a in args))
        _interpreted.setdefault(self.fn, set()).add(variant)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let one thread interpret: the interpreter keeps the program's place in a global.

    What overflows on a GPU does so silently, and so it does in numpy here.
    """
    import numpy as np

    with _interpreter_lock, np.errstate(all="ignore"):
        yield


def compiled_count(*fns: Any) -> int:
    """Give how many variants of ``@triton.jit`` functions exist in this process.

    In the interpreter: how many would.
    """
    if interpreting():
        return sum(len(_interpreted.get(fn, ())) for fn in fns)
    return sum(len(caches[0]) for fn in fns for caches in list(fn.device_caches.values()))


class _Block(NamedTuple):
    """What of a tensor descriptor is compiled in."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def _not_yet(*_: Any) -> bool:
    """Launch nothing: no kernel is kept."""
    return False


def _current_device() -> int:
    from triton.runtime.driver import driver

    return int(driver.active.get_current_device())


def _launch_of(
    kernel: Any, fn: Any, constexprs: Mapping[str, Any], args: tuple[Any, ...]
) -> _Launch | None:
    """Make a compiled kernel ready for cheap launches; None where only Triton knows how."""
    from triton import knobs
    from triton.runtime.driver import driver

    kinds = tuple(_kind(a) for a in args)
    loose = _unspecialized(fn)
    runtime = [name for name in fn.arg_names if name not in constexprs]
    if (
        kernel is None
        or None in kinds
        or len(runtime) != len(args)
        or any(_is_misaligned(a) for n, a in zip(runtime, args, strict=True) if n not in loose)
        or fn.pre_run_hooks
        or knobs.runtime.debug
        or getattr(fn, "debug", None)
        or getattr(knobs.compilation, "instrumentation_mode", "")
    ):
        return None
    active = driver.active
    current = active.get_current_device
    if current is torch.cuda.current_device:
        # below it, without the question whether CUDA is initialized
        current = getattr(torch._C, "_cuda_getDevice", current)  # noqa: SLF001
    hooks = knobs.runtime
    enter, leave = hooks.launch_enter_hook, hooks.launch_exit_hook
    known = {
        "device": int(current()),
        "current": current,
        "stream": active.get_current_stream,
        "hooks": hooks,
        "enter": enter,
        "leave": leave,
        # those of 3.5 and later are chains; as long as nothing is in them they need not be called
        "entering": getattr(enter, "calls", enter),
        "leaving": getattr(leave, "calls", leave),
    }
    # kernel.run loads the code: that is for now, not for a capture or a call that is timed
    entry = _entry(kernel.run, kernel)
    parameters = [
        _Parameter(name not in constexprs, constexprs.get(name), name not in loose)
        for name in fn.arg_names
    ]
    return _written(entry, parameters, kinds, known)


class _Entry(NamedTuple):
    """What launches: ``call(x, y, z, stream, *head, *values)``.

    Attributes:
        call: The function.
        head: Its arguments that are the same for every launch.
        is_packed: It takes the values as one argument.
    """

    call: Callable[..., Any]
    head: tuple[Any, ...]
    is_packed: bool = False


class _Parameter(NamedTuple):
    """A parameter of the function.

    Attributes:
        is_runtime: It is an argument of launches.
        constant: Its value if not.
        is_specialized: Triton compiles other code for a pointer that is no multiple of 16.
    """

    is_runtime: bool
    constant: Any
    is_specialized: bool


def _entry(run: Any, kernel: Any) -> _Entry:
    """Give the function below Triton's launcher object where its arguments are known.

    The object allocates scratch memory, encodes descriptors, and then calls that function; for a
    kernel with neither, the object only costs time.
    """
    import triton

    release = tuple(int(part) for part in triton.__version__.split(".")[:2])
    launch = getattr(run, "launch", None)
    is_plain = (
        type(run).__name__ == "CudaLauncher"
        and type(launch).__name__ == "builtin_function_or_method"
        and run.global_scratch_size == 0
        and run.profile_scratch_size == 0
    )
    metadata = kernel.packed_metadata
    if is_plain and launch is not None:
        begin = (kernel.function, run.launch_cooperative_grid, run.launch_pdl)
        no_hooks, no_scratch = (None, None, None), (None, None)
        if release == (3, 6):
            return _Entry(launch, (*begin, *no_scratch, metadata, *no_hooks))
        if release == (3, 9) and not run.gsan_enabled:
            ends = (run.arg_annotations, run.kernel_signature)
            return _Entry(launch, (*begin, metadata, *no_hooks, *no_scratch, *ends), is_packed=True)
    return _Entry(run, (kernel.function, metadata, None, None, None))


def _written(
    entry: _Entry,
    parameters: Sequence[_Parameter],
    kinds: Sequence[Any],
    known: Mapping[str, Any],
) -> _Launch:
    """Write the function ``launch(grid, *runtime arguments)`` that checks them and launches.

    Written out it takes a third of the time of a loop over kinds. For a tensor, two integers, a
    float and a constant it is::

        def launch(grid, a0, a1, a2, a3):
            p0 = a0.data_ptr()
            if (
                current() != device or entering or leaving or hooks.debug
                or hooks.launch_enter_hook is not enter or hooks.launch_exit_hook is not leave
                or p0 & 15
                or not 0 <= (0 | a1 | a2) < 2147483648
                or a0.dtype is not k0 or a0.get_device() != device
                or type(a3) is not k3
            ):
                return False
            x, y, z = (grid[0], 1, 1) if len(grid) == 1 else (*grid, 1)[:3]
            call(x, y, z, stream(device), h0, h1, h2, h3, h4, p0, a1, a2, a3, c4)
            return True

    Tensors go by their addresses, which spares Triton asking the driver about each of them. A
    number that is no integer has no ``|``, and negative ones take Triton's path.

    Args:
        entry: What launches.
        parameters: Of the function, in order.
        kinds: Of the runtime arguments, in order.
        known: Device, stream and hooks.
    """
    names = {**known, "call": entry.call, "kind": _kind}
    heads = [f"h{i}" for i in range(len(entry.head))]
    names.update(zip(heads, entry.head, strict=True))
    arguments, addresses, aligned, integers, tests, values = [], [], [], [], [], []
    kind_of = iter(kinds)
    for place, (is_runtime, constant, is_specialized) in enumerate(parameters):
        a, k, p = f"a{place}", f"k{place}", f"p{place}"
        if not is_runtime:
            names[f"c{place}"] = constant
            values.append(f"c{place}")
            continue
        names[k] = kind = next(kind_of)
        arguments.append(a)
        values.append(a)
        if isinstance(kind, torch.dtype):
            addresses.append(p)
            values[-1] = p
            tests.append(f"{a}.dtype is not {k} or {a}.get_device() != device")
            if is_specialized:
                aligned.append(p)
        elif isinstance(kind, _Block):
            tests.append(f"kind({a}) != {k} or {a}.base.get_device() != device")
        elif kind is int:
            integers.append(a)
        else:
            tests.append(f"type({a}) is not {k}")
    if integers:
        tests.insert(0, f"not 0 <= ({' | '.join(['0', *integers])}) < {_END_OF_I32}")
    if aligned:
        tests.insert(0, f"({' | '.join(aligned)}) & {_ALIGNMENT - 1}")
    watched = (
        "current() != device or entering or leaving or hooks.debug "
        "or hooks.launch_enter_hook is not enter or hooks.launch_exit_hook is not leave"
    )
    given = f"({''.join(v + ', ' for v in values)})" if entry.is_packed else ", ".join(values)
    lines = [
        f"def launch({', '.join(['grid', *arguments])}):",
        *(f"{p} = a{p[1:]}.data_ptr()" for p in addresses),
        f"if {' or '.join([watched, *tests])}: return False",
        "x, y, z = (grid[0], 1, 1) if len(grid) == 1 else (*grid, 1)[:3]",
        f"call({', '.join(['x', 'y', 'z', 'stream(device)', *heads, given])})",
        "return True",
    ]
    exec("\n    ".join(lines), names)  # noqa: S102 - no text of anybody else's is in it
    return names["launch"]  # type: ignore[no-any-return]


def _kind(arg: Any) -> Any:
    """Give the type of an argument, of a tensor its dtype; None for what has no cheap launch."""
    if isinstance(arg, torch.Tensor):
        return arg.dtype
    if isinstance(arg, torch.dtype):
        return arg
    if type(arg) is int:
        return int if -_END_OF_I32 <= arg < _END_OF_I32 else None
    if isinstance(arg, float | bool) or arg is None:
        return type(arg)
    if hasattr(arg, "block_shape"):
        return _Block(arg.base.dtype, tuple(arg.block_shape))
    return None


def _unspecialized(fn: Any) -> frozenset[str]:
    """Give the arguments whose alignment makes no variant."""
    names, listed = list(fn.arg_names), set()
    for kind in ("do_not_specialize", "do_not_specialize_on_alignment"):
        given = getattr(fn, kind, None) or ()  # an interpreted function has neither
        listed |= {names[item] if isinstance(item, int) else item for item in given}
    return frozenset(listed)


def _is_misaligned(arg: Any) -> bool:
    return isinstance(arg, torch.Tensor) and arg.data_ptr() % _ALIGNMENT != 0


def _type_name(arg: Any) -> str:
    if isinstance(arg, torch.Tensor):
        return TYPE_NAMES[arg.dtype]
    if isinstance(arg, torch.dtype):
        return TYPE_NAMES[arg]
    if hasattr(arg, "block_shape"):
        box = f"{TYPE_NAMES[arg.base.dtype][1:]}{list(arg.block_shape)}"
        # those of Gluon say how the box lies in shared memory
        return f"tensordesc<{box},{arg.layout}>" if hasattr(arg, "layout") else f"tensordesc<{box}>"
    if isinstance(arg, bool):
        return "i1"
    if isinstance(arg, float):
        return "fp32"
    return "i32" if -_END_OF_I32 <= arg < _END_OF_I32 else "i64"
