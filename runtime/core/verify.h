// verify.h: is an artifact whole?
#pragma once

#include <string>

namespace pangu_core {

// Throws Error unless manifest.json has our format version and, with `checksums`, every file equals its line in SHA256SUMS. The
// weights are compared piece by piece on `threads` threads with weights.crc32, which is in SHA256SUMS, where the artifact has it.
void verify_artifact(const std::string &folder, bool checksums, int threads);

} // namespace pangu_core
