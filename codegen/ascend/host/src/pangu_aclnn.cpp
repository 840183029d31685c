#include "pangu_aclnn.h"

#include "aclnn/acl_meta.h"
#include "aclnnop/aclnn_add.h"
#include "aclnnop/aclnn_batch_matmul.h"
#include "aclnnop/aclnn_cast.h"
#include "aclnnop/aclnn_copy.h"
#include "aclnnop/aclnn_dynamic_quant.h"
#include "aclnnop/aclnn_embedding.h"
#include "aclnnop/aclnn_grouped_matmul_v4.h"
#include "aclnnop/aclnn_matmul.h"
#include "aclnnop/aclnn_moe_finalize_routing_v2.h"
#include "aclnnop/aclnn_moe_init_routing_v2.h"
#include "aclnnop/aclnn_mul.h"
#include "aclnnop/aclnn_quant_matmul_v4.h"

#include <algorithm>
#include <memory>

namespace pangu_ascend {

namespace {

constexpr int8_t kKeepType = 0; // cubeMathType: operands as they are

struct DestroyTensor {
  void operator()(aclTensor *tensor) const { aclDestroyTensor(tensor); }
};
struct DestroyList {
  void operator()(aclTensorList *list) const { aclDestroyTensorList(list); }
};
struct DestroyScalar {
  void operator()(aclScalar *scalar) const { aclDestroyScalar(scalar); }
};
using Tensor = std::unique_ptr<aclTensor, DestroyTensor>;
using List = std::unique_ptr<aclTensorList, DestroyList>;

// The last element of the view, counted from its first, and one more: the storage that it needs.
int64_t extent(const View &v) {
  int64_t last = 0;
  for (uint64_t i = 0; i < v.rank; ++i) last += (v.dims[i] - 1) * v.strides[i];
  return last + 1;
}

Tensor tensor(const View &v) {
  if (v.data == nullptr) return nullptr;
  const int64_t storage = extent(v);
  const bool whole = [&v] {
    int64_t step = 1;
    for (uint64_t i = v.rank; i-- > 0; step *= v.dims[i])
      if (v.strides[i] != step) return false;
    return true;
  }();
  Tensor made(aclCreateTensor(v.dims.data(), v.rank, v.type, v.strides.data(), 0, ACL_FORMAT_ND, whole ? v.dims.data() : &storage,
                              whole ? v.rank : 1, v.data));
  check(made == nullptr ? -1 : 0, "aclCreateTensor");
  return made;
}

List list(const View &v) {
  const aclTensor *one = tensor(v).release();
  List made(aclCreateTensorList(&one, 1));
  check(made == nullptr ? -1 : 0, "aclCreateTensorList");
  return made;
}

// Both phases: how much scratch and which executor, then the call.
template <typename First, typename Second> void run(Device &d, const char *name, const First &first, const Second &second) {
  uint64_t nbytes = 0;
  aclOpExecutor *executor = nullptr;
  check(first(&nbytes, &executor), name);
  check(second(nbytes > 0 ? d.scratch(nbytes) : nullptr, nbytes, executor, d.stream), name);
}

} // namespace

bool View::empty() const { return std::any_of(dims.begin(), dims.begin() + static_cast<int64_t>(rank), [](int64_t n) { return n == 0; }); }

View make_view(Memory data, aclDataType type, std::initializer_list<int64_t> dims, std::initializer_list<int64_t> strides) {
  View v;
  v.data = data, v.type = type, v.rank = dims.size();
  std::copy(dims.begin(), dims.end(), v.dims.begin());
  std::copy(strides.begin(), strides.end(), v.strides.begin());
  if (strides.size() == 0) {
    int64_t step = 1;
    for (uint64_t i = v.rank; i-- > 0; step *= v.dims[i]) v.strides[i] = step;
  }
  return v;
}

void matmul(Device &d, const View &a, const View &b, const View &out) {
  if (out.empty()) return;
  const Tensor left = tensor(a), right = tensor(b), product = tensor(out);
  run(d, "aclnnMatmul", [&](uint64_t *n, aclOpExecutor **e) { return aclnnMatmulGetWorkspaceSize(left.get(), right.get(), product.get(), kKeepType, n, e); },
      aclnnMatmul);
}

void batch_matmul(Device &d, const View &a, const View &b, const View &out) {
  if (out.empty()) return;
  const Tensor left = tensor(a), right = tensor(b), product = tensor(out);
  run(d, "aclnnBatchMatMul",
      [&](uint64_t *n, aclOpExecutor **e) { return aclnnBatchMatMulGetWorkspaceSize(left.get(), right.get(), product.get(), kKeepType, n, e); },
      aclnnBatchMatMul);
}

void quant_matmul(Device &d, const View &x, const View &weight, const View &scale, const View &row_scale, const View &out) {
  if (out.empty()) return;
  const Tensor left = tensor(x), right = tensor(weight), columns = tensor(scale), rows = tensor(row_scale), product = tensor(out);
  run(d, "aclnnQuantMatmulV4",
      [&](uint64_t *n, aclOpExecutor **e) {
        return aclnnQuantMatmulV4GetWorkspaceSize(left.get(), right.get(), columns.get(), nullptr, rows.get(), nullptr, false, true, product.get(), n, e);
      },
      aclnnQuantMatmulV4);
}

void dynamic_quant(Device &d, const View &x, const View &out, const View &scale) {
  if (out.empty()) return;
  const Tensor source = tensor(x), values = tensor(out), scales = tensor(scale);
  run(d, "aclnnDynamicQuant",
      [&](uint64_t *n, aclOpExecutor **e) { return aclnnDynamicQuantGetWorkspaceSize(source.get(), nullptr, values.get(), scales.get(), n, e); },
      aclnnDynamicQuant);
}

void copy(Device &d, const View &to, const View &from) {
  if (to.empty()) return;
  const Tensor target = tensor(to), source = tensor(from);
  run(d, "aclnnInplaceCopy", [&](uint64_t *n, aclOpExecutor **e) { return aclnnInplaceCopyGetWorkspaceSize(target.get(), source.get(), n, e); },
      aclnnInplaceCopy);
}

void cast(Device &d, const View &from, const View &to) {
  if (to.empty()) return;
  const Tensor source = tensor(from), target = tensor(to);
  run(d, "aclnnCast", [&](uint64_t *n, aclOpExecutor **e) { return aclnnCastGetWorkspaceSize(source.get(), to.type, target.get(), n, e); }, aclnnCast);
}

void times(Device &d, const View &from, int32_t factor, const View &out) {
  if (out.empty()) return;
  const Tensor source = tensor(from), target = tensor(out);
  const std::unique_ptr<aclScalar, DestroyScalar> scalar(aclCreateScalar(&factor, ACL_INT32));
  run(d, "aclnnMuls", [&](uint64_t *n, aclOpExecutor **e) { return aclnnMulsGetWorkspaceSize(source.get(), scalar.get(), target.get(), n, e); },
      aclnnMuls);
}

void add(Device &d, const View &a, const View &b, const View &out) {
  if (out.empty()) return;
  const Tensor left = tensor(a), right = tensor(b), sum = tensor(out);
  float one = 1.0f;
  const std::unique_ptr<aclScalar, DestroyScalar> factor(aclCreateScalar(&one, ACL_FLOAT));
  run(d, "aclnnAdd", [&](uint64_t *n, aclOpExecutor **e) { return aclnnAddGetWorkspaceSize(left.get(), right.get(), factor.get(), sum.get(), n, e); },
      aclnnAdd);
}

void take_rows(Device &d, const View &table, const View &index, const View &out) {
  if (out.empty()) return;
  const Tensor rows = tensor(table), which = tensor(index), taken = tensor(out);
  run(d, "aclnnEmbedding", [&](uint64_t *n, aclOpExecutor **e) { return aclnnEmbeddingGetWorkspaceSize(rows.get(), which.get(), taken.get(), n, e); },
      aclnnEmbedding);
}

void init_routing(Device &d, const View &x, const View &index, const View &rows, const View &place, const View &totals, bool so_far) {
  if (rows.empty()) return;
  const Tensor tokens = tensor(x), experts = tensor(index), sorted = tensor(rows), where = tensor(place), counts = tensor(totals);
  run(d, "aclnnMoeInitRoutingV2",
      [&](uint64_t *n, aclOpExecutor **e) {
        constexpr int64_t all_rows = 0, no_capacity = 0, dropless = 0;
        const int64_t flag = so_far ? 1 : 2;
        return aclnnMoeInitRoutingV2GetWorkspaceSize(tokens.get(), experts.get(), all_rows, no_capacity, totals.dims[0], dropless, flag, false,
                                                     sorted.get(), where.get(), counts.get(), nullptr, n, e);
      },
      aclnnMoeInitRoutingV2);
}

namespace {

// Rows are split by `totals`: sizes of groups, or where they end (so_far). Scales are null where nothing is to be scaled.
void grouped(Device &d, const View &rows, const View &weight, const View *scale, const View *row_scale, const View &totals, const View &out, bool so_far) {
  if (out.empty()) return;
  const List x = list(rows), w = list(weight), y = list(out);
  const List columns = scale != nullptr ? list(*scale) : nullptr, tokens = row_scale != nullptr ? list(*row_scale) : nullptr;
  const Tensor groups = tensor(totals);
  run(d, "aclnnGroupedMatmulV4",
      [&](uint64_t *n, aclOpExecutor **e) {
        constexpr int64_t one_output = 2, by_rows = 0, no_activation = 0;
        const int64_t as_counts = so_far ? 0 : 1;
        return aclnnGroupedMatmulV4GetWorkspaceSize(x.get(), w.get(), nullptr, columns.get(), nullptr, nullptr, nullptr, tokens.get(), groups.get(), nullptr,
                                                    nullptr, nullptr, one_output, by_rows, as_counts, no_activation, y.get(), nullptr, nullptr, n, e);
      },
      aclnnGroupedMatmulV4);
}

} // namespace

void grouped_matmul(Device &d, const View &rows, const View &weight, const View &counts, const View &out) {
  grouped(d, rows, weight, nullptr, nullptr, counts, out, false);
}

void grouped_sums(Device &d, const View &rows, const View &weight, const View &ends, const View &out) {
  grouped(d, rows, weight, nullptr, nullptr, ends, out, true);
}

void quant_grouped_matmul(Device &d, const View &rows, const View &weight, const View &scale, const View &row_scale, const View &counts, const View &out) {
  grouped(d, rows, weight, &scale, &row_scale, counts, out, false);
}

void finalize_routing(Device &d, const View &rows, const View &place, const View &shared, const View &weight, const View &out) {
  if (out.empty()) return;
  const Tensor x = tensor(rows), where = tensor(place), added = tensor(shared), scales = tensor(weight), sum = tensor(out);
  run(d, "aclnnMoeFinalizeRoutingV2",
      [&](uint64_t *n, aclOpExecutor **e) {
        constexpr int64_t dropless_by_row = 2;
        return aclnnMoeFinalizeRoutingV2GetWorkspaceSize(x.get(), where.get(), added.get(), nullptr, nullptr, scales.get(), nullptr, dropless_by_row,
                                                         sum.get(), n, e);
      },
      aclnnMoeFinalizeRoutingV2);
}

} // namespace pangu_ascend
