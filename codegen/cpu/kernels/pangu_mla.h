// pangu_mla.h: what stands before and after attention: projections with their convolutions, norms, rotary embedding and
// cache rows (prologues), and the output projection. Two or three parallel regions each, whatever the model.
#pragma once

namespace pangu {

// u[T, H] -> q[T, heads, head_dim], qr[T, low], latent rows [T, latent + rope] (into the cache, after its first
// `rows` rows, where there is one). KQ, KV: taps of the convolutions, 0 where there is none.
template <int KQ, int KV> struct Prologue {
  int64_t H, low, latent_dim, rope, heads, head_dim, rows, start;
  float q_eps, kv_eps;
  const float *u, *q_conv, *q_norm, *kv_conv, *kv_norm, *table;
  Weight q_a, q_b, kv_a;
  Ring q_ring, kv_ring;
  float *cache, *q, *qr, *latent;

  void query_row(int64_t t, const float *raw, float *to) const {
    if constexpr (KQ > 0)
      conv_row<KQ>(raw, low, t, start, q_ring, q_conv, to);
    else
      std::memcpy(to, raw + t * low, sizeof(float) * static_cast<size_t>(low));
    rms_row(to, q_norm, q_eps, low, to);
  }

  void latent_row(int64_t t, const float *raw, float *to) const {
    const int64_t width = latent_dim + rope;
    if constexpr (KV > 0)
      conv_row<KV>(raw, width, t, start, kv_ring, kv_conv, to);
    else
      std::memcpy(to, raw + t * width, sizeof(float) * static_cast<size_t>(latent_dim));
    rms_row(to, kv_norm, kv_eps, latent_dim, to);
    rotate_row(raw + t * width + latent_dim, table + t * rope, rope, to + latent_dim);
  }

  void rotate_heads(int64_t t, int64_t begin, int64_t end) const {
    for (int64_t h = begin; h < end; ++h) {
      float *pe = q + (t * heads + h) * head_dim + head_dim - rope;
      rotate_row(pe, table + t * rope, rope, pe);
    }
  }

  // Of tokens [first, first + T), from rows of `from` that begin with theirs.
  void queries(pangu_pool *pool, int64_t first, int64_t T, const float *from, Workspace &work) const {
    float *const to = q + first * heads * head_dim;
    if (T > kFewTokens) {
      linear(pool, T, heads * head_dim, low, from, low, q_b, to, heads * head_dim);
      return each_token(pool, T, 4 * heads * rope, [&](int64_t t) { rotate_heads(first + t, 0, heads); });
    }
    const Rows prepared = prepare_rows(nullptr, q_b.format, T, low, from, low, work.take<uint8_t>(rows_bytes(q_b.format, T, low)));
    parallel(pool, heads, T * head_dim * low, [&](int64_t begin, int64_t end) {
      linear_rows(T, begin * head_dim, end * head_dim, low, prepared, q_b, to, heads * head_dim);
      for (int64_t t = 0; t < T; ++t) rotate_heads(first + t, begin, end);
    });
  }

  void run(pangu_pool *pool, int64_t T, Workspace work) const {
    const int64_t width = latent_dim + rope;
    const bool reduced = q_a.data != nullptr;
    float *raw_q = reduced ? work.take<float>(T * low) : nullptr, *raw_kv = work.take<float>(T * width);
    float *own_rows = cache != nullptr ? cache + rows * width : latent != nullptr ? latent : work.take<float>(T * width);
    float *source = !reduced || qr != nullptr ? qr : work.take<float>(T * low);
    const int64_t shares = token_shares(pool, T, (reduced ? low * H : 0) + width * H + heads * head_dim * low);
    // One share: all threads take part in its products. More: each is one thread's.
    const auto raw = [&](pangu_pool *own, int64_t first, int64_t count, Workspace scratch) {
      const float *const from = u + first * H;
      const Job jobs[] = {{reduced ? low : 0, H, from, H, q_a, raw_q + first * low, low},
                          {width, H, from, H, kv_a, raw_kv + first * width, width}};
      linear_together(own, count, jobs, scratch);
    };
    const auto rest = [&](pangu_pool *own, int64_t first, int64_t count, Workspace scratch) {
      each_token(own, count, 16 * (low + width), [&](int64_t i) {
        const int64_t t = first + i;
        if (reduced) query_row(t, raw_q, source + t * low);
        latent_row(t, raw_kv, own_rows + t * width);
      });
      queries(own, first, count, (reduced ? source : u) + first * low, scratch);
    };
    if (shares > 1) {
      share_tokens(pool, T, shares, [&](int64_t i, int64_t first, int64_t count) { raw(nullptr, first, count, work.part(i, shares)); });
      share_tokens(pool, T, shares, [&](int64_t i, int64_t first, int64_t count) { rest(nullptr, first, count, work.part(i, shares)); });
    } else {
      raw(pool, 0, T, work);
      rest(pool, 0, T, work);
    }
    if constexpr (KQ > 0) q_ring.write(raw_q, low, T, start);
    if constexpr (KV > 0) kv_ring.write(raw_kv, width, T, start);
    if (!reduced && qr != nullptr) std::memcpy(qr, u, sizeof(float) * static_cast<size_t>(T * H));
    if (latent != nullptr && own_rows != latent) std::memcpy(latent, own_rows, sizeof(float) * static_cast<size_t>(T * width));
  }
};

// The indexer: iq[T, heads, width] from qr, iw[T, heads] and a row of the key cache from u. Rotary channels come first.
// While the cache holds no more than `unread` rows nobody reads iq and iw, and they are not computed.
struct IndexPrologue {
  int64_t H, low, heads, width, rope, rows, unread;
  float k_eps, scale;
  const float *u, *qr, *k_gamma, *k_beta, *table;
  Weight wq_b, wk, weights_proj;
  float *cache, *iq, *iw;

