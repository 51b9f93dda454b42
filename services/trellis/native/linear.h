// Rows of x Wᵀ + bias, for kernels that do more with them while they lie in the cache. Only where
// `trellis_has_linear` says so.
#pragma once
#include <cstdint>

namespace trellis {

template <class T>
struct LinearRows {
  const T *x;
  int64_t x_stride;
  const T *weight;    // in strips
  const float *bias;  // or none
  T *y;
  int64_t y_stride;
  int64_t in_features, out_features;
};

// The rows from..to, by the calling thread; the same bits as in any other cut.
template <class T>
void multiply_rows(const LinearRows<T> &call, int64_t from, int64_t to);

}  // namespace trellis
