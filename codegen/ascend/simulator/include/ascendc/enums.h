// Positions, events, modes and constants of the AscendC library. Names and values are the vendor's.
#pragma once

#include <cstdint>
#include <type_traits>

#include "ascendc/numbers.h"
#include "ascendc/qualifiers.h"

namespace AscendC {

enum class TPosition : uint8_t {
    GM, A1, A2, B1, B2, C1, C2, CO1, CO2, VECIN, VECOUT, VECCALC, LCM = VECCALC, SPM, SHM = SPM, TSCM, C2PIPE2GM, C2PIPE2LOCAL,
    MAX,
};
using QuePosition = TPosition;
enum class Hardware : uint8_t { GM, UB, L1, L0A, L0B, L0C, BIAS, FIXBUF, MAX };

enum class HardEvent : uint8_t {
    MTE2_MTE1, MTE1_MTE2, MTE1_M, M_MTE1, MTE2_V, V_MTE2, MTE3_V, V_MTE3, M_V, V_M, V_V, MTE3_MTE1, MTE1_MTE3, MTE1_V, MTE2_M,
    M_MTE2, V_MTE1, M_FIX, FIX_M, MTE3_MTE2, MTE2_MTE3, S_V, V_S, S_MTE2, MTE2_S, S_MTE3, MTE3_S, MTE2_FIX, FIX_MTE2, FIX_S,
    M_S, FIX_MTE3, MTE1_FIX, FIX_MTE1, FIX_FIX, MAX,
};

enum class MemDsbT : uint8_t { ALL = 0, DDR, UB, SEQ };
enum class CacheLine : uint64_t { SINGLE_CACHE_LINE = 0, ENTIRE_DATA_CACHE };
enum class DcciDst : uint64_t { CACHELINE_ALL = 0, CACHELINE_UB, CACHELINE_OUT, CACHELINE_ATOMIC };
enum class CacheMode { CACHE_MODE_DISABLE = 0, CACHE_MODE_NORMAL = 1, CACHE_MODE_LAST = 2, CACHE_MODE_PERSISTENT = 4 };
enum class CacheRwMode { READ = 1, WRITE = 2, RW = 3 };
enum class MaskMode : uint8_t { NORMAL = 0, COUNTER };

enum class RoundMode : uint8_t { CAST_NONE = 0, CAST_RINT, CAST_FLOOR, CAST_CEIL, CAST_ROUND, CAST_TRUNC, CAST_ODD };
enum class CMPMODE : uint8_t { LT = 0, GT, EQ, LE, GE, NE };
enum class SELMODE : uint8_t { VSEL_CMPMASK_SPR = 0, VSEL_TENSOR_SCALAR_MODE, VSEL_TENSOR_TENSOR_MODE };
enum class BlockMode : uint8_t {
    BLOCK_MODE_NORMAL = 0, BLOCK_MODE_MATRIX, BLOCK_MODE_VECTOR, BLOCK_MODE_SMALL_CHANNEL, BLOCK_MODE_DEPTHWISE,
};
enum class DeqScale : uint8_t { DEQ_NONE = 0, DEQ, VDEQ, DEQ8, VDEQ8, DEQ16, VDEQ16 };
enum class ReduceOrder : uint8_t { ORDER_VALUE_INDEX = 0, ORDER_INDEX_VALUE, ORDER_ONLY_VALUE, ORDER_ONLY_INDEX };
enum class GatherMaskMode : uint8_t { VERSION_V1 = 0, VERSION_V2 = 1 };
const GatherMaskMode defaultGatherMaskMode = GatherMaskMode::VERSION_V2;
enum class TransposeType : uint8_t {
    TRANSPOSE_TYPE_NONE, TRANSPOSE_NZ2ND_0213, TRANSPOSE_NZ2NZ_0213, TRANSPOSE_NZ2NZ_012_WITH_N, TRANSPOSE_NZ2ND_012_WITH_N,
    TRANSPOSE_NZ2ND_012_WITHOUT_N, TRANSPOSE_NZ2NZ_012_WITHOUT_N, TRANSPOSE_ND2ND_ONLY, TRANSPOSE_ND_UB_GM,
    TRANSPOSE_GRAD_ND_UB_GM, TRANSPOSE_ND2ND_B16, TRANSPOSE_NCHW2NHWC, TRANSPOSE_NHWC2NCHW,
};
enum class AtomicDtype { ATOMIC_NONE = 0, ATOMIC_F32, ATOMIC_F16, ATOMIC_S16, ATOMIC_S32, ATOMIC_S8, ATOMIC_BF16 };
enum class AtomicOp { ATOMIC_SUM = 0 };

constexpr int32_t MIX = 0;
constexpr int32_t AIC = 1;
constexpr int32_t AIV = 2;

const int32_t DEFAULT_BLK_NUM = 8;
const int32_t DEFAULT_BLK_STRIDE = 1;
const uint8_t DEFAULT_REPEAT_STRIDE = 8;
const uint8_t HALF_DEFAULT_REPEAT_STRIDE = 4;
const uint8_t ONE_FOURTH_DEFAULT_REPEAT_STRIDE = 2;
const uint64_t FULL_MASK = 0xffffffffffffffff;
const int32_t DEFAULT_C0_SIZE = 32;
const int32_t DEFAULT_BLOCK_SIZE = 256;
const int32_t MAX_REPEAT_TIMES = 255;
const int32_t ONE_BYTE_BIT_SIZE = 8;
const uint32_t F32_INF = 0x7f800000;
const uint32_t F32_NEG_INF = 0xff800000;
const uint32_t F32_NAN = 0x7fc00000;
const uint8_t DEFAULT_DATA_COPY_NBURST = 1;
const uint8_t DEFAULT_DATA_COPY_STRIDE = 0;
const int32_t BLOCK_CUBE = 16;
const int32_t CUBE_MAX_SIZE = 256;
const int32_t BYTE_PER_FRACTAL = 512;
const uint16_t ONE_BLK_SIZE = 32;
const int32_t ONE_REPEAT_BYTE_SIZE = 256;
const uint8_t MRG_SORT_ELEMENT_LEN = 4;
const uint8_t VDEQ_TENSOR_SIZE = 16;
const uint8_t PAD_SIZE = 4;
const int32_t NCHW_CONV_ADDR_LIST_SIZE = 16;
const uint32_t HALF_REPEAT_SIZE = 128;
const uint32_t FLOAT_REPEAT_SIZE = 64;
const uint32_t ONE_BLK_HALF_NUM = 16;
const uint32_t ONE_BLK_FLOAT_NUM = 8;
const uint32_t BRCB_BROADCAST_NUMBER = 8;
constexpr int32_t QUE_MAX_EVENT = 8;
constexpr uint64_t MASK_PLACEHOLDER = 0;
constexpr uint64_t MASK_PLACEHOLDER_LIST[2] = {0, 0};

template <typename T, typename U>
struct IsSameType : std::is_same<T, U> {};

template <typename T>
struct TensorTrait {
    using LiteType = T;
};
template <typename T>
struct PrimTOf {
    using type = T;
};
template <typename T>
struct PrimTOf<TensorTrait<T>> {
    using type = T;
};
template <typename T>
using PrimT = typename PrimTOf<T>::type;

// Which memory of the chip a position is.
constexpr Hardware GetPhyType(TPosition position) {
    switch (position) {
        case TPosition::GM: case TPosition::CO2: return Hardware::GM;
        case TPosition::A1: case TPosition::B1: case TPosition::C1: case TPosition::SHM: case TPosition::TSCM: return Hardware::L1;
        case TPosition::A2: return Hardware::L0A;
        case TPosition::B2: return Hardware::L0B;
        case TPosition::C2: return Hardware::BIAS;
        case TPosition::CO1: return Hardware::L0C;
        case TPosition::C2PIPE2GM: return Hardware::FIXBUF;
        default: return Hardware::UB;
    }
}

constexpr int16_t GetDataBlockSizeInBytes() { return ONE_BLK_SIZE; }

template <typename T>
constexpr T AlignUp(T value, T multiple) {
    return multiple == 0 ? value : T((value + multiple - 1) / multiple * multiple);
}

}  // namespace AscendC