  void token(int64_t t, int64_t queries, const float *raw) const {
    for (int64_t h = 0; h < queries; ++h) {
      float *head = iq + (t * heads + h) * width;
      rotate_row(head, table + t * rope, rope, head);
      iw[t * heads + h] *= scale;
    }
    float *key = cache + (rows + t) * width;
    if (k_beta != nullptr)
      layer_norm_row(raw + t * width, k_gamma, k_beta, k_eps, width, key);
    else
      rms_row(raw + t * width, k_gamma, k_eps, width, key);
    rotate_row(key, table + t * rope, rope, key);
  }

  void run(pangu_pool *pool, int64_t T, Workspace work) const {
    float *raw = work.take<float>(T * width);
    const int64_t queries = rows + T <= unread ? 0 : heads;
    const Job jobs[] = {{queries * width, low, qr, low, wq_b, iq, heads * width},
                        {width, H, u, H, wk, raw, width},
                        {queries, H, u, H, weights_proj, iw, heads}};
    linear_together(pool, T, jobs, work);
    each_token(pool, T, 8 * heads * width, [&](int64_t t) { token(t, queries, raw); });
  }
};

// out[T, H] = o_proj of a[T, C] after its convolution of K taps (0: none).
template <int K> struct AttentionOutput {
  int64_t C, H, start;
  const float *a, *o_conv;
  Ring o_ring;
  Weight o_proj;
  float *out;

  void run(pangu_pool *pool, int64_t T, Workspace work) const {
    float *const mixed = K > 0 ? work.take<float>(T * C) : nullptr;
    const float *const rows = K > 0 ? mixed : a;
    const auto mix = [&](int64_t t) {
      if constexpr (K > 0) conv_row<K>(a, C, t, start, o_ring, o_conv, mixed + t * C);
    };
    if (const int64_t shares = token_shares(pool, T, H * C); shares > 1) {
      share_tokens(pool, T, shares, [&](int64_t, int64_t first, int64_t count) {
        for (int64_t t = first; t < first + count; ++t) mix(t);
        linear(nullptr, count, H, C, rows + first * C, C, o_proj, out + first * H, H);
      });
    } else {
      if constexpr (K > 0) each_token(pool, T, 4 * K * C, mix);
      linear(pool, T, H, C, rows, C, o_proj, out, H);
    }
    if constexpr (K > 0) o_ring.write(a, C, T, start);
  }
};

} // namespace pangu
