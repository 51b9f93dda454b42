// Sixteen numbers at a time, on any CPU: GCC's vector types, and AVX-512 instructions where the compiler may use them.
//
// bf16 weights are multiplied in pairs: the dot product of 32 bf16 numbers with 32 others is added to 16 fp32 sums. Every
// kernel adds the terms of one result in one fixed order, whatever else is computed beside it, so that a row's bits depend
// on the row alone.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace trellis {

#define TRELLIS_INLINE inline __attribute__((always_inline))

typedef float f32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));

struct bf16 {
  uint16_t bits;
};

constexpr int LANES = 16;
#if defined(__AVX512F__)
constexpr bool WIDE = true;  // 32 registers of 16 numbers
#else
constexpr bool WIDE = false;
#endif

template <class V>
TRELLIS_INLINE V load_bits(const void *from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

TRELLIS_INLINE f32x16 splat(float x) { return f32x16{} + x; }

// ---- fp32 numbers <-> their storage ----

TRELLIS_INLINE f32x16 load(const float *from) { return load_bits<f32x16>(from); }

TRELLIS_INLINE f32x16 load(const bf16 *from) {
  u32x16 wide = __builtin_convertvector(load_bits<u16x16>(from), u32x16) << 16;
  return (f32x16)wide;
}

TRELLIS_INLINE void store(float *to, f32x16 value) { std::memcpy(to, &value, sizeof(value)); }

// To the nearest bf16, ties to even; a NaN stays one.
TRELLIS_INLINE u16x16 rounded(f32x16 value) {
#if defined(__AVX512BF16__)
  __m256bh half = _mm512_cvtneps_pbh((__m512)value);
  return load_bits<u16x16>(&half);
#else
  u32x16 bits = (u32x16)value;
  u32x16 near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  u32x16 quiet = (bits >> 16) | 0x40u;
  u32x16 is_nan = (u32x16)(value != value);
  return __builtin_convertvector((near & ~is_nan) | (quiet & is_nan), u16x16);
#endif
}

TRELLIS_INLINE void store(bf16 *to, f32x16 value) {
  u16x16 half = rounded(value);
  std::memcpy(to, &half, sizeof(half));
}

// The first n of 16, zeros (never a neighbour's numbers) behind them.
TRELLIS_INLINE f32x16 load(const float *from, int n) {
  float lanes[LANES] = {};
  std::memcpy(lanes, from, n * sizeof(float));
  return load(lanes);
}

TRELLIS_INLINE f32x16 load(const bf16 *from, int n) {
  bf16 lanes[LANES] = {};
  std::memcpy(lanes, from, n * sizeof(bf16));
  return load(lanes);
}

TRELLIS_INLINE void store(float *to, f32x16 value, int n) { std::memcpy(to, &value, n * sizeof(float)); }

TRELLIS_INLINE void store(bf16 *to, f32x16 value, int n) {
  u16x16 half = rounded(value);
  std::memcpy(to, &half, n * sizeof(bf16));
}

TRELLIS_INLINE float to_float(float x) { return x; }

TRELLIS_INLINE float to_float(bf16 x) {
  uint32_t bits = (uint32_t)x.bits << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// ---- dot products: a pack is 16 fp32 numbers or 16 pairs of bf16 ones ----

template <class T>
struct Dots;

template <>
struct Dots<float> {
  static constexpr int STEP = 16, PAIR = 1;
  typedef f32x16 Pack;
  static TRELLIS_INLINE Pack of(float x) { return splat(x); }
  static TRELLIS_INLINE Pack splat_at(const float *x) { return splat(*x); }
  static TRELLIS_INLINE f32x16 add(f32x16 sum, Pack a, Pack b) { return sum + a * b; }
};

template <>
struct Dots<bf16> {
  static constexpr int STEP = 32, PAIR = 2;
  typedef u32x16 Pack;
  static TRELLIS_INLINE Pack splat_at(const bf16 *pair) {
    uint32_t bits;
    std::memcpy(&bits, pair, sizeof(bits));
    return u32x16{} + bits;
  }
  static TRELLIS_INLINE f32x16 add(f32x16 sum, Pack a, Pack b) {
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum += (f32x16)(a << 16) * (f32x16)(b << 16);
    return sum + (f32x16)(a & 0xffff0000u) * (f32x16)(b & 0xffff0000u);
#endif
  }
};

template <class T>
TRELLIS_INLINE typename Dots<T>::Pack load_pack(const T *from) {
  return load_bits<typename Dots<T>::Pack>(from);
}

template <class T>
TRELLIS_INLINE typename Dots<T>::Pack load_pack(const T *from, int n) {
  T lanes[Dots<T>::STEP] = {};
  std::memcpy(lanes, from, n * sizeof(T));
  return load_pack(lanes);
}

// Two rows of columns as pairs for dot products; without the second one, of those of the first and zeros.
template <int VECTORS>
TRELLIS_INLINE void load_pairs(const bf16 *first, const bf16 *second, u32x16 *pairs) {
  constexpr u16x32 low = {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  static_assert(VECTORS % 2 == 0);
  for (int v = 0; v < VECTORS; v += 2) {
    u16x32 one = load_bits<u16x32>(first + v * LANES), other = {};
    if (second) other = load_bits<u16x32>(second + v * LANES);
    pairs[v] = (u32x16)__builtin_shuffle(one, other, low);
    pairs[v + 1] = (u32x16)__builtin_shuffle(one, other, low + 16);
  }
}

// The same of n columns; of 16 where there are more.
TRELLIS_INLINE u32x16 load_pairs(const bf16 *first, const bf16 *second, int n) {
  u32x16 pairs = (u32x16)(n >= LANES ? load(first) : load(first, n)) >> 16;
  return second ? pairs | (u32x16)(n >= LANES ? load(second) : load(second, n)) : pairs;
}

TRELLIS_INLINE float sum(f32x16 value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)value);
#else
  float lanes[LANES];
  std::memcpy(lanes, &value, sizeof(lanes));
  for (int width = LANES / 2; width; width /= 2)
    for (int lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
  return lanes[0];
#endif
}

// Lane i is the sum of the i-th vector's lanes, added in the order in which `sum` adds them; the vectors are used up.
TRELLIS_INLINE f32x16 lane_sums(f32x16 *vectors) {
  constexpr i32x16 low[4] = {{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
                             {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
                             {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
                             {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30}};
  constexpr i32x16 high[4] = {{8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31},
                              {4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31},
                              {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31},
                              {1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31}};
  for (int round = 0, half = LANES / 2; half; round++, half /= 2)
    for (int i = 0; i < half; i++)
      vectors[i] = __builtin_shuffle(vectors[i], vectors[i + half], low[round]) + __builtin_shuffle(vectors[i], vectors[i + half], high[round]);
  return vectors[0];
}

// Of numbers; a NaN among them may be passed over.
TRELLIS_INLINE float largest(f32x16 value) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)value);
#else
  float lanes[LANES];
  std::memcpy(lanes, &value, sizeof(lanes));
  for (int width = LANES / 2; width; width /= 2)
    for (int lane = 0; lane < width; lane++) lanes[lane] = lanes[lane] < lanes[lane + width] ? lanes[lane + width] : lanes[lane];
  return lanes[0];
#endif
}

TRELLIS_INLINE f32x16 select(i32x16 where, f32x16 yes, f32x16 no) {
  return (f32x16)(((i32x16)yes & where) | ((i32x16)no & ~where));
}

// e^x within 2 ulp; 0 below -87, that of 88 above it; NaN stays NaN. (Cody and Waite's reduction, Cephes' polynomial.)
TRELLIS_INLINE f32x16 exponential(f32x16 x) {
  f32x16 low = splat(-87.3f), high = splat(88.0f);
  i32x16 vanishes = x < low;
  f32x16 clamped = select(vanishes, low, select(x > high, high, x));
  const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  f32x16 shifted = clamped * 1.44269504088896341f + shift;
  f32x16 n = shifted - shift;
  f32x16 r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  f32x16 p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  i32x16 power = ((i32x16)shifted - 0x4b400000 + 127) << 23;
  return (f32x16)((i32x16)(p * (f32x16)power) & ~vanishes);
}

}  // namespace trellis
