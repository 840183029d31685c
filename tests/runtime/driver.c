/* driver.c: a C99 user of the runtime: two sessions on two threads, streaming, save and restore, every refusal. */
#include "pangu_runtime.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                       \
  do {                                                                                         \
    if (!(condition)) {                                                                        \
      printf("line %d: %s (last error: %s)\n", __LINE__, #condition, pangu_last_error());      \
      exit(1);                                                                                 \
    }                                                                                          \
  } while (0)

static const int64_t prompt[] = {1, 2, 3, 7, 5, 2, 9, 11, 4, 1};
enum { PROMPT = 10, NEW = 200, VOCAB = 32 };

static int count_token(int64_t token, void *user) {
  (void)token;
  ++*(int *)user;
  return 0;
}

static int stop_at_once(int64_t token, void *user) {
  (void)token, (void)user;
  return 1;
}

static void generate(pangu_model *model, float temperature, int32_t speculate, int32_t max_drafts, int64_t *out) {
  pangu_session *session;
  pangu_generate_options options;
  pangu_generate_stats stats;
  size_t n = 0;
  int called = 0;
  CHECK(pangu_session_open(model, NULL, &session) == PANGU_OK);
  pangu_generate_defaults(&options);
  options.max_new_tokens = NEW, options.temperature = temperature, options.top_k = 9, options.top_p = 0.95f;
  options.speculate = speculate, options.max_drafts = max_drafts;
  CHECK(pangu_generate(session, prompt, PROMPT, &options, count_token, &called, &stats, out, &n) == PANGU_OK);
  CHECK(n == NEW && called == NEW && stats.new_tokens == NEW && pangu_session_length(session) == PROMPT + NEW - 1);
  pangu_session_close(session);
}

static void *on_a_thread(void *model) {
  int64_t out[NEW];
  generate((pangu_model *)model, 1.0f, 1, PANGU_MAX_DRAFTS, out);
  generate((pangu_model *)model, 0.0f, 1, 0, out); /* what it learns of drafts, the other thread may use */
  return NULL;
}

static void save_and_restore(pangu_model *model) {
  pangu_session *session, *other;
  const pangu_session_options small = {64, 1};
  float logits[VOCAB], again[VOCAB];
  size_t size = 0, short_size = 8;
  void *bytes;
  CHECK(pangu_session_open(model, &small, &session) == PANGU_OK && pangu_session_open(model, NULL, &other) == PANGU_OK);
  CHECK(pangu_prefill(session, prompt, PROMPT, 3, 0, NULL) == PANGU_OK);
  CHECK(pangu_session_save(session, NULL, &size) == PANGU_OK && (bytes = malloc(size)) != NULL);
  CHECK(pangu_session_save(session, bytes, &short_size) == PANGU_BAD_ARGUMENT);
  CHECK(pangu_session_save(session, bytes, &size) == PANGU_OK);
  CHECK(pangu_decode(session, 6, logits) == PANGU_OK);
  CHECK(pangu_session_restore(other, bytes, size) == PANGU_OK && pangu_decode(other, 6, again) == PANGU_OK);
  CHECK(memcmp(logits, again, sizeof logits) == 0);
  CHECK(pangu_session_restore(other, bytes, size - 1) == PANGU_BAD_ARGUMENT);
  CHECK(pangu_session_restore(other, bytes, 0) == PANGU_BAD_ARGUMENT);
  CHECK(pangu_session_truncate(other, 4) == PANGU_OK && pangu_session_length(other) == 4);
  CHECK(pangu_session_truncate(other, 5) == PANGU_BAD_ARGUMENT);
  CHECK(pangu_session_reset(other) == PANGU_OK && pangu_session_length(other) == 0);
  free(bytes);
  pangu_session_close(session);
  pangu_session_close(other);
}

static void refusals(pangu_model *model, const char *path) {
  pangu_session *session;
  pangu_model *second;
  const pangu_session_options small = {12, 1}, large = {1 << 20, 1};
  const pangu_model_options threads = {-1, 0};
  pangu_generate_options options;
  int64_t out[64];
  size_t n;
  pangu_generate_defaults(&options);
  CHECK(pangu_model_open("/no/such/place", NULL, &second) == PANGU_BAD_ARTIFACT && second == NULL);
  CHECK(pangu_model_open(path, &threads, &second) == PANGU_BAD_ARGUMENT);
  CHECK(pangu_session_open(model, &large, &session) == PANGU_BAD_ARGUMENT && session == NULL);
  CHECK(pangu_session_open(model, &small, &session) == PANGU_OK);
  CHECK(pangu_decode(session, VOCAB, NULL) == PANGU_BAD_TOKEN && pangu_decode(session, -1, NULL) == PANGU_BAD_TOKEN);
  CHECK(pangu_prefill(session, prompt, 0, 0, 0, NULL) == PANGU_BAD_ARGUMENT);
  CHECK(pangu_generate(session, prompt, PROMPT, &options, NULL, NULL, NULL, out, &n) == PANGU_CONTEXT_FULL && n == 3);
  CHECK(strstr(pangu_last_error(), "context full") != NULL && strchr(pangu_last_error(), '\n') == NULL);
  CHECK(pangu_session_length(session) == 12 && pangu_decode(session, 1, NULL) == PANGU_CONTEXT_FULL);
  CHECK(pangu_session_reset(session) == PANGU_OK);
  CHECK(pangu_generate(session, prompt, 3, &options, stop_at_once, NULL, NULL, out, &n) == PANGU_OK && n == 1);
  options.max_drafts = -1;
  CHECK(pangu_generate(session, prompt, 3, &options, NULL, NULL, NULL, NULL, NULL) == PANGU_BAD_ARGUMENT);
  options.max_drafts = 0, options.max_new_tokens = -1;
  CHECK(pangu_generate(session, prompt, 3, &options, NULL, NULL, NULL, NULL, NULL) == PANGU_BAD_ARGUMENT);
  CHECK(pangu_run_program(model, "nothing", NULL, NULL, NULL, NULL) == PANGU_BAD_ARGUMENT);
  pangu_session_close(session);
  pangu_session_close(NULL);
  pangu_model_close(NULL);
}

int main(int argc, char **argv) {
  const pangu_model_options options = {3, 0};
  pangu_model *model;
  pthread_t thread;
  int64_t with[NEW], without[NEW], faults = -1;
  void *const out[] = {&faults};
  CHECK(argc == 2 && pangu_model_open(argv[1], &options, &model) == PANGU_OK);
  CHECK(pthread_create(&thread, NULL, on_a_thread, model) == 0);
  generate(model, 0.0f, 0, 0, without);
  for (int32_t max_drafts = PANGU_MAX_DRAFTS; max_drafts >= 0; max_drafts -= PANGU_MAX_DRAFTS) {
    generate(model, 0.0f, 1, max_drafts, with);
    CHECK(memcmp(with, without, sizeof with) == 0);
  }
  CHECK(pthread_join(thread, NULL) == 0);
  save_and_restore(model);
  refusals(model, argv[1]);
  CHECK(pangu_run_program(model, "faults", NULL, NULL, out, NULL) == PANGU_OK && faults == 0);
  pangu_model_close(model);
  return 0;
}
