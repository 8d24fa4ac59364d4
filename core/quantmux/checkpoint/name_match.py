"""Which module names a foreign ignore or target list means: four dialects, one interface.

``ct``        compressed-tensors: exact name, then ``re:`` with `re.match` (anchored at the start
              only), then class name
``modelopt``  ModelOpt: `fnmatch` wildcards (``*`` crosses dots), then, for old exports, substring
``hf``        transformers: a regular expression from the start to a module boundary, or a suffix
              that begins at one
``exact``     the name and nothing else (AutoFP8's ``ignored_layers``)
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Final, Literal

from quantmux.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Dialect = Literal["ct", "modelopt", "hf", "exact"]

FUSED_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "fused_qkv_a_proj_with_mqa": ("q_a_proj", "kv_a_proj_with_mqa"),
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
    "w13": ("w1", "w3"),
}
"""Fused module name → the projections whose rows it stacks, in order."""

_WILDCARD = re.compile(r"[*?\[]")
# a dot alone makes no regular expression of a name: module names are full of them
_OPERATOR = re.compile(r"[\\^$*+?{}\[\]|()]")


class Matcher:
    """Patterns of one list, compiled once; matching costs the same for long and short lists.

    Literal names, by far the most common entries, are looked up in a set. What remains is tried
    one after the other.

    Args:
        dialect: How the patterns are to be read.
        patterns: The list as it stands in the file.
        substring: ``modelopt`` only: fall back to substrings, as old exports need.

    Raises:
        CheckpointError: ``patterns`` is no list of strings, or one of them is no regular
            expression; code ``bad_pattern``.
    """

    def __init__(
        self, dialect: Dialect, patterns: Sequence[str], *, substring: bool = False
    ) -> None:
        self.dialect: Final = dialect
        # lists come from foreign JSON: one bare string would be taken for its letters
        if not isinstance(patterns, list | tuple) or not all(isinstance(p, str) for p in patterns):
            raise CheckpointError(
                "a list of module names is no list of strings",
                facts={"found": repr(patterns)[:200]},
                hint="correct it in the quantization config",
                code="bad_pattern",
            )
        self.patterns: Final = tuple(patterns)
        self._literal = {p: None for p in self.patterns if not p.startswith("re:")}
        self._regex: list[tuple[str, re.Pattern[str]]] = []
        self._substring = self.patterns if substring and dialect == "modelopt" else ()
        if dialect == "ct":
            regexes = [p for p in self.patterns if p.startswith("re:")]
            self._regex = [(p, _compile(p, p[3:])) for p in regexes]
        elif dialect == "modelopt":
            wild = [p for p in self.patterns if _WILDCARD.search(p)]
            self._regex = [(p, _compile(p, fnmatch.translate(p))) for p in wild]
        elif dialect == "hf":
            operators = [p for p in self.patterns if _OPERATOR.search(p)]
            self._regex = [(p, _compile(p, rf"(?:{p})(?:\.|$)")) for p in operators]

    def match(self, name: str, class_name: str | None = None) -> str | None:
        """Give the pattern that names the module, or None.

        Args:
            name: Module name, with dots.
            class_name: Class of the module, or None when unknown; only ``ct`` looks at it.
        """
        if name in self._literal:
            return name
        if self.dialect == "hf" and self._literal:
            found = self._by_parts(name)
            if found is not None:
                return found
        for pattern, regex in self._regex:
            if regex.match(name):
                return pattern
        if class_name is not None and self.dialect == "ct" and class_name in self._literal:
            return class_name
        return next((p for p in self._substring if p in name), None)

    def _by_parts(self, name: str) -> str | None:
        literal, at = self._literal, name.find(".")
        while at >= 0:
            if name[:at] in literal:
                return name[:at]
            if name[at + 1 :] in literal:
                return name[at + 1 :]
            at = name.find(".", at + 1)
        return None


def ignores_fused(
    name: str,
    matcher: Matcher,
    groups: Mapping[str, Sequence[str]] = FUSED_GROUPS,
) -> bool:
    """Tell whether a fused module is left unquantized by a list that names its shards.

    The fused name itself listed means yes; all shards listed means yes; none means no.

    Raises:
        CheckpointError: Some shards are listed and some are not; code ``partly_ignored``.
    """
    if matcher.match(name) is not None:
        return True
    prefix, _, last = name.rpartition(".")
    shards = groups.get(last, ())
    full = [f"{prefix}.{shard}" if prefix else shard for shard in shards]
    listed = [matcher.match(shard) is not None for shard in full]
    if any(listed) and not all(listed):
        raise CheckpointError(
            f"only some shards of {name} are listed as unquantized",
            facts=[
                f"{shard}: {'listed' if on else 'not listed'}"
                for shard, on in zip(full, listed, strict=True)
            ],
            hint="list all of them, or none: a fused layer has one scheme",
            code="partly_ignored",
        )
    return bool(listed) and all(listed)


def _compile(pattern: str, regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex)
    except re.error as error:
        raise CheckpointError(
            f'module pattern "{pattern}" is no regular expression',
            facts=[str(error)],
            hint="correct it in the quantization config",
            code="bad_pattern",
        ) from None
