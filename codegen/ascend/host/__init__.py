"""The CANN host program: an optimised module as C++ over acl and aclnn, one function per IR function."""

from .emit import HostProgram, StoredWeight, generate, int8_bytes, simulated_launchers, simulated_units
from .values import DIGITS

__all__ = ["DIGITS", "HostProgram", "StoredWeight", "generate", "int8_bytes", "simulated_launchers", "simulated_units"]
