"""A trained model, quantized five ways, every linear run and compared: `make demo`.

For each scheme: convert the model into a checkpoint as it would lie on disk, run it with
`quantmux run`, load its linears back into the model, and compare the embeddings of 40 sentences
with those of the fp32 original. Fails if a kernel is out of tolerance or the embeddings are.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from minilm import Embedder, model_folder, sentences
from rich.console import Console
from rich.table import Table

import quantmux as qm
from quantmux.cli import main as quantmux_command

if TYPE_CHECKING:
    from collections.abc import Iterable

# Scheme → least similarity that any one sentence may have with the original.
#
# Measured: 0.996 at worst with 8 bits, 0.951 with NVFP4. If one of the 36 layers gives zeros, the
# worst sentence is at 0.936 at best with all others untouched, at 0.913 with the others in NVFP4
# (each layer tried). So 0.93 lies between sound and broken, and 8 bits can be held to more.
SCHEMES = {
    "fp8_block128": 0.99,
    "fp8_channel_token": 0.99,
    "int8_channel_token": 0.99,
    "nvfp4": 0.93,
    "nvfp4_w4a16": 0.93,
}
NEIGHBOURS = 5


@dataclass(frozen=True)
class Result:
    """What one scheme did to the model."""

    scheme: str
    weight_bytes: int
    similarity: torch.Tensor  # [sentences], cosine with the original
    pairs: int
    neighbours: float
    kernels: list[str]
    tiers: list[str]
    run_ok: bool

    @property
    def worst(self) -> float:
        return float(self.similarity.min())

    @property
    def problems(self) -> list[str]:
        found = [] if self.run_ok else [f"{self.scheme}: quantmux run failed, see its table"]
        if not self.worst >= SCHEMES[self.scheme]:  # NaN is below every floor
            found.append(
                f"{self.scheme}: the least similar sentence is at {self.worst:.4f}, "
                f"needs {SCHEMES[self.scheme]}"
            )
        return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Quantize a trained model five ways and compare.")
    parser.add_argument("--out", type=Path, help="keep the checkpoints in this folder")
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda")
    options = parser.parse_args(argv)
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(highlight=False, width=100 if piped else None)
    try:
        profile = qm.device(options.device)
        if not profile.is_present:
            raise qm.ConfigError(
                f"the demo runs the model, and {profile.name} is not here",
                hint="take --device cpu, or cuda on a machine with a GPU",
            )
        device = profile.torch_name
        if options.out is not None:
            return demo(options.out, device, console)
        with tempfile.TemporaryDirectory(prefix="quantmux-demo-") as folder:
            return demo(Path(folder), device, console)
    except qm.QuantmuxError as error:
        console.print(
            f"quantmux.{type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True
        )
        return 2 if isinstance(error, qm.ConfigError) else 1


def demo(out: Path, device: str, console: Console) -> int:
    start = time.perf_counter()
    # matrices this small gain nothing from more threads, and lose much where cores are shared
    torch.set_num_threads(1)
    folder = model_folder()
    original = Embedder(folder, device)
    texts, others = sentences("scoring.txt"), sentences("calibration.txt")
    target = original.embed(texts)
    linears = {n: m for n, m in original.model.named_modules() if isinstance(m, torch.nn.Linear)}
    before = sum(m.weight.nbytes for m in linears.values())

    console.print("[bold]A trained sentence-embedding model, quantized five ways[/]")
    console.print(f"  model      all-MiniLM-L6-v2: {len(linears)} linears, fp32, {mib(before)} MiB")
    console.print(f"  device     {qm.device(device).title}")
    console.print(
        f"  sentences  {len(texts)} to score, {len(others)} others to calibrate NVFP4 with"
    )

    with console.status("calibrating"):
        calibration = qm.calibrate(original.model, (original.batch([text]) for text in others))
    results = []
    for number, name in enumerate(SCHEMES, 1):
        console.print(f"\n[bold cyan]{number}/{len(SCHEMES)} {name}[/]: {meaning(name)}")
        path = out / name
        with console.status(f"converting into {path}"):
            report = write(folder, path, name, calibration)
        console.print(f"  {len(report.converted)} linears written in the format {report.format}")
        console.print(f"  $ quantmux run {path} --tokens 32 --device {device}", style="dim")
        code = quantmux_command(["run", str(path), "--tokens", "32", "--device", device])
        with console.status("embedding the sentences with its layers"):
            quantized = original.with_checkpoint(path)
            found = quantized.embed(texts)
        layers = quantized.linears()
        console.print("  kernels not taken, and why; quantmux explain tells more", style="dim")
        console.print(not_taken(layers), style="dim")
        results.append(
            Result(
                scheme=name,
                weight_bytes=stored_bytes(path),
                similarity=(found * target).sum(1),
                pairs=pairs_found(found),
                neighbours=neighbours_kept(found, target),
                kernels=each(kernel for layer in layers for kernel in layer.selection.kernels),
                tiers=each(str(one.tier) for layer in layers for one in layer.selection.ranges),
                run_ok=code == 0,
            )
        )

    show(results, before, pairs_found(target), len(texts), console)
    problems = [problem for result in results for problem in result.problems]
    for problem in problems:
        console.print(problem, style="bold red")
    if not problems:
        console.print(
            f"\nall runs within tolerance, all similarities above their floor "
            f"({time.perf_counter() - start:.0f} s)",
            style="green",
        )
    return 1 if problems else 0


def write(
    model: Path, path: Path, name: str, calibration: qm.Calibration
) -> qm.checkpoint.ConvertReport:
    """Convert the encoder's linears into a checkpoint of the scheme's usual format."""
    scheme = qm.scheme(name)
    scales = {}
    if scheme.needs_static_activation_scale:
        for module in calibration:
            (scales[module],) = calibration.scales(module, scheme).values()
    return qm.checkpoint.convert(
        model, path, scheme, include=["encoder.*"], calibration=scales or None
    )


def meaning(name: str) -> str:
    scheme = qm.scheme(name)
    weight = scheme.weight.family.replace("token", "channel")  # one operand: decisions/0006
    return f"weights {weight}, activations {scheme.activation or 'as they are'}"


def not_taken(layers: list[qm.Linear]) -> Table:
    """Name every other kernel of the op under its reasons, over all layers."""
    reasons: dict[str, set[str]] = {}
    for layer in layers:
        for kernel, found in layer.selection.rejected.items():
            reasons.setdefault(kernel, set()).update(reason.code for reason in found)
    alike: dict[str, list[str]] = {}
    for kernel, why in reasons.items():
        alike.setdefault(", ".join(sorted(why)), []).append(kernel)
    table = Table.grid(padding=(0, 2))
    for text in sorted(alike, key=len):
        table.add_row("", text, ", ".join(alike[text]))
    return table


def stored_bytes(path: Path) -> int:
    """Give the bytes of codes and scales of all quantized linears, biases left out."""
    layers = qm.checkpoint.open_checkpoint(path).layers()
    return sum(
        bound.info.nbytes
        for entry in layers
        for role, bound in entry.tensors.items()
        if role != "bias"
    )


def nearest(embeddings: torch.Tensor, count: int) -> torch.Tensor:
    """Give the indices of the most similar other sentences, [sentences, count]."""
    similarity = embeddings @ embeddings.T
    return similarity.fill_diagonal_(-2.0).topk(count).indices


def pairs_found(embeddings: torch.Tensor) -> int:
    """Count sentences whose nearest is their paraphrase; the two stand side by side in the file."""
    partner = torch.arange(len(embeddings)) ^ 1
    return int((nearest(embeddings, 1)[:, 0] == partner).sum())


def neighbours_kept(embeddings: torch.Tensor, target: torch.Tensor) -> float:
    """Give the share of each sentence's nearest five that are the original's nearest five."""
    mine, theirs = nearest(embeddings, NEIGHBOURS), nearest(target, NEIGHBOURS)
    return float((mine[:, :, None] == theirs[:, None, :]).any(2).float().mean())


def show(results: list[Result], before: int, pairs: int, texts: int, console: Console) -> None:
    table = Table(
        title=f"Embeddings of {texts} sentences against the fp32 original",
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    table.add_column("scheme", no_wrap=True)
    for title in ("weights\nMiB", "cosine\nmean", "\nworst", "pairs\nfound", "nearest\n5 kept"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("kernels", no_wrap=True)
    table.add_column("tier", no_wrap=True)
    table.add_row("fp32 original", mib(before), "1", "1", f"{pairs}/{texts}", "100 %", "torch", "")
    for r in results:
        table.add_row(
            r.scheme,
            mib(r.weight_bytes),
            f"{float(r.similarity.mean()):.4f}",
            f"{r.worst:.4f}",
            f"{r.pairs}/{texts}",
            f"{100 * r.neighbours:.0f} %",
            "\n-> ".join(r.kernels),
            "\n".join(r.tiers),
            style="red" if r.problems else "",
        )
    console.print()
    console.print(table)


def each(names: Iterable[str]) -> list[str]:
    """Give every name once, in the order of first use."""
    return list(dict.fromkeys(names))


def mib(count: int) -> str:
    return f"{count / 2**20:.1f}"


if __name__ == "__main__":
    sys.exit(main())
