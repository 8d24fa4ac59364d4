"""A kernel whose module ends the program, as scripts do that miss a library."""

import sys

sys.exit(0)
