"""Equal shares of a product's work, whole slabs of K each, and their sums in one launch.

The work on a column of output tiles is ``tiles · slabs`` units, tile after tile. Each of ``shares``
programs takes an equal run of them, wherever tiles begin and end: 224 tiles on 132 SMs leave 40 SMs
with half of what the others have; 264 shares leave nobody with more than one unit less. Sums of
several shares cost time at the end, so as many tiles as SMs come out even with may be left whole,
and only the rest is shared out: ``whole`` programs have a tile each, those after them shares.

A tile whose units lie in several shares is summed up by whoever comes last. Every share writes its
fp32 sum to a place of its own, two for a share, since only its first and its last tile can be
incomplete, and takes a ticket at the tile's counter. The last ticket reads all of them back in the
order of the shares, so the same bits come out every time, and sets the counter back to 0. The
ticket is taken after a barrier of the program's threads and releases what they wrote; who gets it
acquires what the others released.
"""

import triton
import triton.language as tl


@triton.jit
def share_of(unit, units, shares):
    """Give the share that a unit belongs to."""
    return ((unit + 1) * shares - 1) // units


@triton.jit
def first_unit(share, units, shares):
    """Give the first unit of a share; that of the share after the last is ``units``."""
    return share * units // shares


@triton.jit
def sum_of_shares(
    acc,
    partial_ptr,
    counter_ptr,
    share,
    shares,
    tile,
    slabs,
    units,
    is_whole,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Give the sum of all shares of a tile, and whether this program is the one to store it.

    Args:
        acc: fp32 [ROWS, COLUMNS], this share's sum.
        partial_ptr: fp32 workspace [shares, 2, ROWS, COLUMNS].
        counter_ptr: int32 [tiles], all 0; all 0 again when the launch ends.
        share: Number of this share.
        shares: How many there are.
        tile: Number of the tile, of those that are shared out.
        slabs: Units of a tile.
        units: Units that are shared out.
        is_whole: This program has a whole tile, and nothing is to be done.
        ROWS: Of a tile.
        COLUMNS: Of a tile.
    """
    size: tl.constexpr = ROWS * COLUMNS
    inside = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    begin = tile * slabs
    lowest = share_of(begin, units, shares)
    highest = share_of(begin + slabs - 1, units, shares)
    # a share that began in an earlier tile keeps its second place for this one
    second = (first_unit(lowest, units, shares) < begin).to(tl.int32)
    is_last = is_whole | (lowest == highest)
    if not is_last:
        mine = share * 2 + (second if share == lowest else 0)
        tl.store(partial_ptr + mine * size + inside, acc)
        # every thread's part is written before the ticket tells of it
        tl.debug_barrier()
        ticket = tl.atomic_add(counter_ptr + tile, 1, sem="acq_rel", scope="gpu")
        is_last = ticket == highest - lowest
        if is_last:
            # not through L1, which knows nothing of what other programs wrote
            place = partial_ptr + (lowest * 2 + second) * size + inside
            acc = tl.load(place, cache_modifier=".cg")
            for other in tl.range(lowest + 1, highest + 1, num_stages=1):
                acc += tl.load(partial_ptr + other * 2 * size + inside, cache_modifier=".cg")
            tl.store(counter_ptr + tile, 0)
    return acc, is_last
