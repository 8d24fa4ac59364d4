"""Who shall do it: join, rank, M ranges, selection, plan. Pure: no torch, no GPU."""

from quantmux.dispatch.inventory import Inventory
from quantmux.dispatch.pipeline import Pipeline, Step
from quantmux.dispatch.plan import Plan, PlannedLayer, plan
from quantmux.dispatch.ranges import RangeChoice
from quantmux.dispatch.select import select, survey
from quantmux.dispatch.selection import Selection
from quantmux.dispatch.tier import Tier
from quantmux.dispatch.tuning import TuningRow, TuningTable

__all__ = [
    "Inventory",
    "Pipeline",
    "Plan",
    "PlannedLayer",
    "RangeChoice",
    "Selection",
    "Step",
    "Tier",
    "TuningRow",
    "TuningTable",
    "plan",
    "select",
    "survey",
]
