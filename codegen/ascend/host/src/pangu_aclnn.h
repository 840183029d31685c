// pangu_aclnn.h: the vendor's operators that the host program calls, each in its two phases, on views of device memory.
#pragma once

#include "pangu_device.h"

namespace pangu_ascend {

// A tensor as an operator sees it: element type, dimensions, strides in elements.
struct View {
  Memory data = nullptr;
  aclDataType type = ACL_DT_UNDEFINED;
  uint64_t rank = 0;
  std::array<int64_t, 4> dims{}, strides{};

  bool empty() const;
};

View make_view(Memory data, aclDataType type, std::initializer_list<int64_t> dims, std::initializer_list<int64_t> strides);
inline View none() { return {}; }
#define PANGU_VIEW(name, type)                                                                                        \
  inline View name(Memory data, std::initializer_list<int64_t> dims, std::initializer_list<int64_t> strides = {}) {   \
    return make_view(data, type, dims, strides);                                                                      \
  }
PANGU_VIEW(bf16, ACL_BF16)
PANGU_VIEW(f32, ACL_FLOAT)
PANGU_VIEW(i32, ACL_INT32)
PANGU_VIEW(i64, ACL_INT64)
PANGU_VIEW(int8, ACL_INT8)
#undef PANGU_VIEW

// Products are rounded to the operands' type, whatever type `out` has; float32 results of bf16 operands are our kernel `product`'s.
void matmul(Device &d, const View &a, const View &b, const View &out);       // [M, K] x [K, N]
void batch_matmul(Device &d, const View &a, const View &b, const View &out); // [B, M, K] x [B, K, N]
// x int8[M, K] times weight int8[N, K] transposed: times a scale for each of N and each of M, bf16; or, with row_scale none(), the
// sums themselves, int32 (the operator then wants the scales, and does not use them).
void quant_matmul(Device &d, const View &x, const View &weight, const View &scale, const View &row_scale, const View &out);
// Rows of x as int8 with scale max|x| / 127.
void dynamic_quant(Device &d, const View &x, const View &out, const View &scale);
void copy(Device &d, const View &to, const View &from);
void cast(Device &d, const View &from, const View &to);
void times(Device &d, const View &from, int32_t factor, const View &out); // int32
void add(Device &d, const View &a, const View &b, const View &out);
void take_rows(Device &d, const View &table, const View &index, const View &out); // out[i] = table[index[i]]
// Rows of x [T, H] sorted by expert: rows [T k, H], place [T k] (where token t's j-th copy went), totals [E]: of each expert, or of
// all up to it where `so_far`.
void init_routing(Device &d, const View &x, const View &index, const View &rows, const View &place, const View &totals, bool so_far);
// Rows of group e by weight [E, K, N]; counts i64[E].
void grouped_matmul(Device &d, const View &rows, const View &weight, const View &counts, const View &out);
// Sums of int8 rows and weights, int32; ends i64[E]: one past the last row of each group.
void grouped_sums(Device &d, const View &rows, const View &weight, const View &ends, const View &out);
// The same of int8 rows and weights in bf16, split by counts, with scale [E, N] and a scale for each row.
void quant_grouped_matmul(Device &d, const View &rows, const View &weight, const View &scale, const View &row_scale, const View &counts, const View &out);
// out[t] = shared[t] + sum over j of weight[t, j] * rows[place[t k + j]]; shared may be none().
void finalize_routing(Device &d, const View &rows, const View &place, const View &shared, const View &weight, const View &out);

} // namespace pangu_ascend
