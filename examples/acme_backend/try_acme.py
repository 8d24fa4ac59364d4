"""See the installed backend chosen, compared, denied and broken."""

from __future__ import annotations

import logging

import torch

import quantmux as qm


def main() -> None:
    logging.basicConfig(format="%(levelname)s  %(message)s")  # fallbacks are logged as warnings
    acme = next((p for p in qm.plugins("cpu") if p.name == "acme"), None)
    if acme is None:
        raise SystemExit("acme is not installed\n  next: pip install ./examples/acme_backend")
    print(f"found    {acme.name} {acme.version} of {acme.distribution}: {acme.state}")

    config = qm.QuantizeConfig(operand="fp8_token", n=1000, padded_n=1024, in_dtype="fp32")
    selection = qm.select(config, "cpu")
    print(f"taken    {selection.ranges[0].pipeline} ({selection.ranges[0].tier})")
    for kernel, reasons in selection.rejected.items():
        print(f"not      {kernel}: {reasons[0].code} by {reasons[0].required}")

    linear = qm.LinearConfig(in_features=1000, out_features=64, scheme="fp8_channel_token")
    print(f"linear   {qm.select(linear, 'cpu').ranges[0].pipeline}")

    x = torch.randn(300, 1000, generator=torch.Generator().manual_seed(0))
    mine, reference = qm.quantize(x, config), qm.quantize(x, config, backend="torch")
    same_codes = torch.equal(mine.data.view(torch.uint8), reference.data.view(torch.uint8))
    same_scales = torch.equal(mine.scales, reference.scales)
    print(f"bits     codes equal: {same_codes}, scales equal: {same_scales}")

    with qm.policy(deny=["acme/*"]):
        denied = qm.select(config, "cpu")
    reason = denied.rejected["acme/token_quant"][0]
    print(f"denied   {denied.ranges[0].pipeline} is taken; the policy says: {reason.required}")

    # If it breaks, the next kernel takes over, with the same bits, and says so.
    from quantmux_acme.token_quant import KERNEL

    def broken(*_: object) -> None:
        raise RuntimeError("acme: the licence server does not answer")

    KERNEL.bind = broken
    other = config.replace(layout=config.layout.replace(padded_n=1008))
    again = qm.quantize(x, other)
    same = torch.equal(again.dequantize(), reference.dequantize())
    (event,) = qm.stats()["events"]
    print(f"broken   {event['taken']} took over at stage {event['stage']}, same values: {same}")


if __name__ == "__main__":
    main()
