// Rows of x Wᵀ + bias in fp32, for kernels that do more with them while they lie in the cache. Only where
// `trellis_has_linear` says so.
#pragma once
#include <cstdint>

namespace trellis {

struct LinearRows {
  const float *x;
  int64_t x_stride;
  const float *weight;  // in strips
  const float *bias;    // or none
  float *y;
  int64_t y_stride;
  int64_t in_features, out_features;
};

// The rows from..to, by the calling thread; the same bits as in any other cut.
void multiply_rows(const LinearRows &call, int64_t from, int64_t to);

}  // namespace trellis
