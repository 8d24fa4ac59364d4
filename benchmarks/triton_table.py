"""The speed table of the Triton backend with its peers; `speed_table` says how it is run."""

from __future__ import annotations

from speed_table import SpeedTable, main
from triton_markdown import brief, table
from triton_sections import sections
from triton_twins import Pdl

TABLE = SpeedTable(
    name="triton-table",
    module="triton_table",
    sections=sections,
    backends=("triton",),
    switch=Pdl,
    brief=brief,
    page=table,
)

if __name__ == "__main__":
    main(TABLE)
