"""`--target torch_npu`: the optimised program as Python over torch_npu's operators, for one chip."""

from .availability import CHIPS, TABLE, Availability, exists
from .emit import Generated, generate
from .schema import CallError, check_source

__all__ = ["CHIPS", "TABLE", "Availability", "CallError", "Generated", "check_source", "exists", "generate"]
