// Routing of tokens to experts, in the layouts of the vendor operators (see the headers in aclnnop).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "acl_objects.h"
#include "aclnnop/aclnn_moe_finalize_routing_v2.h"
#include "aclnnop/aclnn_moe_gating_top_k_softmax.h"
#include "aclnnop/aclnn_moe_init_routing_v2.h"
#include "aclnnop/aclnn_moe_token_permute.h"
#include "aclnnop/aclnn_moe_token_unpermute.h"

namespace sim {
namespace {

// Positions of `keys` in ascending order, equals in their order.
std::vector<int64_t> stable_order(const std::vector<int64_t>& keys) {
    std::vector<int64_t> order(keys.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return keys[size_t(a)] < keys[size_t(b)]; });
    return order;
}

std::vector<int64_t> inverse(const std::vector<int64_t>& order) {
    std::vector<int64_t> result(order.size());
    for (size_t i = 0; i < order.size(); ++i) result[size_t(order[i])] = int64_t(i);
    return result;
}

// Row order[i] / k of tokens, for the first `count` entries of `order`.
void expand(const aclTensor& tokens, const std::vector<int64_t>& order, int64_t k, const aclTensor& out) {
    const std::vector<float> rows = values(tokens);
    const int64_t width = tokens.dim(-1), count = out.elements() / width;
    std::vector<float> result(size_t(count * width));
    for (int64_t i = 0; i < count; ++i)
        std::copy_n(rows.begin() + order[size_t(i)] / k * width, width, result.begin() + i * width);
    assign(out, result);
}

void init_routing(const aclTensor& x, const aclTensor& experts, int64_t expert_count, int64_t flag, const aclTensor& expanded,
                  const aclTensor& rows, const aclTensor& counts) {
    const std::vector<int64_t> chosen = integers(experts);
    const std::vector<int64_t> order = stable_order(chosen);
    expand(x, order, experts.dim(-1), expanded);
    assign(rows, inverse(order));
    if (flag == 0) return;
    std::vector<int64_t> totals(static_cast<size_t>(expert_count), 0);
    for (int64_t expert : chosen) ++totals.at(size_t(expert));
    if (flag == 1) std::partial_sum(totals.begin(), totals.end(), totals.begin());
    assign(counts, totals);
}

struct Finalize {
    aclTensor expanded, rows, x1, x2, bias, scales, experts, out;
    bool has_x1 = false, has_x2 = false, has_bias = false, has_scales = false;
    bool by_columns = true;

    void run() const {
        const int64_t width = expanded.dim(-1), tokens = out.elements() / width, k = rows.elements() / tokens;
        const std::vector<float> data = values(expanded);
        const std::vector<int64_t> where = integers(rows);
        const auto optional = [](bool has, const aclTensor& tensor) { return has ? values(tensor) : std::vector<float>(); };
        const std::vector<float> first = optional(has_x1, x1), second = optional(has_x2, x2), offsets = optional(has_bias, bias),
                                 weights = optional(has_scales, scales);
        const std::vector<int64_t> chosen = has_bias ? integers(experts) : std::vector<int64_t>();
        std::vector<float> result(size_t(tokens * width), 0.0f);
        for (int64_t token = 0; token < tokens; ++token) {
            float* to = &result[size_t(token * width)];
            for (int64_t i = 0; i < width; ++i) {
                if (has_x1) to[i] += first[size_t(token * width + i)];
                if (has_x2) to[i] += second[size_t(token * width + i)];
            }
            for (int64_t j = 0; j < k; ++j) {
                const int64_t row = where[size_t(by_columns ? j * tokens + token : token * k + j)];
                const float weight = has_scales ? weights[size_t(token * k + j)] : 1.0f;
                if (row < 0 || (row + 1) * width > int64_t(data.size())) continue;  // dropped
                for (int64_t i = 0; i < width; ++i) {
                    float value = data[size_t(row * width + i)];
                    if (has_bias) value += offsets[size_t(chosen[size_t(token * k + j)] * width + i)];
                    to[i] += weight * value;
                }
            }
        }
        assign(out, result);
    }
};

void unpermute(const aclTensor& permuted, const aclTensor& sorted, bool has_probs, const aclTensor& probs, const aclTensor& out) {
    const int64_t width = permuted.dim(-1), tokens = out.elements() / width, k = sorted.elements() / tokens;
    const std::vector<float> data = values(permuted), weights = has_probs ? values(probs) : std::vector<float>();
    const std::vector<int64_t> where = integers(sorted);
    std::vector<float> result(size_t(tokens * width), 0.0f);
    for (int64_t slot = 0; slot < tokens * k; ++slot) {
        const int64_t row = where[size_t(slot)];
        if ((row + 1) * width > int64_t(data.size())) continue;  // not among numOutTokens
        for (int64_t i = 0; i < width; ++i)
            result[size_t(slot / k * width + i)] += (has_probs ? weights[size_t(slot)] : 1.0f) * data[size_t(row * width + i)];
    }
    assign(out, result);
}

void gate(const aclTensor& x, int64_t k, const aclTensor& y, const aclTensor& experts, const aclTensor& rows) {
    const int64_t width = x.dim(-1), tokens = x.elements() / width;
    const std::vector<float> logits = values(x);
    std::vector<float> weights;
    std::vector<int64_t> chosen, positions;
    for (int64_t token = 0; token < tokens; ++token) {
        std::vector<float> row(logits.begin() + token * width, logits.begin() + (token + 1) * width);
        const float largest = *std::max_element(row.begin(), row.end());
        float sum = 0;
        for (float& value : row) sum += value = std::exp(value - largest);
        std::vector<int64_t> order(static_cast<size_t>(width));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return row[size_t(a)] > row[size_t(b)]; });
        for (int64_t j = 0; j < k; ++j) {
            weights.push_back(row[size_t(order[size_t(j)])] / sum);
            chosen.push_back(order[size_t(j)]);
            positions.push_back(j * tokens + token);
        }
    }
    assign(y, weights);
    assign(experts, chosen);
    assign(rows, positions);
}

}  // namespace
}  // namespace sim

