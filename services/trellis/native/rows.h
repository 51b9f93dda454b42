// Loops over the rows of a tensor, and over the numbers of a row.
#pragma once
#include <algorithm>

#include "vectors.h"

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one

constexpr int64_t WORTH_THREADS = 32768;  // numbers from which waking a second thread pays

template <class Work>
void for_rows(int64_t rows, int64_t numbers, int threads, const Work &work) {
  if (threads == 1 || numbers < WORTH_THREADS) {
    for (int64_t row = 0; row < rows; row++) work(row);
    return;
  }
  int64_t piece = std::max<int64_t>(1, rows / (8 * threads));  // whoever is held up takes fewer
#pragma omp parallel for num_threads(threads) schedule(dynamic, piece)
  for (int64_t row = 0; row < rows; row++) work(row);
}

// Calls with the place of each 16 numbers and how many they are; 16 is a constant where it can be.
template <class Work>
TRELLIS_INLINE void for_vectors(int64_t size, const Work &work) {
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) work(i, LANES);
  if (i < size) work(i, (int)(size - i));
}

template <class T>
TRELLIS_INLINE f32x16 read(const T *from, int n) {
  return n == LANES ? load(from) : load(from, n);
}

template <class T>
TRELLIS_INLINE void put(T *to, f32x16 value, int n) {
  if (n == LANES)
    store(to, value);
  else
    store(to, value, n);
}

}  // namespace
}  // namespace trellis
