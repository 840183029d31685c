// pages.h: memory of a session or model, the host's or a device's.
#pragma once

#include "pangu_abi.h"

#include <cstddef>

namespace pangu_core {

// Host memory is zeroed, and costs nothing where it is not touched. Device memory holds anything until it is written.
class Pages {
public:
  Pages() = default;
  explicit Pages(size_t nbytes, const pangu_device *device = nullptr);
  ~Pages();
  Pages(Pages &&other) noexcept;
  Pages &operator=(Pages &&) = delete;
  uint8_t *data() const { return data_; }
  size_t size() const { return size_; }
  void clear() const;
  void write(const void *host, size_t nbytes) const; // to the beginning
  void read(void *host, size_t nbytes) const;        // from the beginning

private:
  uint8_t *data_ = nullptr;
  size_t size_ = 0;
  const pangu_device *device_ = nullptr;
};

} // namespace pangu_core
