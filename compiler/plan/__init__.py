"""The plan: kernels, buffers, offsets, weights and states of a compiled program. Imports the IR alone."""

from .derived import Derived
from .plan import FunctionPlan, Plan, PlannedWeight, PlanOptions, ProgramPlan, make_plan
from .schedule import Kernel, Schedule

__all__ = [
    "Derived", "FunctionPlan", "Kernel", "Plan", "PlanOptions", "PlannedWeight", "ProgramPlan", "Schedule",
    "make_plan",
]  # fmt: skip
