"""The speed table of the CUTLASS backend with its peers; `speed_table` says how it is run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cutlass_markdown import brief, table
from cutlass_sections import sections
from speed_table import SpeedTable, main
from triton_twins import Pdl

from quantmux.runtime.context import default_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantmux.bench.contenders import Contender


class Overlap:
    """The switch of both backends: Triton's stands in its launcher, CUTLASS's in each kernel.

    A CUTLASS kernel keeps in a layer's plan whether its launches overlap, and makes plans when they
    are first needed. So a contender without it is bound once more, and called once, while the
    kernel says no.
    """

    def __init__(self) -> None:
        self._triton = Pdl()
        self._context = default_context()

    def uses(self, bound: Contender) -> bool:
        """Tell whether its launches overlap: a CUTLASS kernel says so itself."""
        if not bound.name.startswith("cutlass/"):
            return self._triton.uses(bound)
        return bool(self._kernel(bound.name).pdl)

    def without(
        self, bound: Contender, bind_again: Callable[[], Contender | str]
    ) -> Contender | str:
        """Give the same without it."""
        if not bound.name.startswith("cutlass/"):
            return self._triton.without(bound, bind_again)
        with self._off(bound.name):
            made = bind_again()
            if not isinstance(made, str):
                for call in made.calls:
                    call()
        return made

    @contextmanager
    def _off(self, kernel: str) -> Iterator[None]:
        loaded = self._kernel(kernel)
        loaded.pdl = False
        try:
            yield
        finally:
            loaded.pdl = True

    def _kernel(self, name: str) -> Any:
        return self._context.load(self._context.registry.get(name))


TABLE = SpeedTable(
    name="cutlass-table",
    module="cutlass_table",
    sections=sections,
    backends=("cutlass", "triton"),
    switch=Overlap,
    brief=brief,
    page=table,
)

if __name__ == "__main__":
    main(TABLE)
