#include "pages.h"

#include "error.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <utility>

namespace pangu_core {

Pages::Pages(size_t nbytes, const pangu_device *device) : size_(std::max<size_t>(nbytes, 64)), device_(device) {
  if (device_ != nullptr) {
    data_ = static_cast<uint8_t *>(device_->allocate(static_cast<int64_t>(size_)));
    return;
  }
  void *p = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw Error(PANGU_NO_MEMORY, "no memory for " + std::to_string(size_) + " bytes; open the session with a smaller max_context");
  data_ = static_cast<uint8_t *>(p);
}

Pages::Pages(Pages &&other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)), device_(other.device_) {}

Pages::~Pages() {
  if (data_ == nullptr) return;
  if (device_ != nullptr) device_->release(data_);
  else ::munmap(data_, size_);
}

void Pages::clear() const {
  if (device_ != nullptr) device_->clear(data_, static_cast<int64_t>(size_));
  else std::memset(data_, 0, size_);
}

void Pages::write(const void *host, size_t nbytes) const {
  if (nbytes == 0) return;
  if (device_ != nullptr) device_->upload(data_, host, static_cast<int64_t>(nbytes));
  else std::memcpy(data_, host, nbytes);
}

void Pages::read(void *host, size_t nbytes) const {
  if (nbytes == 0) return;
  if (device_ != nullptr) device_->download(host, data_, static_cast<int64_t>(nbytes));
  else std::memcpy(host, data_, nbytes);
}

} // namespace pangu_core
