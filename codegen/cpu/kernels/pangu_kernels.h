// pangu_kernels.h: what generated code calls besides its own loops.
//
// Every output element is computed by the same sequence of operations whatever the number of rows or threads, so a
// token's logits do not depend on which other tokens were in the call. (Speculation relies on it.)
#pragma once

#include "pangu_parallel.h"

#include "pangu_math.h"

#include "pangu_simd.h"

#include "pangu_matmul.h"

#include "pangu_quant.h"

#include "pangu_linear.h"

#include "pangu_select.h"

#include "pangu_fused.h"

#include "pangu_norm.h"

#include "pangu_streams.h"

#include "pangu_mla.h"

#include "pangu_attention.h"

#include "pangu_codes.h"

#include "pangu_index.h"

#include "pangu_dsa.h"

#include "pangu_moe.h"

#include "pangu_mtp.h"
