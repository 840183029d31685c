// model.h: an opened artifact: verified files, mapped weights, the generated tables.
#pragma once

#include "drafting.h"
#include "error.h"
#include "pages.h"
#include "pangu_abi.h"

#include <string>
#include <vector>

namespace pangu_core {

// A file mapped read-only.
class MappedFile {
public:
  explicit MappedFile(const std::string &path);
  ~MappedFile();
  MappedFile(const MappedFile &) = delete;
  MappedFile &operator=(const MappedFile &) = delete;
  const uint8_t *data() const { return data_; }
  size_t size() const { return size_; }

private:
  const uint8_t *data_ = nullptr;
  size_t size_ = 0;
};

} // namespace pangu_core

struct pangu_model {
  pangu_model(const std::string &folder, const pangu_model_options &options);

  const pangu_program_desc &program(const std::string &name) const; // Error where there is none
  const pangu_program_desc *find(const std::string &name) const;    // null where there is none
  const pangu_generated_model_desc &tables; // for the best instruction set that the library has and the processor too
  std::vector<const void *> weights;
  int threads;
  std::string fingerprint; // of all files of the artifact; empty where SHA256SUMS is absent and was not asked for
  pangu_core::Learnt learnt; // by its sessions

private:
  pangu_core::MappedFile file_;
  std::vector<pangu_core::Pages> device_weights_; // one: the whole file in device memory; none: it stays mapped
};
