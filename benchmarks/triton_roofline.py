"""The linears of a result of the Triton table under the ceilings of its run, as a picture.

python benchmarks/triton_roofline.py RESULT.json PICTURE.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from triton_twins import WITHOUT_PDL

from quantmux.bench.roofline import write_plot
from quantmux.bench.rows import Report, Row


def main(result: Path, picture: Path) -> None:
    data = json.loads(result.read_text(encoding="utf-8"))
    rows = [Row.of(row) for row in data["rows"] if not row["kernel"].endswith(WITHOUT_PDL)]
    report = Report(
        device=data["device"],
        title=data["title"],
        date=data["date"],
        versions=data["versions"],
        ceilings=data["ceilings"],
        rows=[row for row in rows if row.op == "linear"],
    )
    write_plot(report, picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
