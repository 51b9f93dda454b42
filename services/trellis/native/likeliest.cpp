// The highest number of each row and where it is: as PyTorch and NumPy say it, the first of equals, or the first NaN.
#include <limits>

#include "rows.h"

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one

constexpr int VECTORS = 4, STRIDE = VECTORS * LANES;

TRELLIS_INLINE bool any(i32x16 where) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)where, (__m512i)where) != 0;
#else
  uint64_t words[8];
  std::memcpy(words, &where, sizeof(words));
  return words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7];
#endif
}

// The highest number of a row, or NaN if there is one.
template <class T>
float highest(const T *row, int64_t size) {
  f32x16 tops[VECTORS];
  i32x16 nans = {};
  for (f32x16 &top : tops) top = splat(-std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + STRIDE <= size; i += STRIDE)
    for (int v = 0; v < VECTORS; v++) {
      f32x16 each = load(row + i + v * LANES);
      tops[v] = select(each > tops[v], each, tops[v]);
      nans |= each != each;
    }
  float top = largest(select(tops[0] > tops[1], tops[0], tops[1])), other = largest(select(tops[2] > tops[3], tops[2], tops[3]));
  top = std::max(top, other);
  bool has_nan = any(nans);
  for (; i < size; i++) {
    float each = to_float(row[i]);
    top = std::max(top, each);
    has_nan |= each != each;
  }
  return has_nan ? std::numeric_limits<float>::quiet_NaN() : top;
}

template <class T>
int64_t first_of(const T *row, int64_t size, float value) {
  bool is_nan = value != value;
  int64_t i = 0;
  for (; i + STRIDE <= size; i += STRIDE) {
    i32x16 found = {};
    for (int v = 0; v < VECTORS; v++) {
      f32x16 each = load(row + i + v * LANES);
      found |= is_nan ? each != each : each == value;
    }
    if (any(found)) break;
  }
  for (; i < size; i++) {
    float each = to_float(row[i]);
    if (is_nan ? each != each : each == value) return i;
  }
  return 0;
}

template <class T>
void likeliest(const T *rows, int64_t stride, int64_t count, int64_t size, float *values, int64_t *places, int threads) {
  for_rows(count, count * size, threads, [&](int64_t number) {
    const T *row = rows + number * stride;
    values[number] = highest(row, size);
    places[number] = first_of(row, size, values[number]);
  });
}

}  // namespace
}  // namespace trellis

extern "C" void trellis_likeliest(const void *rows, int64_t stride, int64_t count, int64_t size, float *values, int64_t *places, int is_bf16, int threads) {
  using namespace trellis;
  if (is_bf16)
    likeliest((const bf16 *)rows, stride, count, size, values, places, threads);
  else
    likeliest((const float *)rows, stride, count, size, values, places, threads);
}