using sim::bytes_of;
using sim::demand;

extern "C" {

aclnnStatus aclnnMoeInitRoutingV2GetWorkspaceSize(const aclTensor* x, const aclTensor* expertIdx, int64_t activeNum, int64_t,
                                                  int64_t expertNum, int64_t dropPadMode, int64_t flag, bool beforeCapacity,
                                                  const aclTensor* expandedX, const aclTensor* expandedRowIdx,
                                                  const aclTensor* counts, const aclTensor*, uint64_t* workspace,
                                                  aclOpExecutor** executor) {
    return sim::prepare("aclnnMoeInitRoutingV2", 0, bytes_of(x) + bytes_of(expandedX), workspace, executor, [&] {
        demand(dropPadMode == 0 && !beforeCapacity, "expert capacity (dropPadMode 1), which the simulator does not have");
        demand(x->rank() == 2 && expertIdx->rank() == 2 && x->dim(0) == expertIdx->dim(0), "x [tokens, width], expertIdx [tokens, k]");
        demand(expertIdx->type == ACL_INT32 && expandedRowIdx->type == ACL_INT32, "indices that are not int32");
        const int64_t all = expertIdx->elements(), active = activeNum > 0 ? std::min(activeNum, all) : all;
        demand(expandedX->dim(0) == active && expandedX->type == x->type, "expandedX has the wrong rows or type");
        demand(expandedRowIdx->elements() == all, "expandedRowIdx has not tokens * k entries");
        demand(flag >= 0 && flag <= 2 && (flag == 0 || (counts && counts->elements() == expertNum && counts->type == ACL_INT32)),
               "the counts need an int32 tensor of expertNum entries");
        return [=, tokens = *x, experts = *expertIdx, expanded = *expandedX, rows = *expandedRowIdx,
                totals = flag ? *counts : aclTensor()] { sim::init_routing(tokens, experts, expertNum, flag, expanded, rows, totals); };
    });
}
SIM_SECOND_PHASE(aclnnMoeInitRoutingV2, aclrtStream)

aclnnStatus aclnnMoeFinalizeRoutingV2GetWorkspaceSize(const aclTensor* expandedX, const aclTensor* expandedRowIdx,
                                                      const aclTensor* x1, const aclTensor* x2, const aclTensor* bias,
                                                      const aclTensor* scales, const aclTensor* expertIdx, int64_t dropPadMode,
                                                      const aclTensor* out, uint64_t* workspace, aclOpExecutor** executor) {
    return sim::prepare("aclnnMoeFinalizeRoutingV2", 0, bytes_of(expandedX) + bytes_of(x1) + bytes_of(x2) + bytes_of(out), workspace,
                        executor, [&] {
        demand(dropPadMode == 0 || dropPadMode == 2, "dropPadMode 1 or 3, which the simulator does not have");
        demand(!bias || expertIdx, "a bias without expertIdx");
        demand(expandedX->dim(-1) == out->dim(-1) && expandedRowIdx->elements() % out->dim(0) == 0, "shapes do not fit");
        demand(expandedRowIdx->type == ACL_INT32, "indices that are not int32");
        sim::Finalize work;
        const auto take = [](const aclTensor* from, aclTensor& to) {
            if (from) to = *from;
            return from != nullptr;
        };
        work.expanded = *expandedX;
        work.rows = *expandedRowIdx;
        work.out = *out;
        work.has_x1 = take(x1, work.x1);
        work.has_x2 = take(x2, work.x2);
        work.has_bias = take(bias, work.bias);
        work.has_scales = take(scales, work.scales);
        take(expertIdx, work.experts);
        work.by_columns = dropPadMode == 0;
        return [work] { work.run(); };
    });
}
SIM_SECOND_PHASE(aclnnMoeFinalizeRoutingV2, aclrtStream)

aclnnStatus aclnnMoeTokenPermuteGetWorkspaceSize(const aclTensor* tokens, const aclTensor* indices, int64_t numOutTokens,
                                                 bool paddedMode, const aclTensor* permuted, const aclTensor* sorted,
                                                 uint64_t* workspace, aclOpExecutor** executor) {
    return sim::prepare("aclnnMoeTokenPermute", 0, bytes_of(tokens) + bytes_of(permuted), workspace, executor, [&] {
        demand(!paddedMode, "paddedMode, which the vendor does not support either");
        demand(numOutTokens <= indices->elements() && permuted->dim(-1) == tokens->dim(-1), "shapes do not fit");
        demand(sorted->type == ACL_INT32 && sorted->elements() == indices->elements(), "sortedIndices is int32, one entry per index");
        const int64_t k = indices->rank() > 1 ? indices->dim(-1) : 1;
        return [=, from = *tokens, experts = *indices, to = *permuted, where = *sorted] {
            const std::vector<int64_t> order = sim::stable_order(sim::integers(experts));
            sim::expand(from, order, k, to);
            sim::assign(where, sim::inverse(order));
        };
    });
}
SIM_SECOND_PHASE(aclnnMoeTokenPermute, aclrtStream)

aclnnStatus aclnnMoeTokenUnpermuteGetWorkspaceSize(const aclTensor* permuted, const aclTensor* sorted, const aclTensor* probs,
                                                   bool paddedMode, const aclIntArray*, const aclTensor* out, uint64_t* workspace,
                                                   aclOpExecutor** executor) {
    return sim::prepare("aclnnMoeTokenUnpermute", 0, bytes_of(permuted) + bytes_of(out), workspace, executor, [&] {
        demand(!paddedMode, "paddedMode, which the vendor does not support either");
        demand(permuted->dim(-1) == out->dim(-1) && sorted->elements() % out->dim(0) == 0, "shapes do not fit");
        const bool has_probs = probs != nullptr;
        return [=, from = *permuted, where = *sorted, weights = has_probs ? *probs : aclTensor(), to = *out] {
            sim::unpermute(from, where, has_probs, weights, to);
        };
    });
}
SIM_SECOND_PHASE(aclnnMoeTokenUnpermute, aclrtStream)

aclnnStatus aclnnMoeGatingTopKSoftmaxGetWorkspaceSize(const aclTensor* x, const aclTensor* finished, int64_t k,
                                                      const aclTensor* y, const aclTensor* expertIdx, const aclTensor* rowIdx,
                                                      uint64_t* workspace, aclOpExecutor** executor) {
    return sim::prepare("aclnnMoeGatingTopKSoftmax", 0, bytes_of(x) + bytes_of(y), workspace, executor, [&] {
        demand(!finished, "finished, which the simulator does not have");
        demand(k > 0 && k <= x->dim(-1) && y->dim(-1) == k, "k does not fit the experts or the result");
        return [=, logits = *x, weights = *y, experts = *expertIdx, rows = *rowIdx] { sim::gate(logits, k, weights, experts, rows); };
    });
}
SIM_SECOND_PHASE(aclnnMoeGatingTopKSoftmax, aclrtStream)

}  // extern "C"
