// artifact.cpp: what an artifact generates, and for which instruction set the code is that it runs.
//
//   artifact DIRECTORY MODEL_OFFSET LEVELS_OFFSET
//
// The offsets are those of pangu_generated_model and pangu_levels in the library, as nm prints them.
// Prints the level that is best here ("least" where none is), greedy tokens with and without speculation, and the logits
// behind the prompt. First it overwrites the programs of all other levels with an instruction that ends the process, and
// sees a child end that runs one: what is printed came from this level alone.
#include "pangu_abi.h"
#include "pangu_runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <initializer_list>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

constexpr int64_t kPrompt[] = {1, 2, 3, 7, 5, 2, 9, 11, 4, 1, 30, 31, 32, 33, 40, 41, 42, 5, 6, 7};
constexpr size_t kTokens = sizeof kPrompt / sizeof kPrompt[0];
constexpr int64_t kNew = 24;

[[noreturn]] void fail(const std::string &what) {
  std::printf("%s\n", what.c_str());
  std::exit(1);
}

void *symbol(void *library, const char *name) {
  void *found = dlsym(library, name);
  if (found == nullptr) fail(std::string("no ") + name);
  return found;
}
// A function of the C interface, as `library` has it.
#define PANGU(name) reinterpret_cast<decltype(&name)>(symbol(library, #name))

void overwrite(const pangu_generated_model_desc &model) {
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  for (int i = 0; i < model.n_programs; ++i) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(model.programs[i].run), first = at / page * page;
    if (mprotect(reinterpret_cast<void *>(first), 2 * page, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) fail("mprotect");
#ifdef __aarch64__
    std::memset(reinterpret_cast<void *>(at), 0, 4); // udf
    __builtin___clear_cache(reinterpret_cast<char *>(at), reinterpret_cast<char *>(at) + 4);
#else
    std::memcpy(reinterpret_cast<void *>(at), "\x0f\x0b", 2); // ud2
#endif
  }
}

void check_that_it_ends(const pangu_generated_model_desc &model) {
  const pid_t child = fork();
  if (child == 0) {
    model.programs[0].run(nullptr);
    _exit(0);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status) || WTERMSIG(status) != SIGILL) fail("overwritten code runs");
}

void generate(void *library, pangu_model *model, int32_t speculate) {
  pangu_session *session;
  pangu_generate_options options;
  std::vector<int64_t> tokens(kNew);
  size_t n = 0;
  PANGU(pangu_generate_defaults)(&options);
  options.max_new_tokens = kNew, options.temperature = 0;
  options.speculate = speculate, options.max_drafts = PANGU_MAX_DRAFTS * speculate;
  if (PANGU(pangu_session_open)(model, nullptr, &session) != PANGU_OK ||
      PANGU(pangu_generate)(session, kPrompt, kTokens, &options, nullptr, nullptr, nullptr, tokens.data(), &n) != PANGU_OK)
    fail(PANGU(pangu_last_error)());
  PANGU(pangu_session_close)(session);
  std::printf("tokens");
  for (size_t i = 0; i < n; ++i) std::printf(" %d", static_cast<int>(tokens[i]));
  std::printf("\n");
}

void logits(void *library, pangu_model *model) {
  pangu_model_info_t info;
  pangu_session *session;
  PANGU(pangu_model_info)(model, &info);
  std::vector<float> rows(static_cast<size_t>(info.vocab_size));
  if (PANGU(pangu_session_open)(model, nullptr, &session) != PANGU_OK ||
      PANGU(pangu_prefill)(session, kPrompt, kTokens - 1, 0, 0, nullptr) != PANGU_OK ||
      PANGU(pangu_decode)(session, kPrompt[kTokens - 1], rows.data()) != PANGU_OK)
    fail(PANGU(pangu_last_error)());
  PANGU(pangu_session_close)(session);
  std::printf("logits");
  for (float x : rows) std::printf(" %.9g", double(x));
  std::printf("\n");
}

} // namespace

int main(int argc, char **argv) {
  if (argc != 4) fail("artifact DIRECTORY MODEL_OFFSET LEVELS_OFFSET");
  void *library = dlopen((std::string(argv[1]) + "/lib/libpangu_model.so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) fail(dlerror());
  Dl_info where;
  if (dladdr(dlsym(library, "pangu_model_open"), &where) == 0) fail("dladdr");
  const char *base = static_cast<const char *>(where.dli_fbase);
  const auto *least = reinterpret_cast<const pangu_generated_model_desc *>(base + std::strtoll(argv[2], nullptr, 16));
  const auto *levels = reinterpret_cast<const pangu_level *>(base + std::strtoll(argv[3], nullptr, 16));
  if (least->abi_version != PANGU_ABI_VERSION || least->levels != levels) fail("the offsets are another library's");

  const char *best = nullptr;
  for (const pangu_level *level = levels; level->name != nullptr; ++level) {
    if (best == nullptr && level->supported()) best = level->name;
    else overwrite(*level->model), check_that_it_ends(*level->model);
  }
  if (best != nullptr) overwrite(*least), check_that_it_ends(*least);
  std::printf("level %s\n", best != nullptr ? best : "least");

  pangu_model *model;
  const pangu_model_options options = {2, 0};
  if (PANGU(pangu_model_open)(argv[1], &options, &model) != PANGU_OK) fail(PANGU(pangu_last_error)());
  for (int32_t speculate : {1, 0}) generate(library, model, speculate);
  logits(library, model);
  PANGU(pangu_model_close)(model);
  return 0;
}
