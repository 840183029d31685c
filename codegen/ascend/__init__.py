"""The Ascend target: AscendC kernels, a CANN host program, and the simulator that runs both without an NPU."""
