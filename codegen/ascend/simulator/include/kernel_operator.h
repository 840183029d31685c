// The AscendC library of the simulator: the vendor's names and signatures, our implementation.
// A kernel includes this file here and the toolkit's file of the same name on a machine with CANN; see ../README.md.
#pragma once

#include "ascendc/cube.h"
#include "ascendc/data_copy.h"
#include "ascendc/queue.h"
#include "ascendc/sync.h"
#include "ascendc/vector_arithmetic.h"
#include "ascendc/vector_convert.h"
#include "ascendc/vector_data.h"
#include "ascendc/vector_reduce.h"
#include "ascendc/vector_select.h"
#include "ascendc/vector_sort.h"
