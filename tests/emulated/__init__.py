"""AVX-512 on a machine without it: the CPU target's kernels and artifacts under Bochs. `make test-avx512`; not in `make test`."""
