// sha256.h: SHA-256 (FIPS 180-4); the x86 SHA instructions are used where the processor has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace pangu_core {

// Lower-case hexadecimal digest of n bytes.
std::string sha256_hex(const uint8_t *data, size_t n);

} // namespace pangu_core
