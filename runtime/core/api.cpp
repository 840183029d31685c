// api.cpp: the C boundary: arguments are checked, exceptions become statuses.
#include "session.h"

#include <cmath>
#include <new>

using pangu_core::Error;

namespace {

thread_local std::string last_error = "no error";

template <class Body> int32_t guarded(const Body &body) {
  try {
    body();
    return PANGU_OK;
  } catch (const Error &error) {
    last_error = error.what();
    return error.status;
  } catch (const std::bad_alloc &) {
    last_error = "out of memory";
    return PANGU_NO_MEMORY;
  } catch (const std::exception &error) {
    last_error = error.what();
    return PANGU_INTERNAL;
  } catch (...) {
    last_error = "unknown failure in the runtime";
    return PANGU_INTERNAL;
  }
}

void need(bool condition, const char *what) {
  if (!condition) throw Error(PANGU_BAD_ARGUMENT, what);
}

} // namespace

extern "C" {

const char *pangu_last_error(void) { return last_error.c_str(); }

int32_t pangu_model_open(const char *path, const pangu_model_options *options, pangu_model **model) {
  return guarded([&] {
    need(path != nullptr && model != nullptr, "pangu_model_open: path and model must not be null");
    *model = nullptr;
    const pangu_model_options chosen = options != nullptr ? *options : pangu_model_options{};
    need(chosen.threads >= 0 && chosen.threads <= 4096, "pangu_model_open: threads must be 0 (all cores) to 4096");
    *model = new pangu_model(path, chosen);
  });
}

void pangu_model_close(pangu_model *model) { delete model; }

int32_t pangu_model_info(const pangu_model *model, pangu_model_info_t *info) {
  return guarded([&] {
    need(model != nullptr && info != nullptr, "pangu_model_info: arguments must not be null");
    const pangu_generated_model_desc &t = model->tables;
    *info = {t.vocab_size, t.hidden_size, t.max_context, t.max_chunk, t.num_drafts, model->threads};
  });
}

int32_t pangu_session_open(pangu_model *model, const pangu_session_options *options, pangu_session **session) {
  return guarded([&] {
    need(model != nullptr && session != nullptr, "pangu_session_open: arguments must not be null");
    *session = nullptr;
    *session = new pangu_session(*model, options != nullptr ? *options : pangu_session_options{0, 1});
  });
}

void pangu_session_close(pangu_session *session) { delete session; }

int64_t pangu_session_length(const pangu_session *session) { return session == nullptr ? 0 : session->length(); }

int32_t pangu_session_reset(pangu_session *session) {
  return guarded([&] {
    need(session != nullptr, "pangu_session_reset: session must not be null");
    session->reset();
  });
}

int32_t pangu_session_truncate(pangu_session *session, int64_t length) {
  return guarded([&] {
    need(session != nullptr, "pangu_session_truncate: session must not be null");
    session->truncate(length);
  });
}

int32_t pangu_prefill(pangu_session *session, const int64_t *tokens, size_t n, int64_t chunk, int32_t all_logits, float *logits) {
  return guarded([&] {
    need(session != nullptr && tokens != nullptr, "pangu_prefill: session and tokens must not be null");
    need(chunk >= 0, "pangu_prefill: chunk must not be negative");
    session->prefill(tokens, static_cast<int64_t>(n), chunk, all_logits != 0, logits);
  });
}

int32_t pangu_decode(pangu_session *session, int64_t token, float *logits) {
  return guarded([&] {
    need(session != nullptr, "pangu_decode: session must not be null");
    session->prefill(&token, 1, 0, false, logits);
  });
}

void pangu_generate_defaults(pangu_generate_options *options) {
  if (options != nullptr) *options = {128, 0.0f, 0, 1.0f, 0, 1, nullptr, 0, 0};
}

int32_t pangu_generate(pangu_session *session, const int64_t *prompt, size_t n_prompt, const pangu_generate_options *options,
                       pangu_token_callback callback, void *user, pangu_generate_stats *stats, int64_t *out, size_t *n_out) {
  return guarded([&] {
    need(session != nullptr && prompt != nullptr, "pangu_generate: session and prompt must not be null");
    pangu_generate_options chosen;
    pangu_generate_defaults(&chosen);
    if (options != nullptr) chosen = *options;
    need(chosen.temperature >= 0 && std::isfinite(chosen.temperature), "temperature must be a finite number of at least 0");
    need(chosen.top_p > 0 && chosen.top_p <= 1, "top_p must be above 0 and at most 1");
    need(chosen.max_new_tokens >= 0, "max_new_tokens must not be negative");
    need(chosen.top_k >= 0, "top_k must not be negative");
    need(chosen.max_drafts >= 0, "max_drafts must not be negative");
    need(chosen.stop_tokens != nullptr || chosen.n_stop_tokens == 0, "stop_tokens is null");
    size_t count = 0;
    if (n_out != nullptr) *n_out = 0;
    pangu_generate_stats unused;
    session->generate(prompt, static_cast<int64_t>(n_prompt), chosen,
                      [&](int64_t token) {
                        if (out != nullptr) out[count] = token;
                        ++count;
                        if (n_out != nullptr) *n_out = count;
                        return callback == nullptr || callback(token, user) == 0;
                      },
                      stats != nullptr ? *stats : unused);
  });
}

int32_t pangu_session_save(const pangu_session *session, void *buffer, size_t *size) {
  return guarded([&] {
    need(session != nullptr && size != nullptr, "pangu_session_save: session and size must not be null");
    const size_t needed = session->saved_size();
    need(buffer == nullptr || *size >= needed, "pangu_session_save: the buffer is too small");
    *size = needed;
    if (buffer != nullptr) session->save(static_cast<uint8_t *>(buffer));
  });
}

int32_t pangu_session_restore(pangu_session *session, const void *buffer, size_t size) {
  return guarded([&] {
    need(session != nullptr && buffer != nullptr, "pangu_session_restore: arguments must not be null");
    session->restore(static_cast<const uint8_t *>(buffer), size);
  });
}

int32_t pangu_program_info(const pangu_model *model, const char *name, pangu_program_info_t *info) {
  return guarded([&] {
    need(model != nullptr && name != nullptr && info != nullptr, "pangu_program_info: arguments must not be null");
    const pangu_program_desc &program = model->program(name);
    *info = {program.n_dims, program.n_in, program.n_out, model->tables.n_states};
  });
}

int32_t pangu_run_program(pangu_model *model, const char *name, const int64_t *dims, const void *const *in, void *const *out, void *const *state) {
  return guarded([&] {
    need(model != nullptr && name != nullptr, "pangu_run_program: model and name must not be null");
    const pangu_program_desc &program = model->program(name);
    need(model->tables.device == nullptr, "pangu_run_program: the states of this artifact lie on a device; use a session");
    const pangu_core::Pages arena(static_cast<size_t>(program.arena_bytes));
    pangu_pool pool(model->threads);
    const pangu_exec exec{dims, in, out, state, model->weights.data(), arena.data(), &pool, nullptr};
    program.run(&exec);
  });
}

} // extern "C"
