// A bank's tensors of one group of linears, and which rows of a batch have which adapter, as trellis.native.lora has them.
#pragma once
#include <cstdint>

namespace trellis {

struct Group {
  const void *a;           // (bank rows, parts, in)
  const void *b;           // (bank rows, out)
  const float *scale;      // (slots, parts)
  const int32_t *offsets;  // (parts + 1): the columns of each part
  int64_t parts, in, out;
};

struct Segment {
  int32_t token, tokens;  // rows of x and y
  int32_t row, rows;      // of the bank
  int32_t slot;
};

}  // namespace trellis
