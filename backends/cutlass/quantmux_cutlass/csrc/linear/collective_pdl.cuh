// Programmatic dependent launch in CUTLASS's SM90 kernels, by the rules of docs/decisions/0010.
//
// Include before any header of CUTLASS's kernels.
//
// With CUTLASS_ENABLE_GDC_FOR_SM90 the producer warp waits for the grid before this one before it
// loads anything (rules 1 and 3). But the ping-pong kernel releases the next grid too early: a math
// group that has no tile releases at once, before any thread of its block has waited (in CUTLASS
// 4.5.0, first lines of the consumers' branch). Where there are fewer tiles than two for each block
// that is every block, and the kernel after us could start while the one before us still runs
// (rule 2). So every release in those kernels waits first: for a thread whose data has come through
// the producer warp the wait is over already and costs an instruction; the group without a tile is
// the one that is held back.
#pragma once
#ifndef CUTLASS_ENABLE_GDC_FOR_SM90
#define CUTLASS_ENABLE_GDC_FOR_SM90 1
#endif
#include "cutlass/arch/grid_dependency_control.h"

namespace cutlass::arch {
CUTLASS_DEVICE void quantmux_wait_and_release() {
  wait_on_dependent_grids();
  launch_dependent_grids();
}
}  // namespace cutlass::arch

// From here on CUTLASS's kernels call the function above; nothing else is renamed.
#define launch_dependent_grids quantmux_wait_and_release
