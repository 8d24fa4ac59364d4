"""The command line: doctor plugins matrix explain plan · convert run, one file each.

``doctor``, ``plugins``, ``matrix``, ``explain`` and ``plan`` need no GPU and never import torch.
Answers go to stdout, progress and warnings to stderr. Exit codes: 0 fine, 1 the work failed or
found something wrong, 2 the request was wrong, 130 interrupted.
"""

from quantmux.cli.main import main

__all__ = ["main"]
