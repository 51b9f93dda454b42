// Rows of x Wᵀ + bias, for kernels that do more with them. Only where `trellis_has_linear` says so.
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

// A piece of memory, not empty, that is read after a product and fetched during it.
struct Piece {
  const char *at, *end;
};

// All rows, by all threads; thread t of n fetches the pieces t, t + n, … .
template <class T>
void multiply_all(const LinearRows<T> &call, int64_t rows, const Piece *next, int64_t count, int threads);

}  // namespace trellis
