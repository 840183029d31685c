"""Every planted fault is caught, and the message names the kernel, the source line and the tensor."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from simulated import SimFault, Simulation, unwritten

SOURCE = pathlib.Path(__file__).parent / "kernels" / "faults.cpp"

# Kernel, fault, cores, what the message must say besides kernel and line.
FAULTS = [
    ("ub_overflow", "BufferOverflow", 1, r"VECCALC.*196608 of 196608 bytes of UB"),
    ("l1_overflow", "BufferOverflow", 1, r"A1.*524288 of 524288 bytes of L1"),
    ("l0a_overflow", "BufferOverflow", 1, r"A2.*65536 of 65536 bytes of L0A"),
    ("l0b_overflow", "BufferOverflow", 1, r"B2.*65536 of 65536 bytes of L0B"),
    ("l0c_overflow", "BufferOverflow", 1, r"CO1.*131072 of 131072 bytes of L0C"),
    ("misaligned_copy", "Misaligned", 1, r"multiple of 32.*VECCALC buffer \(InitBuffer at faults.cpp:\d+\) at UB\+0x4"),
    ("misaligned_length", "Misaligned", 1, r"63 elements are 252 bytes.*DataCopyPad"),
    ("misaligned_vector", "Misaligned", 1, r"multiple of 32.*VECCALC buffer .* at UB\+0x8"),
    ("global_out_of_bounds", "OutOfBounds", 1, r"of 256 bytes; tensor: GlobalTensor .* in 'x'\+0xe0"),
    ("tensor_out_of_bounds", "OutOfBounds", 1, r"of a tensor set to 64 bytes; tensor: GlobalTensor .* in 'x'"),
    ("local_out_of_bounds", "OutOfBounds", 1, r"of 256 bytes; tensor: VECCALC buffer \(InitBuffer at faults.cpp:\d+\)"),
    ("empty_queue", "EmptyQueue", 1, r"VECIN queue \(InitBuffer at faults.cpp:\d+\): EnQue is missing"),
    ("missing_flag", "MissingSync", 1, r"reads VECCALC buffer .*DataCopy at faults.cpp:\d+ writes.*HardEvent::MTE2_V"),
    ("missing_flag_back", "MissingSync", 1, r"writes VECCALC buffer .*Adds at faults.cpp:\d+ reads.*HardEvent::V_MTE2"),
    ("missing_barrier", "MissingSync", 1, r"VECCALC buffer.*Duplicate at faults.cpp:\d+ writes.*PipeBarrier<PIPE_V> is missing"),
    ("missing_scalar_wait", "MissingSync", 1, r"VECCALC buffer.*HardEvent::V_S"),
    ("core_race", "CrossCoreRace", 2, r"writes GlobalTensor .* in 'x'.*DataCopy at faults.cpp:\d+ writes on AIV 0"),
    ("core_read_race", "CrossCoreRace", 2, r"reads GlobalTensor .* in 'x'.*writes on AIV 0"),
    ("uninitialised_local", "Uninitialised", 1, r"UB\+0xf0; tensor: VECCALC buffer"),
    ("uninitialised_padding", "Uninitialised", 1, r"UB\+0xf0; tensor: VECCALC buffer"),
    ("uninitialised_output", "Uninitialised", 1, r"byte 0x0; tensor: GlobalTensor .* in 'x'"),
    ("uninitialised_cube", "Uninitialised", 1, r"L0A\+0x200; tensor: A2 buffer"),
    ("used_after_free", "Protocol", 1, r"FreeTensor; tensor: VECIN queue tensor"),
    ("queue_exhausted", "Protocol", 1, r"all 2 buffers of the VECIN queue"),
    ("flag_never_set", "Deadlock", 1, r"MTE2_V, event 1"),
    ("flag_never_waited", "Protocol", 1, r"nothing waited for it"),
    ("deadlock", "Deadlock", 3, r"the other cores in SyncAll"),
    ("plain_type_meets", "Protocol", 2, r"declare KERNEL_TYPE_MIX_AIV_1_0"),
    ("wrong_core", "Unsupported", 1, r"needs a cube core"),
    ("mask_too_wide", "Unsupported", 1, r"more lanes than the 64 of a repeat; tensor: VECCALC buffer"),
    ("partial_overlap", "Unsupported", 1, r"partial overlap\); tensor: VECCALC buffer"),
    ("cast_without_rounding", "Unsupported", 1, r"need a rounding mode; tensor: VECCALC buffer"),
    ("missing_cube_barrier", "MissingSync", 1, r"CO1 buffer.*Mmad at faults.cpp:\d+ writes.*PipeBarrier<PIPE_M> is missing"),
    ("missing_cross_wait", "CrossCoreRace", 1, r"reads GlobalTensor .* in 'x'.*Fixpipe at faults.cpp:\d+ writes on AIC 0"),
]


def lines_of(kernel: str) -> range:
    """The source lines of a kernel and of the templates it calls just before it."""
    lines = SOURCE.read_text().splitlines()
    begin = next(number for number, line in enumerate(lines, 1) if f" {kernel}(" in line)
    end = next(number for number in range(begin, len(lines) + 1) if lines[number - 1] == "}")
    return range(begin, end + 1)


@pytest.mark.parametrize(("kernel", "fault", "cores", "message"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_fault_is_caught(simulation: Simulation, kernel: str, fault: str, cores: int, message: str) -> None:
    library = simulation.kernels("faults")
    library.configure()
    x = np.ones(128 if "_cube" in kernel or "cross" in kernel else 64, np.float32)
    output = unwritten(64, np.float32) if kernel == "uninitialised_output" else x
    arguments = {"x": output} if "missing_flag" not in kernel else {"x": output, "out": unwritten(64, np.float32)}
    with pytest.raises(SimFault) as caught:
        library.launch(kernel, cores, **arguments)
    text = str(caught.value)
    assert caught.value.fault == fault, text
    assert f"kernel '{kernel}'" in text
    assert re.search(message, text), text
    at = re.search(r" at faults\.cpp:(\d+)", text)
    assert at, text
    if "overflow" not in kernel or kernel == "ub_overflow":  # the others overflow in a template
        assert int(at.group(1)) in lines_of(kernel), text


def test_the_compilers_own_waits_can_be_assumed(simulation: Simulation) -> None:
    """With auto_sync, as with the vendor's compiler option, V waits for V and S for V; the copies still need their flags."""
    library = simulation.kernels("faults")
    x = np.ones(64, np.float32)
    library.configure(auto_sync=True)
    try:
        library.launch("missing_barrier", 1, x=x)
        library.launch("missing_scalar_wait", 1, x=x)
        with pytest.raises(SimFault, match="MTE2_V"):
            library.launch("missing_flag", 1, x=x, out=unwritten(64, np.float32))
    finally:
        library.configure()


def test_sizes_come_from_the_platform(simulation: Simulation) -> None:
    library = simulation.kernels("faults")
    library.configure({"name": "roomier", "ub_size": 262144})
    try:
        library.launch("ub_overflow", 1, x=np.ones(8, np.float32))
    finally:
        library.configure()


def test_flags_between_cores_come_in_pairs(simulation: Simulation) -> None:
    with pytest.raises(SimFault, match=r"kernel 'cross_flag_never_waited', AIV 0.*flag 1 reached this core and it never waited"):
        simulation.kernels("faults").launch("cross_flag_never_waited", 1, x=np.ones(8, np.float32))


def test_a_launch_after_a_fault_starts_clean(simulation: Simulation) -> None:
    library = simulation.kernels("faults")
    for _ in range(2):
        with pytest.raises(SimFault, match="missing"):
            library.launch("missing_flag", 1, x=np.ones(64, np.float32), out=unwritten(64, np.float32))
        with pytest.raises(SimFault, match="deadlock"):
            library.launch("deadlock", 4, x=np.ones(64, np.float32))
