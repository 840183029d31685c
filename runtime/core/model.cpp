#include "model.h"

#include "sha256.h"
#include "verify.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace pangu_core {

MappedFile::MappedFile(const std::string &path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw Error(errno == ENOENT ? PANGU_BAD_ARTIFACT : PANGU_IO, path + ": cannot be opened (" + std::strerror(errno) + ")");
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw Error(PANGU_BAD_ARTIFACT, path + ": not a file");
  }
  size_ = static_cast<size_t>(info.st_size);
  void *mapped = size_ == 0 ? nullptr : ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  const int failed = errno;
  ::close(fd);
  if (mapped == MAP_FAILED) throw Error(PANGU_IO, path + ": cannot be mapped (" + std::strerror(failed) + ")");
  data_ = static_cast<const uint8_t *>(mapped);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t *>(data_), size_);
}

} // namespace pangu_core

using pangu_core::Error;

namespace {

// The instruction sets that this library was compiled for must exist here: a clear error instead of a crash.
void check_processor(const std::string &folder) {
  const char *missing = nullptr;
#if defined(__x86_64__)
  __builtin_cpu_init();
#define PANGU_NEEDS(name)                                                                                              \
  if (!__builtin_cpu_supports(name)) missing = name;
#if defined(__AVX2__)
  PANGU_NEEDS("avx2")
#endif
#if defined(__FMA__)
  PANGU_NEEDS("fma")
#endif
#if defined(__AVX512F__)
  PANGU_NEEDS("avx512f")
#endif
#if defined(__AVX512VL__)
  PANGU_NEEDS("avx512vl")
#endif
#if defined(__AVX512VNNI__)
  PANGU_NEEDS("avx512vnni")
#endif
#undef PANGU_NEEDS
#endif
  if (missing != nullptr)
    throw Error(PANGU_BAD_ARTIFACT, folder + ": its library needs the instruction set " + missing +
                                        ", which this processor lacks; build the artifact with --arch x86-64-v3 or on this machine");
}

int thread_count(const pangu_model_options &options) {
  return options.threads > 0 ? options.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

const pangu_generated_model_desc &best_level() {
  for (const pangu_level *level = pangu_generated_model.levels; level != nullptr && level->name != nullptr; ++level)
    if (level->supported()) return *level->model;
  return pangu_generated_model;
}

std::string checked(const std::string &folder, const pangu_model_options &options) {
  struct stat info {};
  if (::stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode))
    throw Error(PANGU_BAD_ARTIFACT, folder + ": no such artifact directory");
  check_processor(folder);
  pangu_core::verify_artifact(folder, options.skip_verify == 0, thread_count(options));
  return folder + "/weights.safetensors";
}

} // namespace

pangu_model::pangu_model(const std::string &folder, const pangu_model_options &options)
    : tables(best_level()), threads(thread_count(options)), file_(checked(folder, options)) {
  if (tables.abi_version != PANGU_ABI_VERSION)
    throw Error(PANGU_BAD_VERSION, folder + ": library of ABI version " + std::to_string(tables.abi_version) + "; build it again");
  struct stat sums {};
  const std::string sums_path = folder + "/SHA256SUMS";
  if (::stat(sums_path.c_str(), &sums) == 0) {
    const pangu_core::MappedFile file(sums_path);
    fingerprint = pangu_core::sha256_hex(file.data(), file.size());
  }
  const uint8_t *base = file_.data();
  if (tables.device != nullptr) {
    tables.device->open();
    device_weights_.emplace_back(file_.size(), tables.device);
    device_weights_.back().write(file_.data(), file_.size());
    base = device_weights_.back().data();
  }
  for (int i = 0; i < tables.n_weights; ++i) {
    const pangu_weight_desc &w = tables.weights[i];
    if (w.offset < 0 || static_cast<uint64_t>(w.offset) + static_cast<uint64_t>(w.nbytes) > file_.size())
      throw Error(PANGU_CORRUPT, folder + "/weights.safetensors: too short for tensor " + w.name + "; the artifact is corrupt, build it again");
    weights.push_back(base + w.offset);
  }
}

const pangu_program_desc *pangu_model::find(const std::string &name) const {
  for (int i = 0; i < tables.n_programs; ++i)
    if (name == tables.programs[i].name) return tables.programs + i;
  return nullptr;
}

const pangu_program_desc &pangu_model::program(const std::string &name) const {
  const pangu_program_desc *found = find(name);
  if (found != nullptr) return *found;
  throw Error(PANGU_BAD_ARGUMENT, "no program '" + name + "' in this artifact");
}
