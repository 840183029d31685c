// pangu_abi.h: the contract between generated code and the runtime core (internal, C ABI).
//
// A generated library defines one `pangu_generated_model`: tables that say where every weight lies in
// weights.safetensors, which states a session owns, and which programs exist. The runtime core is compiled into
// the same shared library and is the only caller of `run`.
#ifndef PANGU_ABI_H
#define PANGU_ABI_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PANGU_ABI_VERSION 1

// Work sharing. Calls body(arg, begin, end, worker) over disjoint ranges that cover [0, n); every range but the last
// is a multiple of `grain`. Returns when all are done. A null pool runs everything on the caller (worker 0).
typedef struct pangu_pool pangu_pool;
void pangu_parallel_for(pangu_pool *pool, int64_t n, int64_t grain,
                        void (*body)(void *arg, int64_t begin, int64_t end, int32_t worker), void *arg);
int32_t pangu_pool_threads(const pangu_pool *pool); // the caller's included

// Element types of inputs, outputs and weights. BF16C, Q8, Q8I, Q4 and W8A8 are weights only; pangu_quant.h says how they lie in memory.
enum {
  PANGU_F32 = 0, PANGU_F64 = 1, PANGU_I64 = 2, PANGU_BOOL = 3, PANGU_BF16 = 4, PANGU_I32 = 5, PANGU_Q8 = 6, PANGU_Q4 = 7,
  PANGU_W8A8 = 8, PANGU_BF16C = 9, PANGU_Q8I = 10
};

typedef struct {
  const char *name;
  int32_t dtype;
  int64_t offset; // bytes from the start of weights.safetensors (page-aligned, the safetensors header included)
  int64_t nbytes;
} pangu_weight_desc;

// One state buffer of a session. append: row p holds position p, rows = the session's max_context.
// ring: row p % rows holds position p; zero at session start. owner: 0 trunk, j = MTP head j.
typedef struct {
  const char *name;
  int32_t append;
  int32_t owner;
  int32_t dtype;
  int64_t rows;      // ring rows; for append the built max_context
  int64_t row_bytes;
} pangu_state_desc;

// What kernels keep about the rows of an append state, in their own form: a header of PANGU_DERIVED_HEADER bytes, head_bytes,
// and block_bytes for every block_rows rows. No state: it is neither saved nor restored, and where the header is zero it holds nothing.
#define PANGU_DERIVED_HEADER 64
typedef struct {
  int32_t state;
  int64_t head_bytes, block_rows, block_bytes;
} pangu_derived_desc;

// Memory that is not the host's: there weights, states and arenas of a model lie, while program inputs and outputs stay in
// host memory. A function throws pangu_core::Error where it fails. Calls may come from any thread.
typedef struct {
  void (*open)(void);                                                      // before the first other call; may come again
  void *(*allocate)(int64_t nbytes);                                       // aligned to 512 bytes
  void (*release)(void *memory);                                           // never throws
  void (*upload)(void *to, const void *host, int64_t nbytes);
  void (*download)(void *host, const void *from, int64_t nbytes);          // after everything that this thread started
  void (*clear)(void *memory, int64_t nbytes);
} pangu_device;

typedef struct {
  const int64_t *dim;          // values of the program's symbolic dims, in the order of pangu_program_desc.dims
  const void *const *in;       // program inputs, contiguous, in host memory
  void *const *out;            // program outputs, contiguous, caller-allocated, in host memory
  void *const *state;          // indexed by the GLOBAL state index; updated in place
  const void *const *weight;   // indexed by the GLOBAL weight index
  uint8_t *arena;              // 64-byte aligned scratch of at least arena_bytes, exclusive to the call
  pangu_pool *pool;
  uint8_t *const *derived;     // indexed like pangu_generated_model.derived, or null: nothing is kept
} pangu_exec;

typedef struct {
  const char *name;
  void (*run)(const pangu_exec *exec);
  int64_t arena_bytes;
  int32_t n_dims, n_in, n_out;
  const char *const *dims;     // "T" tokens of the call, "S" rows already in the append caches, "M" rows of logits wanted
} pangu_program_desc;

#ifdef __cplusplus
#define PANGU_NONE = nullptr
#define PANGU_NOTHING = 0
#else
#define PANGU_NONE
#define PANGU_NOTHING
#endif

typedef struct pangu_generated_model_desc pangu_generated_model_desc;

// The same model, compiled for a better processor.
typedef struct {
  const char *name;            // null behind the last one
  int32_t (*supported)(void);  // by this processor
  const pangu_generated_model_desc *model;
} pangu_level;

// openPangu conventions (role = "lm"): programs "step", "draft_1" .. "draft_K", dims {T, S, M} in that order.
//   step:    in {tokens i64[T], start i64[1], rows i64[M]}               out {logits f32[M,vocab], hidden f32[T,hidden]}
//   draft_j: in {tokens i64[T], hidden f32[T,hidden], start i64[1], rows i64[M]}  out {logits f32[M,vocab], hidden f32[T,hidden]}
//   speculate (optional; K = num_drafts): one step of greedy generation. N = S tokens are in the trunk's states, and T of them are
//            not in the heads' (1 <= T <= N - K + 1). dims {T, S, M}, M is not read.
//            in  {tokens i64[T] of positions N-T+1 .. N, hidden f32[T,hidden] the trunk's rows N-T .. N-1,
//                 carry f32[K-1,hidden] row N-T-1 of heads 1 .. K-1 (absent where K is 1), start i64[1] = N}
//            out {accepted i64[1], tokens i64[K+1] (accepted drafts, one token more, then -1), length i64[1] = N + accepted + 1,
//                 hidden f32[K+1,hidden] the trunk's rows N .. N+K, levels f32[K-1,T,hidden] rows N-T .. N-1 of heads 1 .. K-1}
//   speculate_sampled (beside speculate): the same by sampling. in, after start: {temperature f32[1] > 0, top_k i64[1], top_p f32[1],
//            draft_uniform f64[K], uniform f64[K+1]: numbers in [0, 1) for the drafts and for their verification}
// start == S == number of rows already processed by that program's states (for draft_j the head's LOCAL row index);
// rows: indices into 0..T-1 of the tokens whose logits are wanted. M may be 0, T is 1..max_chunk, S+T <= max_context.
struct pangu_generated_model_desc {
  int32_t abi_version;
  const char *role;            // "lm", or "module" for an arbitrary compiled torch module
  int64_t vocab_size, hidden_size, max_context, max_chunk;
  int32_t num_drafts;
  int32_t n_weights, n_states, n_programs;
  const pangu_weight_desc *weights;
  const pangu_state_desc *states;
  const pangu_program_desc *programs;
  const pangu_device *device PANGU_NONE; // null: everything is host memory
  const pangu_level *levels PANGU_NONE;  // best first; null: none
  int32_t n_derived PANGU_NOTHING;
  const pangu_derived_desc *derived PANGU_NONE;
};
#undef PANGU_NONE
#undef PANGU_NOTHING

extern const pangu_generated_model_desc pangu_generated_model;

#ifdef __cplusplus
}
#endif
#endif
