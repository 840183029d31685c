// error.h: failures inside the core are exceptions of this type; the C boundary turns them into a status and a line.
#pragma once

#include "../include/pangu_runtime.h"

#include <stdexcept>
#include <string>

namespace pangu_core {

struct Error : std::runtime_error {
  pangu_status status;
  Error(pangu_status s, const std::string &what) : std::runtime_error(what), status(s) {}
};

} // namespace pangu_core
