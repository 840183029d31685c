/* pangu_runtime.h: the C interface of a compiled openPangu model (C99; also C++).
 *
 *     pangu_model *model; pangu_session *session;
 *     if (pangu_model_open("OUT.pangu", NULL, &model) != PANGU_OK) { puts(pangu_last_error()); return 1; }
 *     pangu_session_open(model, NULL, &session);
 *     pangu_generate(session, prompt, n_prompt, NULL, print_token, NULL, NULL, NULL, NULL);
 *     pangu_session_close(session);
 *     pangu_model_close(model);
 *
 * Every function returns a status; pangu_last_error() explains the calling thread's last failure in one line.
 * A model may be used by many threads, with one session per thread. No exception crosses this boundary.
 */
#ifndef PANGU_RUNTIME_H
#define PANGU_RUNTIME_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PANGU_API __attribute__((visibility("default")))
#define PANGU_FORMAT_VERSION 1
#define PANGU_MAX_DRAFTS 16

typedef enum {
  PANGU_OK = 0,
  PANGU_BAD_ARGUMENT = 1, /* a null pointer, a value out of range, an unknown program */
  PANGU_BAD_ARTIFACT = 2, /* not an artifact, or one that lacks a file */
  PANGU_BAD_VERSION = 3,  /* an artifact of another format version */
  PANGU_CORRUPT = 4,      /* a file that differs from its recorded checksum */
  PANGU_IO = 5,           /* a file that cannot be read or written */
  PANGU_BAD_TOKEN = 6,    /* a token id outside the vocabulary */
  PANGU_CONTEXT_FULL = 7, /* the session's context has no room for the tokens */
  PANGU_NO_MEMORY = 8,
  PANGU_INTERNAL = 9
} pangu_status;

typedef struct pangu_model pangu_model;
typedef struct pangu_session pangu_session;

typedef struct {
  int32_t threads;     /* 0: all cores */
  int32_t skip_verify; /* 1: do not check the files' checksums */
} pangu_model_options;

typedef struct {
  int64_t vocab_size, hidden_size, max_context, max_chunk;
  int32_t num_drafts, threads;
} pangu_model_info_t;

typedef struct {
  int64_t max_context; /* 0: the built maximum */
  int32_t speculate;   /* 0: never keep the MTP heads' states; generation then cannot speculate */
} pangu_session_options;

typedef struct {
  int64_t max_new_tokens;     /* default 128 */
  float temperature;          /* 0: greedy */
  int32_t top_k;              /* 0: off */
  float top_p;                /* 1: off */
  uint64_t seed;
  int32_t speculate;          /* 1: use the MTP heads where the model has them */
  const int64_t *stop_tokens; /* generation ends after one of these was produced (it is delivered) */
  size_t n_stop_tokens;
  int32_t max_drafts;         /* at most so many drafts in a step; 0: see pangu_generate */
} pangu_generate_options;

typedef struct {
  int64_t prompt_tokens, new_tokens, steps; /* steps: runs of the trunk after the prompt */
  int64_t drafted[PANGU_MAX_DRAFTS], accepted[PANGU_MAX_DRAFTS]; /* by draft depth */
  double prefill_seconds, decode_seconds;
} pangu_generate_stats;

/* Called for every token as it is final. Return nonzero to end the generation. */
typedef int (*pangu_token_callback)(int64_t token, void *user);

/* One line about the calling thread's last failure: what, where, what to do. Never null. */
PANGU_API const char *pangu_last_error(void);

/* Open an artifact directory (its own library is the one that this function is in). options may be null. */
PANGU_API int32_t pangu_model_open(const char *path, const pangu_model_options *options, pangu_model **model);
PANGU_API void pangu_model_close(pangu_model *model);
PANGU_API int32_t pangu_model_info(const pangu_model *model, pangu_model_info_t *info);

PANGU_API int32_t pangu_session_open(pangu_model *model, const pangu_session_options *options, pangu_session **session);
PANGU_API void pangu_session_close(pangu_session *session);
/* Tokens that the session's states hold. */
PANGU_API int64_t pangu_session_length(const pangu_session *session);
/* Forget everything. */
PANGU_API int32_t pangu_session_reset(pangu_session *session);

/* Forget all but the first `length` tokens. A few tokens back costs nothing; further back they are computed again. */
PANGU_API int32_t pangu_session_truncate(pangu_session *session, int64_t length);

/* Append n tokens. chunk: tokens per run, 0 for the largest. logits: float32 [vocab] of the last token, or with
 * all_logits [n, vocab]; may be null. PANGU_CONTEXT_FULL and PANGU_BAD_TOKEN change nothing. */
PANGU_API int32_t pangu_prefill(pangu_session *session, const int64_t *tokens, size_t n, int64_t chunk,
                                int32_t all_logits, float *logits);
/* Append one token; logits: float32 [vocab]. */
PANGU_API int32_t pangu_decode(pangu_session *session, int64_t token, float *logits);

/* Append the prompt, then generate. out (may be null) receives up to max_new_tokens ids, n_out their number.
 * Tokens are final when they reach the callback, and the distribution is the trunk's whether or not drafts are used.
 * Drafts in a step: at most max_drafts. Where that is 0, greedy generation on a CPU times its steps and makes as many as are
 * fastest (its tokens do not depend on them; later sessions of the model begin with what it has learnt); otherwise as many as the model has heads, so that a seed gives the same
 * tokens in every run.
 * The last generated token is not yet in the session's states (it is the next call's to append).
 * PANGU_CONTEXT_FULL: the context ended before max_new_tokens did; what was delivered until then is right. */
PANGU_API int32_t pangu_generate(pangu_session *session, const int64_t *prompt, size_t n_prompt,
                                 const pangu_generate_options *options, pangu_token_callback callback, void *user,
                                 pangu_generate_stats *stats, int64_t *out, size_t *n_out);
PANGU_API void pangu_generate_defaults(pangu_generate_options *options);

/* Save a session to memory. buffer null: *size becomes the number of bytes needed. Otherwise *size is the buffer's size
 * on entry, and the bytes written on return. */
PANGU_API int32_t pangu_session_save(const pangu_session *session, void *buffer, size_t *size);
/* Restore what was saved from a session of the same artifact, opened with the same `speculate`. Damaged bytes, or another
 * artifact's, are PANGU_BAD_ARGUMENT and change nothing. */
PANGU_API int32_t pangu_session_restore(pangu_session *session, const void *buffer, size_t size);

typedef struct {
  int32_t n_dims, n_in, n_out; /* of the program */
  int32_t n_states;            /* of the whole library */
} pangu_program_info_t;

/* How many sizes and buffers a program takes. PANGU_BAD_ARGUMENT where there is no such program. */
PANGU_API int32_t pangu_program_info(const pangu_model *model, const char *name, pangu_program_info_t *info);

/* Run any program of the library by name on raw buffers (compiled torch modules, kernel tests). state may be null
 * where the library has none. The caller answers for the buffers' sizes. */
PANGU_API int32_t pangu_run_program(pangu_model *model, const char *name, const int64_t *dims, const void *const *in,
                                    void *const *out, void *const *state);

#ifdef __cplusplus
}
#endif
#endif