namespace sim {

constexpr Space space_of(AscendC::TPosition position) {
    constexpr Space spaces[] = {Space::GM, Space::UB, Space::L1, Space::L0A, Space::L0B, Space::L0C, Space::BT, Space::FB};
    return spaces[int(AscendC::GetPhyType(position))];
}

inline const char* position_name(AscendC::TPosition position) {
    static const char* const names[] = {"GM", "A1", "A2", "B1", "B2", "C1", "C2", "CO1", "CO2", "VECIN", "VECOUT", "VECCALC",
                                        "SPM", "TSCM", "C2PIPE2GM", "C2PIPE2LOCAL", "MAX"};
    return names[int(position)];
}

struct PipePair {
    Pipe from, to;
};

// The pipes of an event, in the order of the enumeration.
constexpr PipePair pipes_of(AscendC::HardEvent event) {
    constexpr Pipe s = Pipe::S, v = Pipe::V, m = Pipe::M, t1 = Pipe::MTE1, t2 = Pipe::MTE2, t3 = Pipe::MTE3, f = Pipe::FIX;
    constexpr PipePair pairs[] = {{t2, t1}, {t1, t2}, {t1, m}, {m, t1}, {t2, v}, {v, t2}, {t3, v}, {v, t3}, {m, v}, {v, m}, {v, v},
                                  {t3, t1}, {t1, t3}, {t1, v}, {t2, m}, {m, t2}, {v, t1}, {m, f}, {f, m}, {t3, t2}, {t2, t3},
                                  {s, v}, {v, s}, {s, t2}, {t2, s}, {s, t3}, {t3, s}, {t2, f}, {f, t2}, {f, s}, {m, s}, {f, t3},
                                  {t1, f}, {f, t1}, {f, f}, {s, s}};
    return pairs[int(event)];
}

}  // namespace sim
