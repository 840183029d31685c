// crc32.h: CRC-32 (the one of zlib and gzip; polynomial 0x04C11DB7, reflected), as fast as memory: with carry-less multiplication on
// x86, with the CRC instructions on aarch64, from tables elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pangu_core {

uint32_t crc32(const uint8_t *data, size_t n);

} // namespace pangu_core
